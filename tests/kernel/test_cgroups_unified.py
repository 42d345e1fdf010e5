"""What only cgroup v2 has: handing controllers down, one directory, free-form limits."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.base.errors import KernelFault
from skerry.kernel import cgroups, mounts
from skerry.kernel.cgroups import Cgroup, Hierarchy, Layout, plan
from skerry.kernel.namespaces import CLONE_NEWCGROUP, CLONE_NEWNS, clone3

LAYOUT = cgroups.detect()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(LAYOUT.version != 2, reason="the limits of this host are on cgroup v1"),
]

TOP = f"/skerry-v2-{os.getpid()}"


@pytest.fixture
def top() -> Iterator[Cgroup]:
    """A group of our own at the root, made without any controller handed down."""
    group = Cgroup(TOP, LAYOUT)
    os.mkdir(directory(group))
    yield group
    group.kill_all()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    group.remove()


def directory(group: Cgroup) -> str:
    return group.directories()[0]


def text(group: Cgroup, file: str) -> str:
    return Path(directory(group), file).read_text().strip()


def sleeper(group: Cgroup) -> int:
    fd = group.directory_fd()
    pid, pidfd = clone3(0, cgroup_fd=fd)
    if pid == 0:
        signal.pause()
        os._exit(0)
    os.close(pidfd)
    os.close(fd)
    return pid


def test_controllers_are_handed_down_the_whole_way(top: Cgroup) -> None:
    assert text(top, "cgroup.subtree_control") == ""
    group = Cgroup(f"{TOP}/a/b", LAYOUT)
    group.create(plan(group.path, {"memory": {"limit": 64 << 20}}, LAYOUT))
    offered = set(LAYOUT.unified.controllers) if LAYOUT.unified else set()
    assert set(text(group, "cgroup.controllers").split()) == offered
    assert text(group, "cgroup.subtree_control") == ""
    assert text(group, "memory.max") == str(64 << 20)


def test_a_clone_starts_inside(top: Cgroup) -> None:
    group = Cgroup(f"{TOP}/a", LAYOUT)
    group.create()
    pid = sleeper(group)
    assert Path(f"/proc/{pid}/cgroup").read_text().strip().endswith(f"::{group.path}")


def test_a_parent_with_processes_cannot_hand_controllers_down(top: Cgroup) -> None:
    pid = sleeper(top)
    group = Cgroup(f"{TOP}/a", LAYOUT)
    with pytest.raises(KernelFault, match="enable the memory controller") as caught:
        group.create(plan(group.path, {"memory": {"limit": 64 << 20}}, LAYOUT))
    assert str(pid) in caught.value.hint
    assert "holds processes" in caught.value.hint
    assert not group.exists()
    # Without limits nothing needs to be handed down.
    group.create(plan(group.path, None, LAYOUT))
    assert group.exists()


def test_a_threaded_parent_is_named(top: Cgroup) -> None:
    Cgroup(f"{TOP}/a", LAYOUT).create()
    threaded = Cgroup(f"{TOP}/a/t", LAYOUT)
    os.mkdir(directory(threaded))
    Path(directory(threaded), "cgroup.type").write_text("threaded")
    group = Cgroup(f"{TOP}/a/t/x", LAYOUT)
    with pytest.raises(KernelFault) as caught:
        group.create(plan(group.path, {"memory": {"limit": 64 << 20}}, LAYOUT))
    assert "threaded" in caught.value.hint or "domain" in caught.value.hint
    assert not group.exists()


def test_the_group_in_which_a_container_put_its_init(top: Cgroup) -> None:
    group = Cgroup(f"{TOP}/a", LAYOUT)
    group.create()
    own = Cgroup(f"{TOP}/a/init", LAYOUT)
    own.create()
    pid = sleeper(own)
    fd = group.directory_fd(pid)
    assert os.readlink(f"/proc/self/fd/{fd}") == directory(own)
    os.close(fd)
    fd = group.directory_fd(os.getpid())
    assert os.readlink(f"/proc/self/fd/{fd}") == directory(group)
    os.close(fd)


def test_in_a_container_the_root_is_cleared(top: Cgroup, tmp_path: Path) -> None:
    """A container's root group holds its processes; they move so that limits become possible."""
    code = 1
    fd = top.directory_fd()
    pid, pidfd = clone3(CLONE_NEWCGROUP | CLONE_NEWNS, cgroup_fd=fd)
    if pid == 0:
        try:
            mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
            mounts.mount("none", str(tmp_path), "cgroup2")
            tree = Hierarchy(("memory", "pids"), str(tmp_path), "/")
            inner = Cgroup("/skerry/c1", Layout("unified", (), tree))
            inner.create(plan(inner.path, {"memory": {"limit": 32 << 20}}, inner.layout))
            found = Path(directory(inner), "memory.max").read_text().strip()
            own = Path("/proc/self/cgroup").read_text().strip()
            code = 0 if (found, own) == (str(32 << 20), "0::/init") else 2
        finally:
            os._exit(code)
    os.close(pidfd)
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_free_form_limits(top: Cgroup) -> None:
    group = Cgroup(f"{TOP}/a", LAYOUT)
    resources = {
        "unified": {"memory.high": str(32 << 20), "cpu.weight": "77", "pids.max": "33"},
        "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 16 << 20},
        "cpu": {"shares": 1024, "quota": 20_000, "burst": 10_000, "cpus": "0"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
    }
    group.create(plan(group.path, resources, LAYOUT))
    expected = {
        "memory.high": str(32 << 20),
        "memory.max": str(64 << 20),
        "memory.low": str(16 << 20),
        "memory.swap.max": "0",
        "cpu.weight": "77",
        "cpu.max": "20000 100000",
        "cpu.max.burst": "10000",
        "cpuset.cpus": "0",
        "pids.max": "33",
        "hugetlb.2MB.max": str(4 << 20),
        "hugetlb.2MB.rsvd.max": str(4 << 20),
    }
    assert {file: text(group, file) for file in expected} == expected


def test_block_io_limits_on_a_disk(top: Cgroup, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    asked = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
    device = asked.stdout.strip()
    if asked.returncode or not device:
        pytest.skip("no loop devices")
    subprocess.run(["losetup", device, str(image)], check=True)
    try:
        number = os.stat(device).st_rdev
        entry = {"major": os.major(number), "minor": os.minor(number), "rate": 1 << 20}
        group = Cgroup(f"{TOP}/a", LAYOUT)
        resources = {"blockIO": {"throttleReadBpsDevice": [entry], "weight": 500}}
        group.create(plan(group.path, resources, LAYOUT))
        line = f"{os.major(number)}:{os.minor(number)} rbps=1048576 wbps=max riops=max wiops=max"
        assert text(group, "io.max") == line
        weights = [f for f in ("io.bfq.weight", "io.weight") if Path(directory(group), f).exists()]
        assert weights
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_pressure_is_read(top: Cgroup) -> None:
    group = Cgroup(f"{TOP}/a", LAYOUT)
    group.create()
    if not Path("/proc/pressure").exists():
        pytest.skip("the kernel keeps no pressure figures")
    assert group.stats()["pressure"]["memory"].startswith("some avg10=")
