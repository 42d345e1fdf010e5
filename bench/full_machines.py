"""Full machines beside plain QEMU: what the wall, the keeper and the records cost.

The guest is a boot sector that writes one byte to the serial port and halts, so that nothing but
the firmware and our own work is in the figures. Both sides have the same devices on the same
accelerator.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import wire
from bench.daemons import MissingPiece
from bench.machine_copies import execute
from bench.measure import Case, Outcome, interleave
from bench.world import World

MEMORY = 256
PATIENCE = 120.0
_SPEAKS = bytes.fromhex("baf803b052eef4ebfd")
"""mov dx, 0x3f8; mov al, 'R'; out dx, al; hlt; jmp to the hlt."""


def vm_start(world: World, runs: int) -> Outcome:
    """From `vm start` to the guest's first byte on the serial line, in ms."""
    with _machine(world) as name, wire.Connection(world.skerry.socket, PATIENCE) as api:
        console = Path(api.call("GET", f"/skerry/vms/{name}/json")["folder"]) / "console.log"

        def ours() -> float:
            size = console.stat().st_size if console.exists() else 0
            began = time.monotonic()
            api.call("POST", f"/skerry/vms/{name}/start")
            while not console.exists() or console.stat().st_size <= size:
                _check_patience(began)
                time.sleep(0.001)
            took = (time.monotonic() - began) * 1000
            api.call("POST", f"/skerry/vms/{name}/stop?force=1")
            return took

        def peer() -> float:
            began = time.monotonic()
            with _plain(world):
                return (time.monotonic() - began) * 1000

        cases = [Case("skerry vm start", ours), Case("qemu", peer)]
        return interleave("vm_start", cases, [], runs=runs)


def vm_clone(world: World, runs: int) -> Outcome:
    """A linked clone of a machine, in ms, and the bare disk of one."""
    with _machine(world) as name, wire.Connection(world.skerry.socket, PATIENCE) as api:

        def ours() -> float:
            began = time.monotonic()
            made = api.call("POST", f"/skerry/vms/{name}/clone?name=copy", {"linked": True})
            took = (time.monotonic() - began) * 1000
            api.request("DELETE", f"/skerry/vms/{made['Id']}")
            return took

        def peer() -> None:
            disk = _disk(world)
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk)]
            subprocess.run([*command, str(world.home / "linked.qcow2")], check=True)

        cases = [Case("skerry vm clone --linked", ours), Case("qemu-img create -b", peer)]
        return interleave("vm_clone", cases, [], runs=runs)


def vm_states(world: World, runs: int) -> Outcome:
    """A snapshot with memory of a machine of 256 MB that runs, and the way back, in ms."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(_machine(world))
        api = stack.enter_context(wire.Connection(world.skerry.socket, PATIENCE))
        plain = stack.enter_context(_plain(world))
        api.call("POST", f"/skerry/vms/{name}/start")

        def timed(method: str, target: str, body: object = None) -> float:
            began = time.monotonic()
            api.call(method, f"/skerry/vms/{name}/snapshots{target}", body)
            return (time.monotonic() - began) * 1000

        def create() -> float:
            status, _ = api.request("DELETE", f"/skerry/vms/{name}/snapshots/one")
            if status not in (200, 204, 404):
                raise MissingPiece(f"a snapshot cannot be removed: {status}")
            return timed("POST", "", {"name": "one"})

        cases = [
            Case("skerry snapshot", create),
            Case("qemu savevm", lambda: _human(plain, "savevm one")),
            Case("skerry restore", lambda: timed("POST", "/one/restore")),
            Case("qemu loadvm", lambda: _human(plain, "loadvm one")),
        ]
        return interleave("vm_states", cases, [], runs=min(runs, 8), warm=1)


def _check_patience(began: float) -> None:
    if time.monotonic() - began > PATIENCE:
        raise MissingPiece("the guest says nothing")


def _disk(world: World) -> Path:
    """The raw disk that both sides boot."""
    path = world.home / "speaks.raw"
    if not path.exists():
        path.write_bytes(_SPEAKS.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    return path


@contextlib.contextmanager
def _machine(world: World) -> Iterator[str]:
    """The name of a machine of ours that is off."""
    disks = [{"source": str(_disk(world)), "format": "raw"}]
    body = {"memory": MEMORY << 20, "disks": disks, "nics": [], "video": "none"}
    with wire.Connection(world.skerry.socket, PATIENCE) as api:
        made = api.call("POST", "/skerry/vms/create?name=speaks", body)["Id"]
        try:
            yield made
        finally:
            api.request("DELETE", f"/skerry/vms/{made}?force=1")


@contextlib.contextmanager
def _plain(world: World) -> Iterator[str]:
    """The monitor of a plain QEMU whose guest has spoken."""
    folder = world.home / "plain-full"
    folder.mkdir()
    disk, monitor = folder / "disk.qcow2", str(folder / "qmp")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", _disk(world), disk], check=True)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-M", "q35,usb=off,vmport=off", "-m", str(MEMORY)),
            *("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,+arat"),
            *("-nodefaults", "-display", "none", "-boot", "menu=off,strict=on"),
            *("-device", "virtio-rng-pci", "-drive", f"file={disk},if=virtio"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
            *("-chardev", f"socket,id=line,fd={theirs.fileno()}", "-serial", "chardev:line"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
    )
    theirs.close()
    try:
        ours.settimeout(PATIENCE)
        if not ours.recv(1):
            raise MissingPiece("plain QEMU does not boot")
        yield monitor
    finally:
        process.kill()
        process.wait()
        ours.close()
        shutil.rmtree(folder)


def _human(monitor: str, command: str) -> float:
    """A command of QEMU's human monitor; ms."""
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as line:
        sock.connect(monitor)
        line.readline()
        execute(line, "qmp_capabilities")
        began = time.monotonic()
        said = execute(line, "human-monitor-command", **{"command-line": command})
        took = (time.monotonic() - began) * 1000
        if said:
            raise MissingPiece(f"{command}: {said}")
        return took
