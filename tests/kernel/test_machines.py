"""Full machines on QEMU (TCG), driven as a user does: a guest that nobody prepared for us."""

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import urllib.request
import zlib
from pathlib import Path

import pytest
from bench.ports import free_port
from tests.kernel.machines.commands import Machines, check_disks, first_bytes, until

from skerry.base.errors import NotFound
from skerry.engine.vms import cables
from skerry.machine.full import fence
from skerry.machine.full.confine import Bind, Confined, claimed
from skerry.machine.full.qemu import interpreter
from skerry.sdk import Engine

pytestmark = [pytest.mark.root]


def test_a_disc_boots_to_its_login_and_lives_every_state(vm: Machines, medium: Path) -> None:
    port, low = free_port(), low_port()
    vm("create", "tiny", "--cdrom", str(medium), "--disk", "64m", "--memory", "192m",
       "--vnc", "unix", "-p", f"{port}:80", "-p", f"{low}:80")  # fmt: skip
    assert vm.status("tiny") == "off"
    vm("clone", "tiny", "twin")
    vm("start", "tiny")
    assert f"twin cannot have port {port}/tcp of 127.0.0.1: machine tiny has it" in vm(
        "start", "twin", check=False
    )
    vm.log_in("tiny")
    assert read(port) == read(low) == "served by tiny\n"
    more = free_port()
    vm("edit", "tiny", "-p", f"{more}:80", "--unpublish", str(port))
    assert read(more) == "served by tiny\n"
    socket.create_server(("127.0.0.1", port)).close()
    assert "needs the machine off" in vm("edit", "tiny", "--unpublish", str(low), check=False)
    vm("edit", "tiny", "-p", f"{port}:80")
    assert "64M" in vm.runs("tiny", "grep vda /proc/partitions | grep -q 65536 && echo 64M")

    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(3)
        probe = f"nc -w 3 10.0.2.2 {service.getsockname()[1]} < /dev/null"
        vm.runs("tiny", probe)
        with pytest.raises(TimeoutError):
            service.accept()
        # The same probe arrives when the rule is away: it is the rule that keeps it off.
        fence.remove(fence.name(str(vm.engine.root), vm("inspect", "tiny", "-f", "{{.id}}")))
        service.settimeout(120)
        vm.types("tiny", f"{probe}\n")
        service.accept()[0].close()

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
    until(lambda: vm.said("tiny").count("tiny guest is up") == 2)
    vm.hears("tiny", r"tiny login: $")
    vm("stop", "tiny", "-t", "150")
    assert vm.status("tiny") == "off"
    names = ("tiny", "twin")
    ids = [vm("inspect", name, "-f", "{{.id}}").strip() for name in names]
    assert vm("ls", "-q", "--no-trunc").split() == ids


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
    assert "choose one: disk0, disk1" in vm("export", "boxed", "-o", "a.vdi", check=False)
    vm("export", "boxed", "-o", str(out / "one.img"), "--disk", "disk0")
    assert (out / "one.img").read_bytes() == medium.read_bytes()
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


def test_a_disk_boots_by_uefi_beside_a_neighbour_with_a_shared_folder(
    vm: Machines, medium: Path, tmp_path: Path, lan: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_text("hello from the host\n")
    vm("create", "one", "--cdrom", str(medium), "--memory", "160m", "--nic", f"bridge={lan}",
       "--nic", "internal=lab", "--share", f"{shared}:files",
       "--share", f"{shared}:seen,ro")  # fmt: skip
    vm("create", "two", "--disk", f"{medium},size=100m,bus=sata", "--firmware", "uefi",
       "--memory", "256m", "--nic", "internal=lab", "--usb", "--sound",
       "--cdrom", "", "--cdrom", "")  # fmt: skip
    vm("start", "one", "two")
    for name in ("one", "two"):
        vm.log_in(name)
    assert "efi" in vm.runs("two", "ls -d /sys/firmware/efi")
    assert "hello from the host" in vm.runs(
        "one", "mount -t virtiofs files /mnt; cat /mnt/from-host; echo hello > /mnt/from-guest"
    )
    assert (shared / "from-guest").read_text() == "hello\n"
    assert "hello\n" in vm.runs(
        "one",
        "umount /mnt; mount -t virtiofs seen /mnt; mount -o remount,rw /mnt; "
        "echo no > /mnt/from-guest; echo no > /mnt/more; cat /mnt/from-guest",
    )
    assert sorted(os.listdir(shared)) == ["from-guest", "from-host"]
    address = "inet 192.0.2.77/24"
    assert address in vm.runs("one", "ip -4 addr show eth0")
    neighbour = ["ip", "netns", "exec", lan, "curl", "-s", "-m", "60"]
    page = subprocess.run([*neighbour, "http://192.0.2.77/"], capture_output=True, check=True)
    assert page.stdout == b"served by tiny\n"
    vm.runs("one", "ip addr add 10.9.8.1/24 dev eth1; ip link set eth1 up")
    vm.runs("two", "ip addr add 10.9.8.2/24 dev eth0")
    asks = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 10.9.8.1 80"
    assert "served by tiny" in vm.runs("two", asks)
    assert "cannot be saved while it has the shared" in vm("save", "one", check=False)
    vm("snapshot", "create", "one", "--disk-only")
    assert vm.status("one") == "running"
    bridge = cables.internal_bridge(str(vm.engine.root), "lab")
    assert bridge in os.listdir("/sys/class/net")
    vm("stop", "-f", "one", "two")
    until(lambda: bridge not in os.listdir("/sys/class/net"))


def test_the_sdk_says_the_same(vm: Machines) -> None:
    with Engine(vm.engine.host) as engine:
        machine = engine.machines.create(
            "box", disks=[{"size": 16 << 20}], memory=64 << 20, nics=[]
        )
        assert (machine.name, machine.status) == ("box", "off")
        machine.start()
        machine.start()
        first = machine.snapshot()
        machine.send_keys("ctrl-alt-delete", text="abc")
        assert machine.screenshot().startswith(b"\x89PNG")
        assert joins_the_screen(machine.display()["address"].removeprefix("unix:")) == "QEMU (box)"
        with machine.console() as console:
            console.write(b"x")
        assert machine.stats()["memory_limit"] == 64 << 20
        copy = machine.clone("copy", linked=True, snapshot=first)
        machine.restore(first)
        assert machine.status == "running"
        machine.stop(force=True)
        assert machine.wait() == {"Status": "off", "Error": ""}
        machine.edit(name="renamed", memory=96 << 20, add_cdroms=1, sizes={"disk0": 32 << 20})
        hardware = machine.inspect()["hardware"]
        assert hardware["memory"] == 96 << 20
        assert hardware["disks"][0]["size"] == 32 << 20
        assert [each["name"] for each in machine.snapshots()] == [first]
        again = engine.machines.take_in(machine.export(), "again")
        assert [each.name for each in engine.machines.list()] == ["renamed", "copy", "again"]
        assert again.inspect()["hardware"]["disks"][0]["size"] == 32 << 20
        copy.remove()
        with pytest.raises(NotFound):
            engine.machines.get("copy")


def test_discs_are_exchanged_while_it_runs(vm: Machines, medium: Path) -> None:
    vm("create", "drive", "--cdrom", "", "--memory", "64m", "--nic", "none")
    vm("start", "drive")
    pid = vm.pid("drive")
    assert str(medium) not in open_files(pid)
    vm("edit", "drive", "--disc", f"cd0={medium}")
    assert str(medium) in open_files(pid)
    vm("edit", "drive", "--disc", "cd0=")
    assert str(medium) not in open_files(pid)
    assert "needs it off" in vm("edit", "drive", "--memory", "128m", check=False)
    vm("stop", "-f", "drive")
    vm("edit", "drive", "--disc", f"cd0={medium}", "--memory", "128m")
    vm("start", "drive")
    assert str(medium) in open_files(vm.pid("drive"))


def joins_the_screen(path: str) -> str:
    """As a VNC client does (RFC 6143, section 7); the desktop's name."""
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rwb") as screen:
        sock.settimeout(120)
        sock.connect(path)
        assert screen.read(12) == b"RFB 003.008\n"
        screen.write(b"RFB 003.008\n")
        screen.flush()
        kinds = screen.read(screen.read(1)[0])
        assert 1 in kinds
        screen.write(b"\1")
        screen.flush()
        assert screen.read(4) == bytes(4)
        screen.write(b"\1")
        screen.flush()
        width, height = struct.unpack(">HH", screen.read(4))
        assert width >= 640
        assert height >= 400
        screen.read(16)
        (size,) = struct.unpack(">I", screen.read(4))
        return str(screen.read(size).decode())


def open_files(pid: int) -> set[str]:
    """Paths of a process's descriptors."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(entry))
    return found


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
    cut = tmp_path / "cut.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", secret, cut], check=True)
    os.truncate(cut, cut.stat().st_size // 2)
    assert "is damaged, perhaps cut off" in vm("create", "bad", "--disk", str(cut), check=False)
    assert vm("ls", "-q") == ""
    assert os.listdir(vm.engine.root / "vms") == []


@pytest.mark.parametrize("owner", [0, 1234])
def test_a_folder_is_shared_as_its_owner_has_it(tmp_path: Path, owner: int) -> None:
    """By 9p, which QEMU serves as a user of its own; Debian's kernel for clouds has no 9p."""
    root, shared = tmp_path / "root", tmp_path / "shared"
    for folder in (root, shared, tmp_path / "other"):
        folder.mkdir(mode=0o700)
    os.chown(shared, owner, owner)
    binds = [Bind(str(shared), True, owned=True), Bind(str(tmp_path / "other"), True)]
    wanted: Confined = {
        "argv": ["/usr/bin/touch", str(shared / "made"), str(tmp_path / "other/made")],
        "uid": 777777777,
        "root": str(root),
        "binds": binds,
        "network": "none",
    }
    found = claimed(wanted)
    for tree in found.values():
        os.close(tree)
    if not found:
        pytest.skip("the file system has no idmapped mounts")
    command = interpreter("confine", json.dumps(wanted))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert f"'{tmp_path}/other/made': Permission denied" in done.stderr
    assert [path.name for path in shared.iterdir()] == ["made"]
    assert (shared / "made").stat().st_uid == owner


def low_port() -> int:
    """A TCP port that only root may listen at, and nobody does."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", random.SystemRandom().randrange(600, 1024)))
            return int(probe.getsockname()[1])


def read(port: int) -> str:
    """A page that the guest serves, through a forwarded port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
        return str(answer.read().decode())


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
