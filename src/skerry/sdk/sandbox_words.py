"""What the blocking and the asynchronous sandbox share: words and requests. Pure."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from skerry.base.errors import (
    CommandFailed,
    GuestFault,
    InputRefused,
    InvalidInput,
    OutputExceeded,
    SandboxEnded,
    SkerryError,
    Unavailable,
)
from skerry.sdk import requests, wire
from skerry.sdk.client import error_of
from skerry.sdk.frames import STDERR, STDOUT
from skerry.sdk.requests import Environment, Request

S = TypeVar("S")

LABEL = "org.skerry.sandbox"
"""Every sandbox's container has it, so that what a killed client left can be found."""
ISOLATIONS = {"container": "", "vm": "skerry-vm"}
"""The wall, and the runtime that the API knows it by."""
KEEP_ALIVE = ("sleep", "infinity")
BASES = {"busybox": "latest", "debian": "bookworm", "alpine": "latest"}
"""Images that the engine can make itself, and which it is without a tag."""
MOST_OUTPUT = 64 << 20
"""Bytes of a command's output that are kept, unless the caller says otherwise."""
LONGEST_LINE = 1 << 20
"""Bytes; a longer one comes in pieces."""


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
            # What kept it from starting comes as Docker sends it: on standard output.
            said = self.stderr or (self.stdout if self.exit_code in (126, 127) else b"")
            last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            error = CommandFailed(
                f"the command ended with exit code {self.exit_code}: {last[0][:500]}",
                exit_code=self.exit_code,
            )
            error.stdout, error.stderr = self.stdout, self.stderr
            raise error
        return self


class Output:
    """What a command has written so far, up to a limit in bytes (None: all)."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._streams = {STDOUT: bytearray(), STDERR: bytearray()}
        self._count = 0

    def add(self, stream: int, piece: bytes) -> None:
        """Keep a piece. OutputExceeded, with the limit's worth kept."""
        room = len(piece) if self._most is None else max(0, self._most - self._count)
        self._streams[stream].extend(piece[:room])
        self._count += len(piece)
        if len(piece) > room:
            raise OutputExceeded(
                f"the command wrote more than {self._most} bytes and was killed",
                hint="max_output= is the limit; start() gives output as it comes and keeps none",
            )

    @property
    def stdout(self) -> bytes:
        """Of standard output."""
        return bytes(self._streams[STDOUT])

    @property
    def stderr(self) -> bytes:
        """Of standard error."""
        return bytes(self._streams[STDERR])


class Lines:
    """Cuts (stream, bytes) pieces into (stream, line) pairs."""

    def __init__(self) -> None:
        self._rest = {STDOUT: bytearray(), STDERR: bytearray()}

    def feed(self, stream: int, piece: bytes) -> list[tuple[int, str]]:
        """The lines that a piece completes, without their ends."""
        rest = self._rest[stream]
        rest += piece
        if b"\n" not in piece and len(rest) < LONGEST_LINE:
            return []
        *whole, last = rest.split(b"\n")
        if len(last) >= LONGEST_LINE:
            whole.append(last)
            last = bytearray()
        self._rest[stream] = last
        return [(stream, _text(line)) for line in whole]

    def end(self) -> list[tuple[int, str]]:
        """The last lines, where no line end follows."""
        return [(stream, _text(line)) for stream, line in self._rest.items() if line]


def _text(line: bytearray) -> str:
    return line.decode(errors="replace").removesuffix("\r")


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

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


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
    disk: int | None = None
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
        if self.disk is not None:
            host["StorageOpt"] = {**(host.get("StorageOpt") or {}), "size": str(self.disk)}
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
            # keep_alive reaps nobody: what ran away from a command would stay and count.
            init=True,
            host_config=host,
            **options,
        )


def taking(
    adopt: Callable[[str], S], copies: list[S], failures: list[ForkFailure]
) -> Callable[[list[dict[str, Any]]], None]:
    """What takes the engine's answer to a fork: `adopt` makes a sandbox of an id, also of a copy in
    which something failed, since it runs all the same."""

    def take(answer: list[dict[str, Any]]) -> None:
        for each in answer:
            trouble = each["Error"] or each["Warning"]
            copy = adopt(each["Id"]) if each["Id"] else None
            if trouble:
                failures.append(ForkFailure(each["Name"], trouble))
            elif copy is not None:
                copies.append(copy)

    return take


def forks_of(id: str) -> Request:
    """Asks for the copies of a sandbox, running or not."""
    labels = [LABEL, f"org.skerry.fork-of={id}"]
    return requests.list_containers(all=True, filters={"label": labels})


def code_of(state: dict[str, Any]) -> int | None:
    """The exit code of an exec as the API tells of it; None while it runs.

    Unavailable when its streams were cut with an engine that died; what kept it from starting, when
    that is not its own fault.
    """
    running, code = state["Running"], state["ExitCode"]
    if state.get("Recovered"):
        become = "still runs" if running else f"has ended with exit code {code}"
        raise Unavailable(
            "the engine died while the command ran: its output is lost from there on",
            hint=f"another engine has taken over, and the command {become}",
        )
    if fault := state.get("Fault"):
        raise error_of(int(fault["Status"]), wire.dumps({"message": fault["Message"]}).encode())
    return None if running or code is None else int(code)


def ended(container: dict[str, Any]) -> SandboxEnded:
    """What became of a command whose container ended, by what the API tells of that by now; {} when
    it is removed."""
    state = container.get("State") or {}
    why = "it was out of memory" if state.get("OOMKilled") else str(state.get("Error") or "")
    return SandboxEnded(
        "the sandbox ended while the command ran" + (f": {why[:500]}" if why else "")
    )


def refused(code: int | None) -> InputRefused:
    """Why a command takes no input, which has ended with `code` or runs (None)."""
    what = "closed its input" if code is None else f"ended with exit code {code}"
    return InputRefused(f"the command has {what} and takes no more")


def closing(failed: object) -> contextlib.AbstractContextManager[None]:
    """For the end of a block: what goes wrong there does not hide the error that ended it."""
    if failed is None:
        return contextlib.nullcontext()
    return contextlib.suppress(SkerryError, GuestFault)


class Source(NamedTuple):
    """How to get an image that is not here: from which requests, in order."""

    make: Request
    """Gives it, under its own name."""
    rename: Request | None
    """Gives it the wanted name; may do without the first, when it was here by its own."""


def source_of(image: str) -> Source:
    """Known base images are made here, others pulled."""
    name, tag = requests.split_name(image)
    if name not in BASES:
        return Source(requests.pull(image), None)
    own = BASES[name] if tag == "latest" else tag
    base = name if name == "busybox" else f"{name}:{own}"
    rename = None
    if own != tag:
        rename = requests.image(f"{name}:{own}", "tag", "POST", repo=name, tag=tag)
    return Source(requests.bootstrap(base, include=[], mirror="", key="", tag=""), rename)


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
