"""Where a build's files come from: a folder, an archive, standard input, an address."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.cli.context import err, terminal, visible
from skerry.cli.options import Parsed
from skerry.sdk import builds, packing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_LAYOUT = "oci-layout://"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""gzip, bzip2, xz, zstd."""
_MAX_DOCKERFILE = 16 << 20
_PIECE = 1 << 18


class Contexts:
    """`archives` are to be sent, by name; `body` says the rest."""

    def __init__(self) -> None:
        self.archives: dict[str, Iterable[bytes]] = {}
        self.body: dict[str, Any] = {}


def gather(parsed: Parsed, main: str) -> Contexts:
    """The main context and those that --build-context names. NotFound, InvalidInput."""
    found = Contexts()
    file = parsed.text("file")
    if main == "-" and file == "-":
        raise InvalidInput("the context and the Dockerfile cannot both come from standard input")
    if main == "-":
        _from_input(found, file)
    elif is_remote(main):
        found.body["Remote"] = main
        _elsewhere(found, file)
    elif os.path.isfile(main):
        found.archives[builds.MAIN] = pieces(os.open(main, os.O_RDONLY | os.O_CLOEXEC))
        _elsewhere(found, file)
    elif file == "-":
        found.archives[builds.MAIN] = builds.local_context(found.body, main, skipped=_skipped)
        found.body["DockerfileContent"] = _text(b"".join(pieces(0)))
    else:
        found.archives[builds.MAIN] = builds.local_context(found.body, main, file, _skipped)
    for item in parsed.many("build-context"):
        _named(found, item)
    return found


def _skipped(path: str) -> None:
    err(f"skerry: {visible(path)} is a socket: left out of the context")


def is_remote(text: str) -> bool:
    """Whether the engine has to fetch it."""
    return text.startswith(_REMOTE)


def _elsewhere(found: Contexts, file: str) -> None:
    if file == "-":
        found.body["DockerfileContent"] = _text(b"".join(pieces(0)))
    elif file:
        found.body["Dockerfile"] = file


def _from_input(found: Contexts, file: str) -> None:
    """An archive, or else a Dockerfile that needs no files."""
    if terminal(0):
        err("skerry: reading the Dockerfile from the terminal; end it with ctrl-d")
    first = b""
    while len(first) < 512 and (data := os.read(0, _PIECE)):
        first += data
    if is_archive(first):
        found.archives[builds.MAIN] = pieces(0, first)
        if file:
            found.body["Dockerfile"] = file
        return
    found.body["DockerfileContent"] = _text(b"".join(pieces(0, first)))


def is_archive(first: bytes) -> bool:
    """By the first 512 bytes: a tar, plain or compressed."""
    return first[257:262] == b"ustar" or first.startswith(_MAGIC)


def pieces(fd: int, first: bytes = b"") -> Iterator[bytes]:
    """What a descriptor has, which is closed at the end unless it is standard input."""
    try:
        if first:
            yield first
        while data := os.read(fd, _PIECE):
            yield data
    finally:
        if fd:
            os.close(fd)


def _text(data: bytes) -> str:
    if len(data) > _MAX_DOCKERFILE:
        raise InvalidInput(f"the Dockerfile has more than {_MAX_DOCKERFILE} bytes")
    return builds.as_text(data, "the Dockerfile from standard input")


def _named(found: Contexts, item: str) -> None:
    name, equals, source = item.partition("=")
    if not equals or not name or not source:
        raise InvalidInput(
            f"invalid build context {item!r:.120}", hint="write it as NAME=FOLDER or NAME=URL"
        )
    if source.startswith(("docker-image://", "target:")) or is_remote(source):
        found.body.setdefault("Contexts", {})[name] = source
    elif source.startswith(_LAYOUT):
        found.archives[f"oci-layout:{name}"] = _layout(source.removeprefix(_LAYOUT))
    elif os.path.isfile(source):
        found.archives[name] = pieces(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    else:
        rules = packing.rules_of(source, os.path.join(source, "Dockerfile"))
        found.archives[name] = packing.pack(source, rules, skipped=_skipped)


def _layout(text: str) -> Iterator[bytes]:
    """`FOLDER`, `FOLDER:TAG` or `FOLDER@DIGEST` as an archive."""
    from skerry.cli import layouts

    folder, reference = text, ""
    if not os.path.isdir(folder):
        folder, at, reference = text.rpartition("@")
        if not at:
            folder, colon, reference = text.rpartition(":")
            if not colon or "/" in reference:
                folder, reference = text, ""
    return layouts.read(folder, reference)
