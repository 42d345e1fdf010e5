"""What the blocking and the asynchronous sandbox share: words, requests, archives. Pure."""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.base.errors import CommandFailed, InvalidInput, LimitExceeded
from skerry.sdk import requests
from skerry.sdk.http import query, quote
from skerry.sdk.requests import Environment, Request
from skerry.sdk.unpack import ChunkFile, Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LABEL = "org.skerry.sandbox"
"""Every sandbox's container has it, so that what a killed client left can be found."""
ISOLATIONS = {"container": "", "vm": "skerry-vm"}
"""The wall, and the runtime that the API knows it by."""
KEEP_ALIVE = ("sleep", "infinity")
BASES = ("busybox", "debian", "alpine")
"""Images that the engine can make itself."""
MOST_BYTES = 1 << 30
"""Of one file that is read into memory."""


class Result(NamedTuple):
    """How a command ended and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; what is not UTF-8 shows as U+FFFD."""
        return self.stdout.decode(errors="replace")

    def check(self) -> Result:
        """Itself; CommandFailed when the exit code is not 0."""
        if self.exit_code:
            last = self.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise CommandFailed(
                f"the command ended with exit code {self.exit_code}: {last[0][:500]}",
                exit_code=self.exit_code,
            )
        return self


class Snapshot(NamedTuple):
    """A point to go back to; `sandbox.restore(snapshot)`."""

    id: str
    name: str
    kind: str
    """disk, or machine when memory and devices are in it too."""
    created: int
    parent: str
    size: int


class Entry(NamedTuple):
    """One entry of a folder. `mode` as stat(2) has it, `modified` in seconds since the epoch."""

    name: str
    size: int
    mode: int
    modified: float
    target: str

    @property
    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


class ForkFailure(NamedTuple):
    """A copy that could not be made or started."""

    name: str
    error: str


class Wanted(NamedTuple):
    """What a sandbox is made from."""

    image: str
    isolation: str = "container"
    name: str = ""
    environment: Environment | None = None
    working_dir: str = ""
    user: str = ""
    memory: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    network: str = "none"
    volumes: list[str] | None = None
    labels: dict[str, str] | None = None
    lifetime: float | None = None
    keep_alive: tuple[str, ...] = KEEP_ALIVE
    options: dict[str, Any] | None = None

    def request(self) -> Request:
        """The container of it. InvalidInput."""
        if self.isolation not in ISOLATIONS:
            raise InvalidInput(f"isolation is container or vm, not {self.isolation!r:.40}")
        command = list(self.keep_alive)
        if self.lifetime is not None:
            if self.keep_alive != KEEP_ALIVE or not self.lifetime > 0:
                raise InvalidInput("a lifetime is a positive time, and needs the default program")
            command = ["sleep", f"{self.lifetime:.3f}".rstrip("0").rstrip(".")]
        options = dict(self.options or {})
        host = dict(options.pop("host_config", None) or {})
        if runtime := ISOLATIONS[self.isolation]:
            host["Runtime"] = runtime
        return requests.create_container(
            self.image,
            entrypoint=command[:1],
            command=command[1:],
            name=self.name,
            environment=self.environment,
            working_dir=self.working_dir,
            user=self.user,
            memory=self.memory,
            cpus=self.cpus,
            pids_limit=self.pids_limit,
            network=self.network,
            volumes=self.volumes,
            labels={**(self.labels or {}), LABEL: self.isolation},
            auto_remove=self.lifetime is not None,
            init=None if self.isolation == "vm" else True,
            host_config=host,
            **options,
        )


def obtain(image: str) -> tuple[str, bool]:
    """How to get an image that is not here: its name, and whether the engine makes it itself."""
    name, tag = requests.split_name(image)
    if name in BASES:
        return (name if name == "busybox" or tag == "latest" else f"{name}:{tag}"), True
    return image, False


def snapshot_of(answer: dict[str, Any]) -> Snapshot:
    """As the API tells of one."""
    return Snapshot(
        answer["Id"],
        answer["Name"],
        answer["Kind"],
        answer["Created"],
        answer["Parent"],
        answer["Size"],
    )


def entries_of(answer: list[dict[str, Any]]) -> list[Entry]:
    """As the API tells of a folder."""
    return [
        Entry(each["Name"], each["Size"], each["Mode"], each["ModifiedNs"] / 1e9, each["Target"])
        for each in answer
    ]


def files_target(id: str, path: str) -> str:
    """GET /skerry/files/ID."""
    return f"/skerry/files/{quote(id)}" + query(path=path)


def packed(path: str, data: bytes, mode: int) -> bytes:
    """A tar archive with one file, to be unpacked at `/`; folders above it are made."""
    entry = tarfile.TarInfo(_inner(path))
    entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def packed_local(local: str, path: str) -> bytes:
    """A tar archive of a local file or folder under another name, to be unpacked at `/`."""
    out = io.BytesIO()
    try:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(local, _inner(path), filter=_as_root)
    except OSError as error:
        raise InvalidInput(f"cannot read {error.filename or local}: {error.strerror}") from None
    return out.getvalue()


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _inner(path: str) -> str:
    clean = posixpath.normpath("/" + path).strip("/")
    if not path.startswith("/") or not clean:
        raise InvalidInput(f"not the absolute path of a file: {path!r:.200}")
    return clean


def content_of(pieces: Iterable[bytes], path: str) -> bytes:
    """The bytes of the only file in an archive; LimitExceeded above MOST_BYTES."""
    try:
        with tarfile.open(fileobj=io.BytesIO(gather(pieces, path)), mode="r|") as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    return file.read()
                break
    except tarfile.TarError as error:
        raise InvalidInput(f"the archive of {path} is broken: {error}") from None
    raise InvalidInput(f"{path} is not a file")


def unpack_local(pieces: Iterator[bytes], path: str, local: str) -> None:
    """Make what the archive of `path` holds to `local`, which becomes that file or folder.

    The archive is the guest's: nothing outside `local` is written, and no device is made.
    """
    folder, name = os.path.split(os.path.abspath(local))
    unpacker = Unpacker(folder)
    try:
        unpacker.unpack(ChunkFile(pieces), base=posixpath.basename(_inner(path)), name=name)
    finally:
        unpacker.close()


def gather(pieces: Iterable[bytes], what: str) -> bytes:
    """All pieces as one, in memory; LimitExceeded above MOST_BYTES."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > MOST_BYTES:
            raise LimitExceeded(
                f"{what} holds more than {MOST_BYTES} bytes", hint="download() streams to a file"
            )
    return bytes(data)
