"""`copy`: an image from one place to another, over the engine.

Files, folders and Docker's socket are the client's: what is read from them streams to the engine,
and what the engine answers is written to them. Only `skerry:` and `docker://` are the engine's own.
"""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, SystemFault
from skerry.cli import layouts
from skerry.cli.commands.archives import check_file, read_file, save_response
from skerry.cli.commands.pull import show_progress
from skerry.cli.context import Context, err
from skerry.cli.options import Command, Parsed, switch, text
from skerry.sdk.client import Client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OCI, OCI_ARCHIVE, DOCKER_ARCHIVE = "oci", "oci-archive", "docker-archive"
DAEMON, REGISTRY, SKERRY = "docker-daemon", "docker", "skerry"
TRANSPORTS = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE, DAEMON, REGISTRY, SKERRY)
_FILES = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE)
_KIND = {REGISTRY: "registry", SKERRY: "image"}
_DOCKER_SOCKET = "unix:///var/run/docker.sock"
_TAR = {"Content-Type": "application/x-tar"}


class Place:
    """One end of a copy: `transport:path[:reference]` or `transport:reference`."""

    __slots__ = ("path", "reference", "transport")

    def __init__(self, transport: str, path: str, reference: str) -> None:
        self.transport = transport
        self.path = path
        self.reference = reference

    @property
    def kind(self) -> str:
        """As the engine calls it."""
        return _KIND.get(self.transport, "archive")


def parse_place(text: str) -> Place:
    """What a user wrote; InvalidInput."""
    transport, colon, rest = text.partition(":")
    if not colon or transport not in TRANSPORTS:
        raise InvalidInput(
            f"{text!r:.200} names no place",
            hint="write oci:DIR[:TAG], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], "
            "docker-daemon:NAME, docker://NAME or skerry:NAME",
        )
    if transport == REGISTRY:
        if not rest.startswith("//"):
            raise InvalidInput(f"{text!r:.200}: a registry is written docker://NAME")
        rest = rest[2:]
    if transport not in _FILES:
        if not rest and transport != SKERRY:
            raise InvalidInput(f"{text!r:.200}: the image's name is missing")
        return Place(transport, "", rest)
    path, reference = _split(rest)
    if not path:
        raise InvalidInput(f"{text!r:.200}: the path is missing")
    return Place(transport, path, reference)


def _split(rest: str) -> tuple[str, str]:
    """Path and reference: the first colon ends the path, unless the whole is a file's name."""
    if ":" not in rest or os.path.exists(rest):
        return rest, ""
    path, _, reference = rest.partition(":")
    return path, reference


def copy(context: Context, parsed: Parsed) -> int:
    """One image, or all images of an archive when it names none."""
    source, target = map(parse_place, parsed.arguments)
    if parsed.on("all") and parsed.text("platform"):
        raise InvalidInput("--all and --platform exclude one another")
    quiet = parsed.on("quiet")
    if target.transport in (OCI_ARCHIVE, DOCKER_ARCHIVE):
        check_file(target.path)
    docker = parsed.text("docker-host") or os.environ.get("DOCKER_HOST") or _DOCKER_SOCKET
    name = target.reference
    if not name and target.kind == "archive" and source.kind != "archive":
        # What an engine or a registry calls by an id or a digest has no name to keep.
        name = source.reference if "@" not in source.reference else ""
    parameters = query(
        **{"from": source.kind, "to": target.kind},
        source="" if source.transport == OCI else source.reference,
        target=name,
        format=DOCKER_ARCHIVE if target.transport in (DOCKER_ARCHIVE, DAEMON) else OCI_ARCHIVE,
        compression=parsed.text("compression"),
        platform=parsed.text("platform"),
        all=1 if parsed.on("all") else None,
        referrers=0 if parsed.on("no-referrers") else None,
    )
    headers = (dict(_TAR) if source.kind == "archive" else {}) | _credentials(source, target)
    body = _open(source, docker) if source.kind == "archive" else None
    response = context.client.open("POST", "/skerry/copy" + parameters, body, headers)
    try:
        if target.kind != "archive":
            show_progress(response, quiet=quiet, stream=1)
        elif target.transport == OCI:
            layouts.write(target.path, response.chunks())
        elif target.transport == DAEMON:
            _into_docker(docker, response.chunks())
        else:
            save_response(response, target.path)
    finally:
        response.connection.close()
    if not quiet and target.kind == "archive":
        err(f"copied {parsed.arguments[0]} to {parsed.arguments[1]}")
    return 0


def _credentials(source: Place, target: Place) -> dict[str, str]:
    """Who we are to the registries at both ends."""
    from skerry.cli.registry_auth import headers_for

    headers: dict[str, str] = {}
    if source.transport == REGISTRY:
        headers |= {
            "X-Source-" + name[2:]: each for name, each in headers_for(source.reference).items()
        }
    if target.transport == REGISTRY:
        headers |= headers_for(target.reference)
    return headers


def _open(source: Place, docker: str) -> Iterator[bytes]:
    """The source as an archive; it is opened at once."""
    if source.transport == OCI:
        return layouts.read(source.path, source.reference)
    if source.transport != DAEMON:
        return read_file(source.path)
    response = Client(docker).open("GET", f"/images/{quote(source.reference)}/get")

    def chunks() -> Iterator[bytes]:
        try:
            yield from response.chunks()
        finally:
            response.connection.close()

    return chunks()


def _into_docker(docker: str, chunks: Iterator[bytes]) -> None:
    response = Client(docker).open("POST", "/images/load?quiet=1", chunks, _TAR)
    try:
        for message in response.json_lines():
            if isinstance(message, dict) and message.get("error"):
                raise SystemFault(f"docker load: {message['error']}")
    finally:
        response.connection.close()


COMMANDS = {
    "copy": Command(
        copy,
        "Copy an image between archives, layouts, registries and engines",
        "SOURCE DESTINATION",
        (
            switch("all", "Copy every platform of an index, and the index"),
            text("compression", "Compress an archive: gzip, zstd", "KIND"),
            text("docker-host", "Socket of the Docker engine", "unix:///PATH"),
            switch("no-referrers", "Leave signatures and bills of materials behind"),
            text("platform", "Copy this platform of an index", "OS/ARCH[/VARIANT]"),
            switch("quiet", "Say nothing", "q"),
        ),
        least=2,
        most=2,
    )
}
