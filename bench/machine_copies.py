"""Snapshots and forks of a running machine, beside plain QEMU on the same accelerator.

Plain is what anybody would do: `-M pc`, Debian's cloud kernel, a busybox initramfs, 256 MB; saved
by `savevm` into its qcow2 disk, multiplied by booting again.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import footprint, wire
from bench.daemons import Daemon, MissingPiece
from bench.measure import Case, Outcome, Target, interleave
from bench.world import World

MEMORY = 256
COPIES = 20
PATIENCE = 120.0
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
echo READY > /dev/ttyS0
exec /bin/busybox sleep 100000
"""


def vm_snapshot(world: World, runs: int) -> Outcome:
    """How long a running machine of 256 MB stands still, in ms."""
    with _machine(world) as name, _plain(world) as plain:
        return interleave(
            "vm_snapshot",
            [
                Case("skerry", lambda: _snapshot(world.skerry, name)),
                Case("qemu savevm", plain.save),
            ],
            [Target("skerry", "qemu savevm", 0.25)],
            runs=min(runs, 8),
            warm=1,
        )


def vm_fork(world: World, runs: int) -> Outcome:
    """20 copies of a running machine, until all have answered, against one cold boot; in ms."""
    with _machine(world) as name:
        return interleave(
            "vm_fork",
            [
                Case("skerry, 20 forks", lambda: _forks(world.skerry, name, _elapsed)),
                Case("qemu, one boot", lambda: _boots(world, 1, _elapsed)),
            ],
            [Target("skerry, 20 forks", "qemu, one boot", 0.6)],
            runs=min(runs, 4),
            warm=1,
        )


def vm_fork_memory(world: World, runs: int) -> Outcome:
    """Memory (PSS) of 20 idle copies against 20 machines that were booted, in MB."""
    with _machine(world) as name:
        return interleave(
            "vm_fork_memory",
            [
                Case("skerry, 20 forks", lambda: _forks(world.skerry, name, _pss)),
                Case("qemu, 20 boots", lambda: _boots(world, COPIES, _pss)),
            ],
            [Target("skerry, 20 forks", "qemu, 20 boots", 0.2)],
            runs=1,
            warm=0,
            unit="MB",
        )


Figure = Callable[[list[int], float], float]
"""Of the pids of the machines' QEMU and the moment when the work began."""


def _elapsed(_pids: list[int], began: float) -> float:
    return (time.monotonic() - began) * 1000


def _pss(pids: list[int], _began: float) -> float:
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
    return total / 1024


@contextlib.contextmanager
def _machine(world: World) -> Iterator[str]:
    body = wire.true_container() | {"Cmd": ["sleep", "100000"]}
    host = {**body.get("HostConfig", {}), "Runtime": "skerry-vm", "Memory": MEMORY << 20}
    with wire.Connection(world.skerry.socket, timeout=PATIENCE) as api:
        made = api.call("POST", "/containers/create", body | {"HostConfig": host})["Id"]
        try:
            api.call("POST", f"/containers/{made}/start")
            yield made
        finally:
            api.request("DELETE", f"/containers/{made}?force=1")


def _snapshot(daemon: Daemon, name: str) -> float:
    with wire.Connection(daemon.socket, timeout=PATIENCE) as api:
        taken = api.call("POST", f"/skerry/snapshots?container={name}")
        api.request("DELETE", f"/skerry/snapshots/{taken['Id']}")
        return float(taken["PauseMs"])


def _forks(daemon: Daemon, name: str, figure: Figure) -> float:
    with wire.Connection(daemon.socket, timeout=PATIENCE) as api:
        before = set(_qemus(daemon))
        began = time.monotonic()
        made = api.call("POST", f"/skerry/fork?container={name}&count={COPIES}")
        try:
            for each in made:
                if each["Error"]:
                    raise MissingPiece(each["Error"])
            return figure(sorted(set(_qemus(daemon)) - before), began)
        finally:
            for each in made:
                if each["Id"]:
                    api.request("DELETE", f"/containers/{each['Id']}?force=1")


def _qemus(daemon: Daemon) -> list[int]:
    found = []
    for pid in footprint.processes(daemon.folders):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/exe").endswith("qemu-system-x86_64"):
                found.append(pid)
    return found


class Plain:
    """One QEMU as anybody starts it."""

    def __init__(self, folder: Path, number: int) -> None:
        kernel, initramfs = _guest(folder)
        self._folder = folder / f"plain{number}"
        self._folder.mkdir()
        disk, self._monitor = self._folder / "disk.qcow2", str(self._folder / "qmp")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-m", str(MEMORY)),
                *("-nodefaults", "-display", "none", "-kernel", kernel, "-initrd", initramfs),
                *("-append", "console=ttyS0 quiet panic=-1"),
                *("-drive", f"file={disk},if=virtio"),
                *("-qmp", f"unix:{self._monitor},server=on,wait=off"),
                *("-chardev", f"socket,id=line,fd={theirs.fileno()}", "-serial", "chardev:line"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self._line = ours
        self._saved = 0

    @property
    def pid(self) -> int:
        """Of QEMU."""
        return self._process.pid

    def await_ready(self) -> None:
        """Until its init has spoken."""
        said = b""
        self._line.settimeout(PATIENCE)
        while b"READY" not in said:
            data = self._line.recv(4096)
            if not data:
                raise MissingPiece(f"plain QEMU does not boot: {said[-300:]!r}")
            said += data

    def save(self) -> float:
        """`savevm`, during which the machine stands still; ms."""
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as line:
            sock.connect(self._monitor)
            line.readline()
            execute(line, "qmp_capabilities")
            self._saved += 1
            began = time.monotonic()
            said = execute(line, "human-monitor-command", **{"command-line": "savevm one"})
            took = (time.monotonic() - began) * 1000
            if said:
                raise MissingPiece(f"savevm: {said}")
            return took

    def close(self) -> None:
        """Kill it and remove its files."""
        self._process.kill()
        self._process.wait()
        self._line.close()
        shutil.rmtree(self._folder)


def execute(line: Any, command: str, **arguments: str) -> Any:
    """A command of QEMU's monitor; what it returns."""
    line.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    line.flush()
    while True:
        answer = json.loads(line.readline())
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise MissingPiece(str(answer["error"]))


@contextlib.contextmanager
def _plain(world: World) -> Iterator[Plain]:
    made = Plain(world.home, 0)
    try:
        made.await_ready()
        yield made
    finally:
        made.close()


def _boots(world: World, count: int, figure: Figure) -> float:
    with contextlib.ExitStack() as stack:
        _guest(world.home)
        began = time.monotonic()
        plain = []
        for number in range(count):
            plain.append(Plain(world.home, number + 1))
            stack.callback(plain[-1].close)
        for each in plain:
            each.await_ready()
        return figure([each.pid for each in plain], began)


def _guest(folder: Path) -> tuple[str, str]:
    """Debian's cloud kernel and an initramfs of busybox and its init."""
    from tests.kernel.vm import linux

    try:
        kernel = str(linux.fetch().image)
    except (RuntimeError, OSError) as error:
        raise MissingPiece(f"no kernel for plain QEMU: {error}") from None
    target = folder / "plain.cpio"
    if not target.exists():
        root = folder / "plain-root"
        for name in ("bin", "dev", "proc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        (root / "init").write_text(_INIT)
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
        with open(target, "wb") as file:
            subprocess.run(
                ["cpio", "-o", "-H", "newc", "--quiet"],
                cwd=root, input=names.encode(), stdout=file, check=True,
            )  # fmt: skip
    return kernel, str(target)
