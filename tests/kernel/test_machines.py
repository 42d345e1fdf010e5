"""Full machines on QEMU (TCG), driven as a user does: a guest that nobody prepared for us."""

import os
import re
import struct
import subprocess
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import footprint
from bench.daemons import Skerry
from tests.kernel.machines import media

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc (and disk) with the tiny guest."""
    try:
        return media.hybrid(tmp_path_factory.mktemp("medium"))
    except (RuntimeError, FileNotFoundError) as error:
        pytest.skip(str(error))


class Machines:
    """`skerry vm` against one engine."""

    def __init__(self, engine: Skerry) -> None:
        self.engine = engine

    def __call__(self, *words: str, check: bool = True) -> str:
        done = self.engine.skerry("vm", *words, check=check)
        return done.stdout + ("" if check else done.stderr)

    def status(self, name: str) -> str:
        return self("inspect", name, "-f", "{{.status}}").strip()

    def pid(self, name: str) -> int:
        return int(self("inspect", name, "-f", "{{.pid}}"))

    def said(self, name: str) -> str:
        return self("logs", name)

    def hears(self, name: str, pattern: str, seconds: float = 90) -> str:
        """Wait until the guest has written this to its serial line."""
        found = until(lambda: re.search(pattern, self.said(name)), seconds)
        return str(found.group())

    def types(self, name: str, text: str) -> None:
        """Type on the serial line."""
        self.engine.skerry(
            "vm", "console", name, "--scrollback", "0", stdin=text.encode() + b"\x1d"
        )

    def log_in(self, name: str) -> None:
        self.hears(name, r"tiny login: $")
        self.types(name, "root\n")
        self.hears(name, r"/root # ")

    def runs(self, name: str, command: str, seconds: float = 30) -> str:
        """What a command writes, typed on the serial line of a guest that is logged in."""
        mark = os.urandom(4).hex()
        self.types(name, f"{command}; echo {mark[:4]}''{mark[4:]}\n")
        self.hears(name, mark, seconds)
        text = self.said(name).replace("\r", "")
        return text[: text.rindex(mark)].rpartition(f"{mark[4:]}\n")[2]


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Poll until the condition gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def vm(own_engine: Skerry) -> Iterator[Machines]:
    """An engine's machines; nothing of them is left afterwards."""
    before = footprint.take(own_engine.folders, [own_engine.run_root])
    machines = Machines(own_engine)
    yield machines
    names = machines("ls", "--format", "{{.Name}}").split()
    if names:
        machines("rm", "-f", *names)
    left = footprint.settle(before, own_engine.folders, [own_engine.run_root])
    left = [line for line in left if "autostarted" not in line]
    assert not left, "left behind:\n" + "\n".join(left)
    assert os.listdir(own_engine.root / "vms") == []


def test_a_disc_boots_to_its_login_and_lives_every_state(vm: Machines, medium: Path) -> None:
    port = free_port()
    vm("create", "tiny", "--cdrom", str(medium), "--disk", "64m", "--memory", "192m",
       "--vnc", "unix", "-p", f"{port}:80")  # fmt: skip
    assert vm.status("tiny") == "off"
    vm("start", "tiny")
    vm.log_in("tiny")
    assert read(port) == "served by tiny\n"
    assert "64M" in vm.runs("tiny", "grep vda /proc/partitions | grep -q 65536 && echo 64M")

    width, height, colours = picture(vm, "tiny")
    assert width >= 640
    assert height >= 400
    assert len(colours) > 1
    vm("sendkey", "tiny", "--text", "root\\n")
    vm("sendkey", "tiny", "--text", "echo typed > /dev/ttyS0\\n")
    vm.hears("tiny", "typed")

    vm("pause", "tiny")
    assert vm.status("tiny") == "paused"
    assert "is paused" in vm("start", "tiny", check=False)
    vm("resume", "tiny")
    vm.runs("tiny", "echo remembered > /tmp/note")
    vm("save", "tiny")
    assert vm.status("tiny") == "saved"
    assert vm.pid("tiny") == 0
    vm("start", "tiny")
    assert "remembered" in vm.runs("tiny", "cat /tmp/note")

    vm("reset", "tiny")
    until(lambda: vm.said("tiny").count("tiny guest is up") == 2, 90)
    vm.hears("tiny", r"tiny login: $")
    vm("stop", "tiny", "-t", "60")
    assert vm.status("tiny") == "off"
    assert vm("ls", "-q", "--no-trunc").split() == [vm("inspect", "tiny", "-f", "{{.id}}").strip()]


def test_a_disk_boots_by_uefi(vm: Machines, medium: Path) -> None:
    vm("create", "modern", "--disk", f"{medium},size=100m,bus=sata", "--firmware", "uefi",
       "--memory", "256m", "--nic", "none", "--usb", "--sound")  # fmt: skip
    vm("start", "modern")
    vm.log_in("modern")
    assert "efi" in vm.runs("modern", "ls -d /sys/firmware/efi")
    vm("stop", "-f", "modern")
    assert vm.status("modern") == "off"


def test_snapshots_are_a_tree_and_clones_stand_on_it(vm: Machines, medium: Path) -> None:
    vm("create", "tree", "--cdrom", str(medium), "--disk", "32m", "--memory", "160m",
       "--nic", "none", "--boot", "cdrom")  # fmt: skip
    vm("start", "tree")
    vm.log_in("tree")
    note = "echo {0} > /tmp/note; echo {0} | dd of=/dev/vda conv=fsync 2>/dev/null"
    look = "cat /tmp/note; dd if=/dev/vda bs=4 count=1 2>/dev/null"
    vm.runs("tree", note.format("one"))
    vm("snapshot", "create", "tree", "first")
    vm.runs("tree", note.format("two"))
    vm("snapshot", "create", "tree", "second", "--comment", "later")
    vm("snapshot", "restore", "tree", "first")
    assert vm.status("tree") == "running"
    assert "one\none" in vm.runs("tree", look)
    vm.runs("tree", note.format("six"))
    vm("snapshot", "create", "tree", "branch", "--disk-only")
    assert vm("snapshot", "tree", "tree") == (
        "└─ first (full)\n   ├─ second (full)\n   └─ branch (disk)\n      └─ (now)\n"
    )

    vm("clone", "tree", "linked", "--linked", "--snapshot", "second")
    vm("stop", "-f", "tree")
    vm("clone", "tree", "whole")
    vm("clone", "tree", "other", "--linked")
    assert "tree has no snapshot" in vm("snapshot", "restore", "tree", "third", check=False)
    assert first_bytes(vm, "linked", 0) == b"two\n"
    assert first_bytes(vm, "whole", 0) == b"six\n"
    assert first_bytes(vm, "other", 0) == b"six\n"

    vm("snapshot", "restore", "tree", "second")
    assert vm.status("tree") == "saved"
    assert "goes on from snapshot second" in vm("snapshot", "rm", "tree", "second", check=False)
    vm("start", "tree")
    assert "two\ntwo" in vm.runs("tree", look)
    vm("snapshot", "rm", "tree", "first", "second", "branch")
    assert vm("snapshot", "tree", "tree") == "└─ (now)\n"
    assert "two" in vm.runs("tree", look)
    vm("rm", "-f", "tree")
    assert first_bytes(vm, "linked", 0) == b"two\n"
    assert first_bytes(vm, "other", 0) == b"six\n"
    check_disks(vm)


def test_packages_go_out_and_come_back(vm: Machines, medium: Path) -> None:
    vm("create", "boxed", "--disk", f"{medium},bus=sata", "--disk", "24m,bus=scsi", "--nic", "none",
       "--nic", "nat,model=e1000", "--firmware", "uefi", "--memory", "256m", "--cpus", "2",
       "--cdrom", "", "--user", "me")  # fmt: skip
    out = vm.engine.home / "out"
    vm("export", "boxed", "-o", str(out / "boxed.ovf"))
    assert {path.name for path in out.iterdir()} == {
        *("boxed.ovf", "boxed-disk001.vmdk", "boxed-disk002.vmdk"),
    }
    vm("export", "boxed", "-o", str(out / "boxed.ova"))
    vm("import", str(out / "boxed.ovf"), "again")
    vm("import", str(out / "boxed.ova"), "third")
    assert "already in use" in vm("import", str(out / "boxed.ova"), check=False)
    for name in ("again", "third"):
        form = "{{.hardware.memory}} {{.hardware.cpus}} {{.hardware.firmware}}"
        assert vm("inspect", name, "-f", form).split() == [str(256 << 20), "2", "uefi"]
        buses = vm("inspect", name, "-f", "{{range .hardware.disks}}{{.bus}} {{.size}} {{end}}")
        assert buses.split() == ["sata", str(medium.stat().st_size), "scsi", str(24 << 20)]
        assert first_bytes(vm, name, 0) == medium.read_bytes()[:4]

    data = bytearray((out / "boxed.ova").read_bytes())
    data[-5000] ^= 1
    (out / "bad.ova").write_bytes(data)
    assert "not what the manifest says" in vm("import", str(out / "bad.ova"), "bad", check=False)
    check_disks(vm)


def test_hostile_images_reach_nothing(vm: Machines, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(1 << 20, b"!"))
    tmp_path.chmod(0o755)
    backed, flat = tmp_path / "backed.qcow2", tmp_path / "flat.vmdk"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(backed)]
    subprocess.run(make, check=True)
    flat.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 2048 FLAT "{secret}" 0\n'
    )
    external = tmp_path / "external.qcow2"
    subprocess.run(
        [*("qemu-img", "create", "-q", "-f", "qcow2", "-o"), f"data_file={secret}", external, "1m"],
        check=True,
    )
    for image in (backed, flat, external):
        said = vm("create", "bad", "--disk", str(image), check=False)
        assert "refers to another file" in said or "cannot be read as a disk image" in said
    assert vm("ls", "-q") == ""
    assert os.listdir(vm.engine.root / "vms") == []


def first_bytes(vm: Machines, name: str, disk: int) -> bytes:
    """What a machine that is off has at the beginning of a disk."""
    layer = vm("inspect", name, "-f", f"{{{{(index .hardware.disks {disk}).layer}}}}").strip()
    folder, _, file = layer.partition("/")
    path = vm.engine.root / "vms" / folder / "disks" / f"{file}.qcow2"
    target = vm.engine.home / "first"
    subprocess.run(
        [*("qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=4", "count=1"),
         f"if={path}", f"of={target}"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return target.read_bytes()[:4]


def check_disks(vm: Machines) -> None:
    """Every disk of every machine is whole."""
    for path in (vm.engine.root / "vms").glob("*/disks/*.qcow2"):
        done = subprocess.run(
            ["qemu-img", "check", "-q", "-U", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def read(port: int) -> str:
    """A page that the guest serves, through a forwarded port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def picture(vm: Machines, name: str) -> tuple[int, int, set[bytes]]:
    """Width, height and colours of the screen."""
    target = vm.engine.home / "screen.png"
    vm("screenshot", name, "-o", str(target))
    data = target.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (depth, kind) == (8, 2)
    at, packed = 8, b""
    while at < len(data):
        size, label = struct.unpack(">I4s", data[at : at + 8])
        if label == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    plain = zlib.decompress(packed)
    row = width * 3 + 1
    # The first row's pixels would need no filter to be undone; distinct bytes are enough here.
    return width, height, {plain[at : at + 1] for at in range(0, len(plain), row // 7)}
