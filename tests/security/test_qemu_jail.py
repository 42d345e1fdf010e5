"""What a guest gains that has taken QEMU over: a probe runs where QEMU would, behind its wall."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.security.sandbox import PRELUDE

from skerry.machine import hypervisor, jail
from skerry.machine.full import fence, launching, spec
from skerry.machine.full.confine import Confined

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="system calls of x86-64"),
    pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="the probe is in Python"),
]

RUNNER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from skerry.machine.full import keeper
pid = keeper._fork(json.loads(sys.argv[2]), 2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
SOURCE = str(Path(__file__).resolve().parents[2] / "src")
PYTHON = "/usr/bin/python3"
ROOT_OF_ALL = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "tmp", "usr"}

PROBE = (
    PRELUDE
    + """
import signal, socket, struct
given = json.loads(sys.argv[1])
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000

def forked():
    pid = libc.syscall(56, signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if pid == -1 else "OK"

def joins(address):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(address)

def sends(address):
    # What a filter drops is told to UDP's sender at once.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address)

def makes(family, kind):
    return attempt(lambda: socket.socket(family, kind).close())

status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
folder = os.open("/", os.O_RDONLY)
files = {path: attempt(lambda: os.close(os.open(path, os.O_RDONLY))) for path in given["files"]}
calls = {
    "unshare": call(272, CLONE_NEWUSER), "setns": call(308, -1, 0),
    "clone": call(56, CLONE_NEWUSER | signal.SIGCHLD | 0x800, 0), "clone3": call(435, 0, 0),
    "fork": forked(), "execve": call(59, b"/nonexistent", 0, 0),
    "execveat": call(322, folder, b"", 0, 0, 0x1000), "ptrace": call(101, 16, 1 << 22, 0, 0),
    "mount": call(165, 0, 0, 0, 0, 0), "umount2": call(166, 0, 0), "pivot_root": call(155, 0, 0),
    "open_tree": call(428, -1, 0, 0), "fsopen": call(430, 0, 0), "chroot": call(161, 0),
    "keyctl": call(250, 100), "add_key": call(248, 0, 0, 0, 0, 0), "bpf": call(321, 99, 0, 0),
    "process_vm_readv": call(310, 1 << 22, 0, 0, 0, 0, 0), "kcmp": call(312, 1, 1, 99, 0, 0),
    "pidfd_open": call(434, 1 << 22, 0), "pidfd_getfd": call(438, -1, 0, 0),
    "open_by_handle_at": call(304, -1, 0, 0), "io_uring_setup": call(425, 0, 0),
    "userfaultfd": call(323, 1 << 30), "perf_event_open": call(298, 0, 0, -1, -1, 0),
    "init_module": call(175, 0, 0, 0), "kexec_load": call(246, 0, 0, 0, 1 << 20),
    "setuid": call(105, 1 << 31), "personality": call(135, 0xFFFFFFFF),
    "kill": call(62, given["pid"], 0), "quotactl": call(179, -1, 0, 0, 0),
}
sockets = {
    "netlink": makes(16, 3), "packet": makes(17, 3), "vsock": makes(40, 1), "alg": makes(38, 5),
    "raw": makes(2, 3), "raw6": makes(10, 3), "tcp": makes(2, 1), "tcp6": makes(10, 1),
    "unix": makes(1, 1),
}
reached = {
    "path": attempt(lambda: joins(given["path"])),
    "abstract": attempt(lambda: joins("\\0" + given["abstract"])),
    "host": attempt(lambda: sends(("127.0.0.1", given["port"]))),
}
again = {
    "number": attempt(lambda: os.dup2(folder, given["number"])),
    "limit": call(302, 0, 7, struct.pack("QQ", 4096, 4096), 0),
    "program": call(322, given["number"], b"", 0, 0, 0x1000),
} if given["walled"] else {}
os.write(2, json.dumps({
    "files": files, "calls": calls, "sockets": sockets, "reached": reached, "again": again,
    "root": os.listdir("/"), "etc": os.listdir("/etc"), "dev": os.listdir("/dev"),
    "proc": [name for name in os.listdir("/proc") if name not in ("self", "thread-self")],
    "writes": {p: attempt(lambda: os.open(p + "/x", os.O_CREAT | os.O_WRONLY))
               for p in (("/", "/usr", "/etc", "/usr/bin") if given["walled"] else ())},
    "ids": os.getresuid() + os.getresgid(), "groups": os.getgroups(),
    "users": os.readlink("/proc/self/ns/user"), "map": open("/proc/self/uid_map").read().split(),
    "status": {key: status[key].strip() for key in ("CapPrm", "CapEff", "CapBnd", "CapInh",
               "CapAmb", "NoNewPrivs", "Seccomp")},
}).encode())
"""
)


class Prey:
    """What of the host a machine must not reach: all of it is there, and open to anybody."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.files = [folder / "disk.qcow2", folder / "memory"]
        for path in self.files:
            path.write_text("another machine's")
            path.chmod(0o666)
        self.engine = socket.socket(socket.AF_UNIX)
        self.engine.bind(str(folder / "engine.sock"))
        (folder / "engine.sock").chmod(0o777)
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0skerry-test-{os.getpid()}")
        self.service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.service.bind(("127.0.0.1", 0))
        self.engine.listen()
        self.abstract.listen()
        self.given = {
            "files": [*map(str, self.files), "/proc/kcore", "/sys/kernel", "/etc/shadow", "/root"],
            "path": str(folder / "engine.sock"),
            "abstract": f"skerry-test-{os.getpid()}",
            "port": self.service.getsockname()[1],
            "pid": os.getpid(),
            "number": jail.FILES,
            "walled": True,
        }

    def close(self) -> None:
        for sock in (self.engine, self.abstract, self.service):
            sock.close()


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    made = Prey(tmp_path)
    yield made
    made.close()


def probe(wanted: Confined, prey: Prey, folder: Path) -> dict[str, Any]:
    """What the probe finds behind this wall."""
    (folder / "jail").mkdir()
    wanted.update(argv=[PYTHON, "-ISE", "-c", PROBE, json.dumps(prey.given)], keep=[], dies_with=0)
    wanted["root"] = str(folder / "jail")
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", RUNNER, SOURCE, json.dumps(wanted)],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stderr)
    return found


def full(folder: Path, **hardware: Any) -> Confined:
    """The wall of a full machine whose disk is in the folder `m`."""
    places = launching.Places(str(folder / "m"), str(folder / "run"))
    for path in (places.disks, places.sockets):
        os.makedirs(path)
    machine = spec.Hardware(uuid="u", **hardware)
    uid = jail.user_for(str(folder))
    return launching.plan(launching.Launch("m", machine, places, uid, "tcg", {}, {}))["confined"]


def check_wall(found: dict[str, Any], wanted: Confined) -> None:
    """What holds for every QEMU."""
    assert set(found["files"].values()) == {"ENOENT"}
    assert set(found["calls"].values()) == {"ENOSYS"}, found["calls"]
    for name in ("netlink", "packet", "vsock", "alg", "raw", "raw6"):
        assert found["sockets"][name] == "ENOSYS", name
    assert found["again"] == {"number": "EBADF", "limit": "EPERM", "program": "EBADF"}
    assert set(found["writes"].values()) <= {"EROFS", "EACCES"}
    assert set(found["dev"]) <= {"null", "zero", "urandom", "random", "kvm"}
    assert set(found["etc"]) <= {"ld.so.cache", "resolv.conf", "hosts"}
    assert found["proc"] == ["1"]
    assert set(found["ids"]) == {wanted["uid"]}
    assert found["status"].pop("NoNewPrivs") == "1"
    assert found["status"].pop("Seccomp") == "2"
    assert {int(mask, 16) for mask in found["status"].values()} == {0}
    if found["users"] != os.readlink("/proc/self/ns/user"):
        assert found["map"] == [str(wanted["uid"])] * 2 + ["1"]


def test_a_containers_qemu_reaches_nothing(prey: Prey, tmp_path: Path) -> None:
    wanted = hypervisor.jail([], 0, id_="some machine", root="")
    found = probe(wanted, prey, tmp_path)
    check_wall(found, wanted)
    assert set(found["root"]) <= ROOT_OF_ALL
    assert set(found["sockets"].values()) == {"ENOSYS"}
    assert set(found["reached"].values()) == {"ENOSYS"}


def test_a_full_machines_qemu_reaches_its_own_files(prey: Prey, tmp_path: Path) -> None:
    wanted = full(tmp_path)
    found = probe(wanted, prey, tmp_path)
    check_wall(found, wanted)
    assert set(found["root"]) <= ROOT_OF_ALL | {"q", str(tmp_path).split("/")[1]}
    # Of sockets only the screen's, which is a file beside nothing else.
    assert found["sockets"]["tcp"] == found["sockets"]["tcp6"] == "ENOSYS"
    assert found["reached"] == {"path": "ENOENT", "abstract": "ECONNREFUSED", "host": "ENOSYS"}


def test_a_qemu_in_the_hosts_network_reaches_nothing_of_the_host(
    prey: Prey, tmp_path: Path
) -> None:
    wanted = full(tmp_path, nics=(spec.Nic("nat", "52:54:00:00:00:01"),))
    assert wanted["network"] == "host"
    title = fence.name(str(tmp_path), "m")
    fence.build(title, wanted["uid"])
    try:
        found = probe(wanted, prey, tmp_path)
    finally:
        fence.remove(title)
    check_wall(found, wanted)
    scoped = subprocess.run(
        [sys.executable, "-c", "from skerry.kernel import landlock; print(landlock.scope())"],
        capture_output=True, text=True, check=True,
    ).stdout == "True\n"  # fmt: skip
    assert found["reached"]["path"] == "ENOENT"
    assert found["reached"]["host"] == "EPERM"
    assert found["reached"]["abstract"] == ("EPERM" if scoped else "OK")


def test_the_probe_reaches_all_of_it_without_the_wall(prey: Prey) -> None:
    """What the others assert to fail would work: it is the wall that keeps the probe in."""
    prey.given["walled"] = False
    found = json.loads(
        subprocess.run(
            [PYTHON, "-ISE", "-c", PROBE, json.dumps(prey.given)],
            stderr=subprocess.PIPE, timeout=120, check=True,
        ).stderr
    )  # fmt: skip
    assert [found["files"][str(path)] for path in prey.files] == ["OK", "OK"]
    assert set(found["reached"].values()) == {"OK"}
    assert found["calls"]["kill"] == found["calls"]["fork"] == "OK"
    assert "ENOSYS" not in {found["calls"][name] for name in ("unshare", "ptrace", "execve")}
    assert found["sockets"]["netlink"] == found["sockets"]["tcp"] == "OK"
    assert len(found["proc"]) > 1
