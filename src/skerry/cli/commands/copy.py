"""`cp`: files between a container and here, by tar streams.

Which name a copy gets follows cp(1) and Docker: into a folder that exists, else as the last name of
the destination; `SOURCE/.` copies what a folder holds.
"""

from __future__ import annotations

import base64
import io
import os
import stat

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli.commands.archives import read_file
from skerry.cli.context import Context, err, terminal, write
from skerry.cli.human import size_decimal
from skerry.cli.options import Command, Parsed, switch
from skerry.sdk import wire
from skerry.sdk.client import query, quote
from skerry.sdk.unpack import ChunkFile, Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

_GO_DIRECTORY, _GO_SYMLINK = 1 << 31, 1 << 27
"""Bits of Go's os.FileMode, which the API's path status carries."""
_HOPS = 40


def copy(context: Context, parsed: Parsed) -> int:
    """One of source and destination is CONTAINER:PATH; `-` is a tar stream."""
    source, target = parsed.arguments
    source_name, source_path = split(source)
    target_name, target_path = split(target)
    if source_name and target_name:
        raise InvalidInput("copying between containers is not supported")
    if not source_name and not target_name:
        raise InvalidInput("one of source and destination must be CONTAINER:PATH")
    if source_name:
        return _out(context, parsed, source_name, source_path, target)
    return _in(context, parsed, source, target_name, target_path)


def split(text: str) -> tuple[str, str]:
    """Container and path; no container for a local path. A path that begins with / or . is local,
    even with a colon in it."""
    if text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    return (container, path) if colon else ("", text)


class PathStatus:
    """What the engine says of a path in a container (X-Docker-Container-Path-Stat)."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.name = str(facts.get("name") or "")
        mode = int(facts.get("mode") or 0)
        self.is_directory = bool(mode & _GO_DIRECTORY)
        self.is_link = bool(mode & _GO_SYMLINK)
        self.link = str(facts.get("linkTarget") or "")
        self.size = int(facts.get("size") or 0)


def path_status(context: Context, container: str, path: str) -> PathStatus:
    """NotFound when there is no such path, or no such container."""
    target = f"/containers/{quote(container)}/archive{query(path=path)}"
    response = context.client.open("HEAD", target) if path else None
    if response is None:
        raise InvalidInput("the path in the container is empty")
    response.connection.close()
    try:
        raw = base64.b64decode(response.headers.get("x-docker-container-path-stat", ""))
    except ValueError:
        raw = b""
    facts = wire.loads(raw)
    return PathStatus(facts if isinstance(facts, dict) else {})


def _missing(error: NotFound, container: str, path: str) -> NotFound:
    """An answer to HEAD has no body that would say which of the two is missing."""
    if "no reason" not in error.message:
        return error
    return NotFound(f"no path {path} in the container {container}, or no such container")


def _out(context: Context, parsed: Parsed, container: str, path: str, target: str) -> int:
    try:
        status = path_status(context, container, path)
        hops = 0
        while parsed.on("follow-link") and status.is_link and hops < _HOPS:
            path = os.path.normpath(os.path.join(os.path.dirname(path) or "/", status.link))
            status = path_status(context, container, path)
            hops += 1
    except NotFound as error:
        raise _missing(error, container, path) from None
    response = context.client.open(
        "GET", f"/containers/{quote(container)}/archive{query(path=path)}"
    )
    try:
        if target == "-":
            if terminal(1):
                raise InvalidInput("refusing to write a tar stream to a terminal")
            for chunk in response.chunks():
                write(1, chunk)
            return 0
        content = path.endswith(("/.", "/")) and status.is_directory
        folder, name = _local_place(target, status, content=path.endswith("/.") and content)
        file = ChunkFile(response.chunks())
        unpacker = Unpacker(folder, archive=parsed.on("archive"))
        try:
            base = _archive_base(path, status)
            unpacker.unpack(file, base=base, name=name)
        finally:
            unpacker.close()
        _done(parsed, file.count, target)
    finally:
        response.connection.close()
    return 0


def _archive_base(path: str, status: PathStatus) -> str:
    """The first name in the stream of `path`; empty when the stream holds a folder's content."""
    last = os.path.basename(path.rstrip("/"))
    if last in ("", ".", ".."):
        # The engine names such a stream's entries after the folder, or `./`, or `/`.
        return "" if last in ("", ".") or status.name == "/" else status.name
    return last


def _local_place(target: str, status: PathStatus, *, content: bool) -> tuple[str, str]:
    """(folder to unpack into, name that the source gets there; empty: its content)."""
    exists = os.path.lexists(target)
    if os.path.isdir(target):
        # The container's root has no name that its copy could get.
        return target, "" if content or status.name == "/" else status.name
    if target.endswith("/") and not status.is_directory:
        raise InvalidInput(f"the folder {target} does not exist")
    if exists and status.is_directory:
        raise InvalidInput(f"cannot copy a folder to the file {target}")
    folder, name = os.path.split(target.rstrip("/"))
    folder = folder or "."
    if not os.path.isdir(folder):
        raise InvalidInput(f"the folder {folder} does not exist")
    return folder, name


def _in(context: Context, parsed: Parsed, source: str, container: str, path: str) -> int:
    if not path:
        raise InvalidInput("the path in the container is empty")
    path, status = _resolve(context, container, path)
    if source == "-":
        if status is None or not status.is_directory:
            raise InvalidInput(f"destination {container}:{path} must be a folder for a tar stream")
        _put(context, parsed, container, path, read_file("-"))
        return 0
    local = source.rstrip("/") or "/"
    content = source.endswith("/.")
    if content:
        local = source[:-2] or "/"
    try:
        info = os.stat(local) if parsed.on("follow-link") or content else os.lstat(local)
    except OSError as error:
        raise NotFound(f"cannot read {source}: {error.strerror}") from None
    folder, name = _remote_place(
        f"{container}:{path}",
        path,
        status,
        os.path.basename(os.path.abspath(local)),
        directory=stat.S_ISDIR(info.st_mode),
        content=content,
    )
    counted = [0]
    follow = parsed.on("follow-link")
    stream = _pack(local, name, follow=follow, archive=parsed.on("archive"), counted=counted)
    _put(context, parsed, container, folder, stream)
    _done(parsed, counted[0], f"{container}:{path}")
    return 0


def _resolve(context: Context, container: str, path: str) -> tuple[str, PathStatus | None]:
    """The path with its last links followed (by the container's own root, which is the engine's
    business) and its status; None when nothing is there."""
    for _ in range(_HOPS):
        try:
            status = path_status(context, container, path)
        except NotFound:
            return path, None
        if not status.is_link:
            return path, status
        path = os.path.normpath(os.path.join(os.path.dirname(path.rstrip("/")), status.link))
    raise InvalidInput(f"too many levels of symbolic links at {container}:{path}")


def _remote_place(
    shown: str, path: str, status: PathStatus | None, name: str, *, directory: bool, content: bool
) -> tuple[str, str]:
    if status and status.is_directory:
        return path, "" if content else name
    if status:
        if directory:
            raise InvalidInput(f"cannot copy a folder to the file {shown}")
    elif path.endswith("/") and not directory:
        raise InvalidInput(f"the folder {shown} does not exist")
    folder, last = os.path.split(path.rstrip("/"))
    return folder or "/", last


def _pack(
    local: str, name: str, *, follow: bool, archive: bool, counted: list[int]
) -> Iterator[bytes]:
    """A tar stream of `local` under `name`; an empty name gives a folder's content."""

    import tarfile

    # Only for gettarinfo, which knows hard links from the inodes it has seen.
    reader = tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT)
    for path, inner in _walk(local, name, follow=follow):
        reader.dereference = follow and path == local
        entry: tarfile.TarInfo | None = reader.gettarinfo(path, inner)
        if entry is None:
            continue  # a socket
        if not archive:
            entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, "root", "root"
        for data in _entry(entry, path):
            counted[0] += len(data)
            yield data
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(entry: tarfile.TarInfo, path: str) -> Iterator[bytes]:
    """A header and the content in pieces, exactly as many bytes as the header says."""
    import tarfile

    yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if not entry.isreg():
        return
    left = entry.size
    with open(path, "rb") as file:
        while left:
            block = min(left, 1 << 18)
            # A file that shrinks meanwhile is filled up with zeros, as tar(1) does.
            data = file.read(block) or bytes(block)
            left -= len(data)
            yield data
    yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _walk(local: str, name: str, *, follow: bool) -> Iterator[tuple[str, str]]:
    """(path, name in the archive), folders before what they hold, sorted."""
    if name:
        yield local, name
    if (follow and os.path.isdir(local)) or (os.path.isdir(local) and not os.path.islink(local)):
        for item in sorted(os.listdir(local)):
            inner = f"{name}/{item}" if name else item
            yield from _walk(os.path.join(local, item), inner, follow=False)


def _put(
    context: Context, parsed: Parsed, container: str, folder: str, body: Iterator[bytes]
) -> None:
    target = f"/containers/{quote(container)}/archive" + query(
        path=folder,
        noOverwriteDirNonDir=True,
        copyUIDGID=True if parsed.on("archive") else None,
    )
    try:
        response = context.client.open("PUT", target, body, {"Content-Type": "application/x-tar"})
    except OSError as error:
        raise InvalidInput(f"cannot read what is to be copied: {error.strerror}") from None
    response.read()
    response.connection.close()


def _done(parsed: Parsed, count: int, target: str) -> None:
    if not parsed.on("quiet", not terminal(2)):
        err(f"Successfully copied {size_decimal(count, 3)} to {target}")


COMMANDS = {
    "cp": Command(
        copy,
        "Copy files between a container and here",
        "CONTAINER:SOURCE TARGET|- | SOURCE|- CONTAINER:TARGET",
        (
            switch("archive", "Keep owners and modes as they are", "a"),
            switch("follow-link", "Copy what a symbolic link points to", "L"),
            switch("quiet", "Do not say what was copied", "q"),
        ),
        least=2,
        most=2,
        complete="copy",
    )
}
