"""Templates: a machine that booted once for its shape and was frozen when its agent was ready.

    <root>/templates/<key>/{ram,state,manifest.json}

`ram` is the guest's memory, sparse; `state` what QEMU says of its devices (migration stream without
the RAM, capability x-ignore-shared). A clone maps the memory privately, so what nobody writes to is
shared by all. The clone's QEMU opens it for writing all the same, as QEMU wants it; therefore it
gets a sealed memfd (memfd_create(2), F_SEAL_WRITE), which nobody can write to any more.

A template is made in a process of its own, a lean interpreter (`main`), because it forks.
"""

import fcntl
import hashlib
import json
import os
import resource
import secrets
import shutil
import sys
import time
from typing import Any, NamedTuple

from skerry.base.errors import DigestMismatch, GuestFault, KernelFault, SkerryError, SystemFault
from skerry.kernel import namespaces
from skerry.machine import hypervisor, qemu, rehearsal, tasks
from skerry.machine.channel import MOST_FROM_GUEST, Line, Message
from skerry.machine.full.confine import die_with_parent
from skerry.machine.qemu import Accel
from skerry.machine.shape import Shape
from skerry.machine.tap import open_tap
from skerry.runtime import wire
from skerry.runtime.loop import Loop

RAM, STATE, MANIFEST = "ram", "state", "manifest.json"
BOOT_SECONDS = 120.0
_NOTHING = "-nothing"
"""Of the names of nodes that come when the rehearsal's disks go."""
_CHUNK = 4 << 20
_UNLIMITED = (1 << 64) - 1
_LIMITS = {
    resource.RLIMIT_NOFILE: 1 << 20,  # fs.nr_open of a kernel that nobody has told otherwise
    resource.RLIMIT_NPROC: _UNLIMITED,
    resource.RLIMIT_SIGPENDING: _UNLIMITED,
}
"""Those that Linux sets by the size of a machine, or lower than services get, and the most that the
guest's kernel takes."""
# linux/fcntl.h
_F_ADD_SEALS = 1033
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008
"""F_SEAL_SEAL, SHRINK, GROW, WRITE."""


class Rehearsal(NamedTuple):
    """A run for practice (`machine.rehearsal`); plain data. Paths of disks."""

    plan: str
    """In hexadecimal."""
    layers: str
    blank: str
    empty: str
    """An overlay over `blank` that is copied."""


class Wanted(NamedTuple):
    """What a template is made from; plain data for the process that makes it."""

    target: str
    """The folder to make; it must not exist."""
    kernel: int
    initramfs: int
    late_modules: list[str]
    shape: Shape
    accel: Accel
    filters: list[str]
    """Rules for devices (JSON) that are likely to be asked for: their programs are loaded."""
    rehearsal: Rehearsal | None = None
    """What is run before it is frozen."""


class Frozen(NamedTuple):
    """A template in use: a sealed memfd with its memory, and where its state is."""

    ram: int
    state: str
    key: str
    kit: str
    """The `contents` of its kit."""


def key_of(kit: str, shape: Shape, accel: Accel) -> str:
    """The name of the template for a kit, a shape and the QEMU that is installed."""
    status = os.stat(qemu.BINARY)
    arguments = devices(hypervisor.numbers([]), shape, accel, ram=0, share=True, tap=0)
    binary = (status.st_size, status.st_mtime_ns)
    words = (kit, shape, accel.name, accel.cpu, *binary, arguments, *program_limits())
    return hashlib.sha256(repr(words).encode()).hexdigest()[:32]


def program_limits() -> list[tuple[int, int, int]]:
    """The limits of processes that a container's programs begin with: those of the caller, which
    behind the other wall are theirs. (RLIMIT_ number, soft, hard), as setrlimit(2) takes them."""
    found = []
    for kind, most in _LIMITS.items():
        soft, hard = (each % (1 << 64) for each in resource.getrlimit(kind))
        found.append((kind, min(soft, most), min(hard, most)))
    return found


def devices(
    lines: hypervisor.Lines, shape: Shape, accel: Accel, *, ram: int, share: bool, tap: int,
    room: int = 0,
) -> list[str]:  # fmt: skip
    """What a template's arguments and its clones' have in common, but for the disks and the `room`
    for memory, which only clones have."""
    first = qemu.common(
        shape, accel, ram=ram, share=share, agent=lines.agent, qmp=lines.qmp, console=lines.console,
        room=room,
    )  # fmt: skip
    return [*first, *qemu.ports(), *qemu.network(tap)]


def load(folder: str, key: str, kit: str) -> Frozen:
    """Read a template into a sealed memfd; DigestMismatch when it was changed. Blocks."""
    with open(os.path.join(folder, MANIFEST), "rb") as file:
        manifest = json.load(file)
    ram = os.memfd_create("skerry-template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(ram, int(manifest["memory"]))
        with open(os.path.join(folder, RAM), "rb") as file:
            digest = copy_sparse(file.fileno(), ram, int(manifest["memory"]))
        if digest != manifest[RAM]:
            raise DigestMismatch(
                f"the template {folder} is not what it was when it was made",
                hint="remove it: it is made anew at the next start",
            )
        seal(ram)
    except BaseException:
        os.close(ram)
        raise
    return Frozen(ram, os.path.join(folder, STATE), key, kit)


def seal(memory: int) -> None:
    """Let nobody write to a memfd any more; only private mappings remain."""
    fcntl.fcntl(memory, _F_ADD_SEALS, _SEALS)


def copy_sparse(source: int, target: int, size: int) -> str:
    """Copy what is not a hole; the SHA-256 of the data with their places."""
    digest = hashlib.sha256()
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: holes up to the end.
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        digest.update(b"%d %d\n" % (start, end))
        while start < end:
            data = os.pread(source, min(_CHUNK, end - start), start)
            if not data:
                raise SystemFault("a template's memory is cut short")
            digest.update(data)
            os.pwrite(target, data, start)
            start += len(data)
        at = end
    return digest.hexdigest()


class Talk:
    """Question and answer with an agent, for a process that does nothing else meanwhile."""

    def __init__(self, machine: hypervisor.Hypervisor) -> None:
        self._loop = Loop()
        self._messages: list[Message] = []
        self._lost = ""
        self._machine = machine
        self._line = Line(
            self._loop, machine.agent, self._messages.append, self._lose,
            most_message=MOST_FROM_GUEST,
        )  # fmt: skip

    def _lose(self, reason: str) -> None:
        self._lost = reason

    def next(self, seconds: float) -> Message:
        """The next message of the agent; SystemFault when it dies or takes longer."""
        deadline = time.monotonic() + seconds
        while not self._messages:
            if self._lost:
                raise SystemFault(f"the guest has ended: {self._machine.complaint() or self._lost}")
            if time.monotonic() > deadline:
                raise SystemFault("the guest's agent does not answer in time")
            self._loop.turn(deadline)
        return self._messages.pop(0)

    def swallow(self, *streams: int) -> None:
        """Take what comes as these streams, and drop it."""
        for stream in streams:
            self._line.sink(stream, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))

    def ask(self, op: str, *, seconds: float, body: bytes = b"", **words: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._line.say({"op": op, "seq": 1, **words}, body)
        head = self.next(seconds).head
        if "error" in head:
            raise wire.error_from_wire(head["error"])
        return head

    def close(self) -> None:
        """Let go of the loop."""
        self._loop.close()


def make(wanted: Wanted) -> None:
    """Boot, freeze, write; nothing is left when it fails."""
    fresh = f"{wanted.target}.{os.getpid()}.{secrets.token_hex(4)}"
    os.makedirs(fresh, 0o700)
    try:
        _make(wanted, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _make(wanted: Wanted, fresh: str) -> None:
    # A network namespace of its own, for the tap: the card's far end is nowhere.
    namespaces.unshare(namespaces.FLAGS["network"])
    ram = os.memfd_create("skerry-ram", os.MFD_CLOEXEC)
    os.ftruncate(ram, wanted.shape.memory)
    tap = open_tap("tap0")
    fds = [ram, tap, wanted.kernel, wanted.initramfs]
    names = ["ram", "tap", "kernel", "initramfs", "state"]
    if wanted.rehearsal:
        names += ["layers", "writable", "blank"]
    lines = hypervisor.numbers(names)
    fd = lines.more
    state = os.open(os.path.join(fresh, STATE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    arguments = [
        *devices(lines, wanted.shape, wanted.accel, ram=fd["ram"], share=True, tap=fd["tap"]),
        *_disks(fd),
        *qemu.boot(fd["kernel"], fd["initramfs"], wanted.accel),
    ]
    fds.append(state)
    if wanted.rehearsal:
        fds += _open_disks(wanted.rehearsal, fresh)
    started = time.monotonic()
    machine = hypervisor.start(arguments, fds, id_=fresh, root=f"{fresh}/root")
    try:
        talk = Talk(machine)
        if talk.next(BOOT_SECONDS).head.get("event") != "ready":
            raise SystemFault("the guest's agent does not say that it is ready")
        # Ready is an agent that has answered.
        now = time.time_ns()
        talk.ask("clock", seconds=BOOT_SECONDS, time_ns=now, body=tasks.pack(1, tasks.clock(now)))
        ready = time.monotonic() - started
        late = wanted.late_modules
        talk.ask("modules", seconds=BOOT_SECONDS, names=late, body=tasks.pack(1, tasks.load(late)))
        talk.ask("prepare", seconds=BOOT_SECONDS, filters=wanted.filters, limits=program_limits())
        prepared = time.monotonic() - started
        monitor = machine.monitor
        if wanted.rehearsal:
            identity = {"seed": secrets.token_hex(64), "time_ns": time.time_ns(), "hostname": ""}
            rehearsal.rehearse(talk, bytes.fromhex(wanted.rehearsal.plan), identity)
            for serial, node in qemu.empty_nodes(_NOTHING).items():
                monitor.exchange(serial, node)
        talk.close()
        monitor.execute("stop")
        capabilities = [{"capability": "x-ignore-shared", "state": True}]
        monitor.execute("migrate-set-capabilities", capabilities=capabilities)
        monitor.give_fd("state", state)
        monitor.execute("migrate", uri="fd:state")
        await_migration(machine)
        machine.quit()
    except BaseException:
        machine.end()
        raise
    with open(os.path.join(fresh, RAM), "wb") as file:
        file.truncate(wanted.shape.memory)
        digest = copy_sparse(ram, file.fileno(), wanted.shape.memory)
    manifest = {"memory": wanted.shape.memory, RAM: digest, "boot_seconds": round(ready, 3)}
    manifest["prepared_seconds"] = round(prepared, 3)
    with open(os.path.join(fresh, MANIFEST), "w") as text:
        json.dump(manifest, text)
    os.rmdir(os.path.join(fresh, "root"))
    os.rename(fresh, wanted.target)


def _disks(fd: dict[str, int]) -> list[str]:
    if "layers" not in fd:
        return qemu.empty_disks()
    return qemu.disks(qemu.Disks(fd["layers"], fd["writable"], fd["blank"]))


def _open_disks(wanted: Rehearsal, folder: str) -> list[int]:
    """Those of a rehearsal; the writable one has no name any more."""
    path = os.path.join(folder, "disk")
    writable = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    with open(wanted.empty, "rb") as file:
        os.pwrite(writable, file.read(), 0)
    layers, blank = (
        os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in (wanted.layers, wanted.blank)
    )
    return [layers, writable, blank]


def await_migration(machine: hypervisor.Hypervisor, seconds: float = 60.0) -> None:
    """Until a migration has completed; SystemFault when it fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = machine.monitor.execute("query-migrate")
        status = found.get("status")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise SystemFault(
                f"QEMU cannot save or load the machine: {found.get('error-desc', '')!s:.500} "
                f"{machine.complaint()}"
            )
        time.sleep(0.002)
    raise SystemFault("QEMU does not finish saving the machine")


def main() -> None:
    """`Wanted` as JSON in the first argument; an error as JSON on standard output."""
    given = json.loads(sys.argv[1])
    die_with_parent(given.pop("parent"))
    given.update(shape=Shape(*given["shape"]), accel=Accel(*given["accel"]))
    if given["rehearsal"]:
        given["rehearsal"] = Rehearsal(*given["rehearsal"])
    try:
        make(Wanted(**given))
    except (SkerryError, GuestFault, OSError) as error:
        fault = KernelFault("", error.errno or 0) if isinstance(error, OSError) else error
        sys.stdout.write(json.dumps(wire.error_to_wire(fault)))
        sys.exit(1)
