"""Real control groups, on whichever version this host has: from being made to being removed."""

import contextlib
import errno
import itertools
import mmap
import os
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from skerry.base.errors import Conflict, InvalidInput, SkerryError, Unsupported
from skerry.kernel import cgroups
from skerry.kernel.cgroups import Cgroup, plan
from skerry.kernel.namespaces import clone3

pytestmark = pytest.mark.root

LAYOUT = cgroups.detect()
PARENT = f"/skerry-test-{os.getpid()}"
MIB = 1 << 20
_numbers = itertools.count()
_children: list[int] = []


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A group that does not exist yet; killed and removed afterwards."""
    made = Cgroup(f"{PARENT}/{next(_numbers)}", LAYOUT)
    yield made
    made.thaw()
    made.kill_all()
    reap()
    made.remove()
    Cgroup(PARENT, LAYOUT).remove()


def reap() -> None:
    """Collect the children that `inside` made and nobody waited for; they were killed."""
    for pid in _children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    _children.clear()


def inside(group: Cgroup, task: Callable[[], int | None]) -> int:
    """Run `task` in a child that is in the group; returns its pid once it has joined."""
    read_end, write_end = os.pipe()
    fd = group.directory_fd()
    pid, pidfd = clone3(0, cgroup_fd=fd)
    if pid == 0:
        code = 99
        try:
            if fd < 0:
                group.join_self()
            os.close(read_end)
            os.write(write_end, b"in")
            code = task() or 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    _children.append(pid)
    os.close(pidfd)
    os.close(write_end)
    if fd >= 0:
        os.close(fd)
    joined = os.read(read_end, 2)
    os.close(read_end)
    assert joined == b"in", f"the child could not join: {os.waitpid(pid, 0)}"
    return pid


def exit_code(pid: int) -> int:
    """How the child ended; minus the signal's number when it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleeper() -> None:
    signal.pause()


def need(*controllers: str) -> None:
    """Skip where the host has no such controller."""
    for controller in controllers:
        if controller not in LAYOUT.controllers:
            pytest.skip(f"no {controller} controller")


def read(group: Cgroup, controller: str, v1: str, v2: str) -> str:
    """The text of a control file."""
    name = v2 if LAYOUT.version == 2 else v1
    with open(f"{group.directory_of(controller)}/{name}", encoding="ascii") as file:
        return file.read().strip()


def test_limits_are_in_force_and_nothing_stays(group: Cgroup) -> None:
    need("memory", "cpu", "pids")
    resources = {
        "memory": {"limit": 64 * MIB},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        "pids": {"limit": 20},
    }
    group.create(plan(group.path, resources, LAYOUT))
    assert read(group, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert read(group, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert read(group, "cpu", "cpu.shares", "cpu.weight") in ("512", "59")
    assert read(group, "pids", "pids.max", "pids.max") == "20"
    assert group.exists()
    group.remove()
    assert not group.exists()
    group.remove()


def test_a_process_is_in_every_tree(group: Cgroup) -> None:
    group.create()
    pid = inside(group, sleeper)
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        lines = file.read().splitlines()
    if LAYOUT.version == 1:
        # A tree of the kernel's that is mounted nowhere here is nobody's to join.
        here = {name for tree in LAYOUT.hierarchies for name in tree.controllers}
        lines = [line for line in lines if here & set(line.split(":")[1].split(","))]
    assert lines
    assert all(line.endswith(group.path) for line in lines)
    assert group.pids() == [pid]


def test_join_from_outside(group: Cgroup) -> None:
    group.create()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    group.join(pid)
    assert group.pids() == [pid]


def test_frozen_processes_do_not_answer(group: Cgroup) -> None:
    if LAYOUT.version == 1:
        need("freezer")
    group.create()
    to_child, from_us = os.pipe()
    to_us, from_child = os.pipe()

    def echo() -> None:
        while data := os.read(to_child, 1):
            os.write(from_child, data)

    inside(group, echo)
    assert not group.frozen()
    group.freeze()
    group.freeze()
    assert group.frozen()
    os.write(from_us, b"x")
    assert select.select([to_us], [], [], 0.05)[0] == []
    group.thaw()
    assert not group.frozen()
    assert select.select([to_us], [], [], 10)[0] == [to_us]
    for fd in (to_child, from_us, to_us, from_child):
        os.close(fd)


def test_a_fork_bomb_is_killed(group: Cgroup) -> None:
    need("pids")
    group.create(plan(group.path, {"pids": {"limit": 40}}, LAYOUT))

    def bomb() -> None:
        while True:
            with contextlib.suppress(OSError):
                os.fork()

    inside(group, bomb)
    deadline = time.monotonic() + 120
    while len(group.pids()) < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    group.kill_all()
    assert group.pids() == []


def test_what_is_frozen_can_be_killed(group: Cgroup) -> None:
    if LAYOUT.version == 1:
        need("freezer")
    group.create()
    pid = inside(group, sleeper)
    group.freeze()
    group.kill_all()
    assert exit_code(pid) == -signal.SIGKILL


def test_every_process_gets_a_signal_and_a_frozen_group_stays_frozen(group: Cgroup) -> None:
    if LAYOUT.version == 1:
        need("freezer")
    group.create()
    pids = [inside(group, sleeper) for _ in range(3)]
    group.signal_all(signal.SIGTERM)
    assert [exit_code(pid) for pid in pids] == [-signal.SIGTERM] * 3
    last = inside(group, sleeper)
    group.freeze()
    group.signal_all(signal.SIGTERM)
    assert group.frozen()
    assert group.pids() == [last]
    group.thaw()
    assert exit_code(last) == -signal.SIGTERM


def test_groups_made_inside_are_counted_killed_and_removed(group: Cgroup) -> None:
    group.create()
    below = Cgroup(f"{group.path}/a/b", LAYOUT)
    below.create()
    pid = inside(below, sleeper)
    assert group.pids(recursive=False) == []
    assert group.pids() == [pid]
    group.kill_all()
    exit_code(pid)
    group.remove()
    assert not group.exists()


def test_what_a_killed_engine_left_is_removed_by_path(group: Cgroup) -> None:
    other = os.fork()
    if other == 0:
        with contextlib.suppress(SkerryError):
            group.create()
            inside(group, sleeper)
        os.kill(os.getpid(), signal.SIGKILL)
    assert exit_code(other) == -signal.SIGKILL
    found = Cgroup(group.path, LAYOUT)
    assert len(found.pids()) == 1
    found.kill_all()
    found.remove()
    assert not found.exists()


def test_a_group_in_use_is_not_removed(group: Cgroup) -> None:
    group.create()
    pid = inside(group, sleeper)
    with pytest.raises(Conflict, match="still in use") as caught:
        group.remove(timeout=0.02)
    assert str(pid) in caught.value.hint
    assert group.exists()


def test_a_group_with_processes_is_not_taken_over(group: Cgroup) -> None:
    group.create()
    group.create()
    inside(group, sleeper)
    with pytest.raises(Conflict, match="holds processes"):
        group.create()


def test_a_refused_limit_leaves_nothing(group: Cgroup) -> None:
    need("cpuset")
    with pytest.raises(InvalidInput, match=r"cpuset\.cpus"):
        group.create(plan(group.path, {"cpu": {"cpus": "4000"}}, LAYOUT))
    assert not group.exists()


def test_a_weight_without_its_scheduler_is_refused(group: Cgroup) -> None:
    need("blkio" if LAYOUT.version == 1 else "io")
    try:
        group.create(plan(group.path, {"blockIO": {"weight": 500}}, LAYOUT))
    except Unsupported as error:
        assert "bfq" in error.hint
        assert not group.exists()
    else:
        assert group.exists()


def test_memory_limits_grow_and_shrink_with_swap(group: Cgroup) -> None:
    need("memory")
    group.create()
    for limit, swap in ((32, 64), (128, 256), (16, 16), (64, 128)):
        resources = {"memory": {"limit": limit * MIB, "swap": swap * MIB}}
        try:
            group.apply(plan(group.path, resources, LAYOUT, devices=False))
        except Unsupported as error:
            pytest.skip(error.message)
        assert group.stats()["memory"]["limit"] == limit * MIB
        assert group.stats()["memory"]["swap_limit"] == (swap - limit) * MIB
    group.apply(plan(group.path, {"memory": {"limit": -1}}, LAYOUT, devices=False))
    assert group.stats()["memory"]["limit"] > 1 << 62


def take_memory(size: int) -> None:
    memory = mmap.mmap(-1, size)
    for place in range(0, size, mmap.PAGESIZE):
        memory[place] = 1
    signal.pause()


def test_check_before_update(group: Cgroup) -> None:
    need("memory")
    group.create()
    inside(group, lambda: take_memory(24 * MIB))
    deadline = time.monotonic() + 120
    while group.stats()["memory"]["usage"] < 24 * MIB and time.monotonic() < deadline:
        time.sleep(0.005)
    resources = {"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}}
    with pytest.raises(Conflict, match="uses"):
        group.apply(plan(group.path, resources, LAYOUT, devices=False))
    assert group.stats()["memory"]["limit"] > 1 << 62


def test_the_kernel_kills_for_memory_and_it_is_seen(group: Cgroup) -> None:
    need("memory")
    group.create(plan(group.path, {"memory": {"limit": 16 * MIB}}, LAYOUT))
    assert group.oom_kills() == 0
    watch = group.watch_oom()
    poller = select.poll()
    poller.register(watch.fd, watch.mask)
    pid = inside(group, lambda: take_memory(64 * MIB))
    assert exit_code(pid) == -signal.SIGKILL
    assert poller.poll(10_000)
    assert group.oom_kills() >= 1
    os.close(watch.fd)


def test_the_number_of_processes_is_limited(group: Cgroup) -> None:
    need("pids")
    group.create(plan(group.path, {"pids": {"limit": 1}}, LAYOUT))

    def fork() -> int:
        if os.fork() == 0:
            os._exit(0)
        return 0

    assert exit_code(inside(group, fork)) == errno.EAGAIN
    assert group.stats()["pids"]["refused"] >= 1


def test_devices_are_closed_unless_listed(group: Cgroup, tmp_path: object) -> None:
    if LAYOUT.version == 1:
        need("devices")
    # 1:11 is /dev/kmsg and 1:8 /dev/random (Documentation/admin-guide/devices.txt).
    closed, listed = f"{tmp_path}/kmsg", f"{tmp_path}/random"
    os.mknod(closed, 0o020600, os.makedev(1, 11))
    os.mknod(listed, 0o020600, os.makedev(1, 8))
    group.create(plan(group.path, {"devices": [{"allow": False, "access": "rwm"}]}, LAYOUT))

    def opened(path: str) -> Callable[[], None]:
        return lambda: os.close(os.open(path, os.O_RDONLY))

    assert exit_code(inside(group, opened(closed))) == errno.EPERM
    assert exit_code(inside(group, opened(listed))) == 0


def test_nodes_of_closed_devices_may_be_made(group: Cgroup, tmp_path: object) -> None:
    if LAYOUT.version == 1:
        need("devices")
    group.create(plan(group.path, {"devices": [{"allow": False, "access": "rwm"}]}, LAYOUT))
    node = f"{tmp_path}/kmsg"
    made = inside(group, lambda: os.mknod(node, 0o020600, os.makedev(1, 11)))
    assert exit_code(made) == 0
    opened = inside(group, lambda: os.close(os.open(node, os.O_RDONLY)))
    assert exit_code(opened) == errno.EPERM


def test_a_listed_device_opens_for_the_listed_access_only(group: Cgroup, tmp_path: object) -> None:
    if LAYOUT.version == 1:
        need("devices")
    node = f"{tmp_path}/kmsg"
    os.mknod(node, 0o020600, os.makedev(1, 11))
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    group.create(plan(group.path, {"devices": [rule]}, LAYOUT))
    read_only = inside(group, lambda: os.close(os.open(node, os.O_RDONLY)))
    assert exit_code(read_only) == 0
    written = inside(group, lambda: os.close(os.open(node, os.O_WRONLY)))
    assert exit_code(written) == errno.EPERM


def test_counters(group: Cgroup) -> None:
    need("memory", "pids")
    group.create(plan(group.path, {"pids": {"limit": 7}}, LAYOUT))
    before = group.stats()
    brief = group.stats(whole=False)
    assert set(brief) == {"cpu", "memory", "pids", "io"}
    assert set(brief["memory"]) == {"usage", "max", "limit", "stat"}
    assert set(brief["memory"]["stat"]) == set(before["memory"]["stat"])
    assert before["cpu"]["usage_ns"] == 0
    assert before["pids"] == {"current": 0, "limit": 7, "refused": 0}

    def work() -> None:
        memory = mmap.mmap(-1, 4 * MIB)
        end = time.process_time() + 0.05
        while time.process_time() < end:
            for place in range(0, len(memory), mmap.PAGESIZE):
                memory[place] = 1

    assert exit_code(inside(group, work)) == 0
    after = group.stats()
    assert after["cpu"]["usage_ns"] > 40_000_000
    assert after["memory"]["max"] > 4 * MIB or after["memory"]["max"] == 0
    assert after["memory"]["limit"] > 1 << 62
    assert after["memory"]["stat"]


def test_many_starters_of_one_new_parent(group: Cgroup) -> None:
    """Engines that start at once meet a parent that another one has just made."""
    starters = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                mine = Cgroup(f"{group.path}/new/{number}", LAYOUT)
                mine.create(plan(mine.path, {"pids": {"limit": 9}}, LAYOUT))
                code = exit_code(inside(mine, lambda: 0))
                mine.remove()
            except SkerryError as error:
                os.write(2, f"{error}\n".encode())
            finally:
                os._exit(code)
        starters.append(pid)
    assert [exit_code(pid) for pid in starters] == [0] * 8


def test_pids_of_a_group_that_is_gone(group: Cgroup) -> None:
    assert group.pids() == []
    assert not group.frozen()
    group.thaw()
    group.kill_all()
    assert group.stats()["memory"]["usage"] == 0
