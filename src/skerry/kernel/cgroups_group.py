"""The control group of a container: what both versions have in common.

`Cgroup(path, layout)` is the group `path` (with a leading slash) below the mount points; nothing is
touched until a method is called. The life of a group::

    create(writes) ─> join_self() or clone into directory_fd() ─> … ─> kill_all() ─> remove()

A group that a killed engine left behind is found again by its path alone.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from skerry.base.errors import Conflict, InvalidInput, KernelFault, SystemFault
from skerry.base.light import Any, NamedTuple
from skerry.kernel import cgroups_files as files
from skerry.kernel.cgroups_files import Read, Write
from skerry.kernel.cgroups_layout import Layout

REMOVE_SECONDS = 5.0
KILL_SECONDS = 10.0
FREEZE_SECONDS = 2.0


class OomWatch(NamedTuple):
    """A descriptor to poll for `mask`: readable when the kernel may have killed for lack of memory.

    Then `clear` it, and ask `oom_kills`, for a while: v1 wakes before it kills. Whoever gets it
    closes it; on v1 it also wakes up once when the group is removed.
    """

    fd: int
    mask: int

    def clear(self) -> None:
        """Until then it is ready: an eventfd is counted down, a control file read anew."""
        with suppress(OSError):
            os.read(self.fd, 8)
        with suppress(OSError):
            os.pread(self.fd, 4096, 0)


class Cgroup:
    """A group, on whichever version `layout` has. On a host without cgroups it does nothing."""

    path: str
    layout: Layout

    def __new__(cls, path: str, layout: Layout) -> "Cgroup":
        """The class for the version: only that one's module is loaded."""
        if cls is not Cgroup:
            return super().__new__(cls)
        if layout.version == 2:
            from skerry.kernel.cgroups_v2 import CgroupV2

            return super().__new__(CgroupV2)
        from skerry.kernel.cgroups_v1 import CgroupV1

        return super().__new__(CgroupV1)

    def __init__(self, path: str, layout: Layout) -> None:
        if not path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
            raise InvalidInput(f"cgroup path {path!r:.200} is not allowed")
        self.path = path.rstrip("/")
        self.layout = layout

    def directories(self) -> tuple[str, ...]:
        """Where the group is, in every tree that it is part of."""
        raise NotImplementedError

    def directory_of(self, controller: str) -> str:
        """The group's directory in the tree of `controller`; empty when there is none."""
        raise NotImplementedError

    def create(self, writes: Iterable[Write] = ()) -> None:
        """Make the group and set its limits; nothing is left when that fails.

        An empty group of this path is taken over. Conflict when it has processes.
        """
        raise NotImplementedError

    def apply(self, writes: Iterable[Write]) -> None:
        """Change limits of a group that exists. Stops at the first that is refused."""
        files.carry_out(writes, self.directory_of, self._attach_devices)

    def _attach_devices(self, value: str) -> None:
        raise SystemFault("a device program belongs to cgroup v2")

    def join_self(self) -> None:
        """Move the calling, single-threaded process in. Not needed after a clone into it."""
        raise NotImplementedError

    def join(self, pid: int) -> None:
        """Move another process in. Takes 4 to 20 ms: the kernel waits for a grace period."""
        for directory in self.directories():
            self._move(directory, pid)

    def _move(self, directory: str, pid: int) -> None:
        try:
            files.put(f"{directory}/cgroup.procs", str(pid))
        except OSError as error:
            raise self._cannot_join(directory, error) from None

    def _cannot_join(self, directory: str, error: OSError) -> SystemFault:
        hints = {
            errno.ENOSPC: "the group has no CPUs or memory nodes: see cpuset.cpus, cpuset.mems",
            errno.EBUSY: "the group has children with controllers, so it cannot hold processes",
            errno.EOPNOTSUPP: "the group is threaded: see cgroup.type in it and above",
            errno.EINVAL: "real-time processes need cpu.rt_runtime_us in their group",
            errno.EAGAIN: "pids.max is reached",
            errno.EACCES: "the group is not delegated to this user",
            errno.EPERM: "the group is not delegated to this user",
        }
        code = error.errno or 0
        return KernelFault(f"join cgroup {directory}", code, hint=hints.get(code, ""))

    def directory_fd(self, pid: int = 0) -> int:
        """A descriptor of the v2 directory for CLONE_INTO_CGROUP, -1 on v1; the caller closes it.

        With `pid` the group below this one in which that process is: a container that has made
        groups of its own cannot take processes at the top any more.
        """
        return -1

    def freeze(self, seconds: float = FREEZE_SECONDS) -> None:
        """Stop every process below; returns once they have stopped. Idempotent. SystemFault, thawed
        again, when one does not within the time."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let them go on. Idempotent."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether the group was frozen by itself (not by one above)."""
        raise NotImplementedError

    def pids(self, recursive: bool = True) -> list[int]:
        """Processes in the group, in the caller's pid namespace, ascending; [] when it is gone."""
        raise NotImplementedError

    def signal_all(self, number: int) -> None:
        """Send a signal to every process below, without a gap for a fork to slip through."""
        was_frozen = self.frozen()
        if not was_frozen:
            self._try_freeze()
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        finally:
            if not was_frozen or number == signal.SIGKILL:
                self.thaw()

    def _try_freeze(self) -> None:
        # A task in an uninterruptible wait holds the freezer up; then the signal goes as it can.
        try:
            self.freeze()
        except SystemFault:
            self.thaw()

    def kill_all(self, timeout: float = KILL_SECONDS) -> None:
        """Kill every process below, frozen or not; returns once all have gone (zombies aside)."""
        if self._surely_empty():
            return
        deadline = time.monotonic() + timeout
        while self.pids():
            self.signal_all(signal.SIGKILL)
            if not self.wait_empty(min(0.2, max(0.0, deadline - time.monotonic()))):
                self._check_deadline(deadline)

    def _surely_empty(self) -> bool:
        """A cheap way to know that nothing is left; False when it cannot be known."""
        return False

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() < deadline:
            return
        left = ", ".join(str(pid) for pid in self.pids()[:10])
        raise SystemFault(
            f"cannot kill the processes of cgroup {self.path}: {left} still run",
            hint="they wait for a device or file system: see state D in ps",
        )

    def wait_empty(self, timeout: float) -> bool:
        """Wait until no process is left below; whether that came true in time."""
        return poll(lambda: not self.pids(), timeout)

    def stats(self, *, whole: bool = True, read: Read = files.parsed) -> dict[str, Any]:
        """One reading of the counters; parts whose controller is missing are zero or empty. `read`
        reads the files.

        Unless it is to be `whole`, nothing is read for percpu_ns, failcnt, swap_*, refused,
        io_operations, hugetlb and pressure, which are missing then: each costs files to open.

        cpu: usage_ns user_ns system_ns periods throttled_periods throttled_ns [percpu_ns];
        memory: usage max limit failcnt swap_usage swap_limit (swap alone) stat{name: number};
        pids: current limit refused; io: [(major, minor, operation, bytes)]; io_operations: counts;
        hugetlb: {page size: {usage max failcnt}}; pressure (v2): {cpu|memory|io: text}.
        Bytes, and UNLIMITED (2**64-1) or v1's 2**63-4096 where there is no limit.
        """
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the kernel killed here for lack of memory."""
        raise NotImplementedError

    def refused_forks(self) -> int:
        """How often a process was refused here because of the limit."""
        raise NotImplementedError

    def watch_oom(self) -> OomWatch:
        """Something to poll for the next one. Unsupported without a memory controller."""
        raise NotImplementedError

    def exists(self) -> bool:
        """Whether any part of the group is there."""
        return any(os.path.isdir(directory) for directory in self.directories())

    def remove(self, timeout: float = REMOVE_SECONDS) -> None:
        """Remove the group and the groups in it, in every tree. Idempotent.

        A group stays busy for a moment after its last process has died, so this waits a little;
        Conflict, naming processes, when it stays in use.
        """
        deadline = time.monotonic() + timeout
        for directory in self.directories():
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                self._remove_tree(directory, deadline)

    def _remove_tree(self, directory: str, deadline: float) -> None:
        pause = 0.0002
        while True:
            try:
                for child in children(directory):
                    self._remove_tree(child, deadline)
                os.rmdir(directory)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise KernelFault(f"remove cgroup {directory}", error.errno or 0) from None
                if time.monotonic() > deadline:
                    left = ", ".join(files.text(f"{directory}/cgroup.procs").split()[:10])
                    raise Conflict(
                        f"cannot remove cgroup {directory}: still in use",
                        hint=f"processes in it: {left or 'none that this process can see'}",
                    ) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.05)


def children(directory: str) -> list[str]:
    """The groups right below; [] when it is gone."""
    try:
        # Control files do not count as links, so most groups need no listing.
        if os.stat(directory).st_nlink == 2:
            return []
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def tree(directory: str) -> list[str]:
    """A group and every group below, top first."""
    found = [directory]
    for place in found:
        found.extend(children(place))
    return found


def poll(done: Callable[[], bool], timeout: float) -> bool:
    """Ask until `done()`, at growing intervals; whether it came true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.0002
    while not done():
        if time.monotonic() >= deadline:
            return done()
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True
