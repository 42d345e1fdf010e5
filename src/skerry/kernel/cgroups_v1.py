"""A container's group on cgroup v1: one directory in every mounted tree.

All trees are joined, also those without limits and `name=systemd`, so that nothing of a container
stays in its starter's group: the counters are its own and a service manager that sweeps the
starter's group does not take the container along. (The empty v2 tree of a hybrid layout limits and
counts nothing; entering it would add a clone under the kernel's one cgroup lock.) Joining is cheap
only for a single thread that writes `0` to `tasks`: any other way waits for an RCU grace period in
every tree.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterable

from skerry.base.errors import Conflict, KernelFault, SkerryError, SystemFault, Unsupported
from skerry.base.light import Any
from skerry.kernel import cgroups_files as files
from skerry.kernel.cgroups_files import Read, Write
from skerry.kernel.cgroups_group import FREEZE_SECONDS, Cgroup, OomWatch, tree
from skerry.kernel.cgroups_layout import Layout

_TICKS = os.sysconf("SC_CLK_TCK")


class CgroupV1(Cgroup):
    """See Cgroup."""

    def __init__(self, path: str, layout: Layout) -> None:
        super().__init__(path, layout)
        self._directories = tuple(place.mount + self.path for place in layout.hierarchies)

    def directories(self) -> tuple[str, ...]:
        """One in every v1 tree."""
        return self._directories

    def directory_of(self, controller: str) -> str:
        """The group's directory in the tree of `controller`; empty when it is not mounted."""
        for hierarchy, directory in zip(self.layout.hierarchies, self._directories, strict=True):
            if controller in hierarchy.controllers:
                return directory
        return ""

    def create(self, writes: Iterable[Write] = ()) -> None:
        """See Cgroup.create."""
        made: list[str] = []
        try:
            for hierarchy, directory in zip(
                self.layout.hierarchies, self._directories, strict=True
            ):
                cpuset = "cpuset" in hierarchy.controllers
                if _make(directory, hierarchy.mount, cpuset):
                    made.append(directory)
                elif files.text(f"{directory}/cgroup.procs"):
                    raise Conflict(
                        f"cgroup {directory} holds processes already",
                        hint="stop what runs there, or choose another linux.cgroupsPath",
                    )
            files.carry_out(writes, self.directory_of)
        except BaseException:
            for directory in reversed(made):
                try:
                    os.rmdir(directory)
                except OSError:
                    continue
            raise

    def join_self(self) -> None:
        """See Cgroup.join_self; 15 microseconds a tree."""
        for directory in self._directories:
            try:
                fd = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, b"0")
                finally:
                    os.close(fd)
            except OSError as error:
                raise self._cannot_join(directory, error) from None

    def pids(self, recursive: bool = True) -> list[int]:
        """See Cgroup.pids."""
        directory = self._counting_directory()
        if not directory:
            return []
        found: set[int] = set()
        for place in tree(directory) if recursive else (directory,):
            found.update(map(int, files.text(f"{place}/cgroup.procs").split()))
        found.discard(0)  # a process of another pid namespace
        return sorted(found)

    def _surely_empty(self) -> bool:
        # Counts zombies and groups below as well. Listing processes makes the kernel sort them.
        directory = self.directory_of("pids")
        return bool(directory) and files.text(f"{directory}/pids.current") == "0\n"

    def _counting_directory(self) -> str:
        # The freezer's tree: what is frozen is what is counted and killed.
        for controller in ("freezer", "pids", "memory", "devices"):
            if directory := self.directory_of(controller):
                return directory
        return self._directories[0] if self._directories else ""

    def freeze(self, seconds: float = FREEZE_SECONDS) -> None:
        """See Cgroup.freeze."""
        directory = self.directory_of("freezer")
        if not directory:
            raise Unsupported(
                "cannot pause: the cgroup controller freezer is not available",
                hint="mount it: mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer",
            )
        deadline = time.monotonic() + seconds
        pause = 0.0002
        while True:
            # Written again each time: a process forked meanwhile can leave it at FREEZING.
            self._set_state(directory, "FROZEN")
            if files.text(f"{directory}/freezer.state") == "FROZEN\n":
                return
            if time.monotonic() > deadline:
                self._set_state(directory, "THAWED")
                raise SystemFault(
                    f"cannot freeze cgroup {self.path}",
                    hint="a process waits for a device or file system: see state D in ps",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def thaw(self) -> None:
        """See Cgroup.thaw."""
        if directory := self.directory_of("freezer"):
            self._set_state(directory, "THAWED")

    def _set_state(self, directory: str, state: str) -> None:
        try:
            files.put(f"{directory}/freezer.state", state)
        except FileNotFoundError:
            if state != "THAWED":
                raise KernelFault(f"freeze cgroup {directory}", errno.ENOENT) from None
        except OSError as error:
            raise KernelFault(f"set {directory} to {state}", error.errno or 0) from None

    def frozen(self) -> bool:
        """See Cgroup.frozen."""
        directory = self.directory_of("freezer")
        return bool(directory) and files.number(f"{directory}/freezer.self_freezing") == 1

    def signal_all(self, number: int) -> None:
        """See Cgroup.signal_all; without a freezer a fork can slip through, so kill_all repeats."""
        if self.directory_of("freezer"):
            # Groups that the container froze inside its own hold signals back as well.
            if number == signal.SIGKILL:
                for place in tree(self.directory_of("freezer"))[1:]:
                    self._set_state(place, "THAWED")
            super().signal_all(number)
            return
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills."""
        directory = self.directory_of("memory")
        return files.table(files.text(f"{directory}/memory.oom_control")).get("oom_kill", 0)

    def refused_forks(self) -> int:
        """See Cgroup.refused_forks."""
        directory = self.directory_of("pids")
        return files.table(files.text(f"{directory}/pids.events")).get("max", 0)

    def watch_oom(self) -> OomWatch:
        """See Cgroup.watch_oom: an eventfd tied to memory.oom_control."""
        directory = self.directory_of("memory")
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unsupported(f"cannot watch {self.path} for lack of memory: {error}") from None
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            files.put(f"{directory}/cgroup.event_control", f"{event} {control}")
        except OSError as error:
            os.close(event)
            raise KernelFault(f"watch {directory}/memory.oom_control", error.errno or 0) from None
        finally:
            os.close(control)
        return OomWatch(event, select.POLLIN)

    def stats(self, *, whole: bool = True, read: Read = files.parsed) -> dict[str, Any]:
        """See Cgroup.stats."""
        found = {
            "cpu": self._cpu_stats(whole, read),
            "memory": self._memory_stats(whole, read),
            "pids": self._pids_stats(whole, read),
            "io": self._block_io("io_service_bytes", read),
        }
        if whole:
            found |= {
                "io_operations": self._block_io("io_serviced", read),
                "hugetlb": self._huge_page_stats(),
                "pressure": {},
            }
        return found

    def _cpu_stats(self, whole: bool, read: Read) -> dict[str, Any]:
        account, cpu = self.directory_of("cpuacct"), self.directory_of("cpu")
        ticks = read(f"{account}/cpuacct.stat", files.table)
        throttled = read(f"{cpu}/cpu.stat", files.table)
        found: dict[str, Any] = {
            "usage_ns": read(f"{account}/cpuacct.usage", files.parse_number),
            "user_ns": ticks.get("user", 0) * 10**9 // _TICKS,
            "system_ns": ticks.get("system", 0) * 10**9 // _TICKS,
            "periods": throttled.get("nr_periods", 0),
            "throttled_periods": throttled.get("nr_throttled", 0),
            "throttled_ns": throttled.get("throttled_time", 0),
        }
        if whole:
            each = read(f"{account}/cpuacct.usage_percpu", str.split)
            found["percpu_ns"] = [int(number) for number in each]
        return found

    def _memory_stats(self, whole: bool, read: Read) -> dict[str, Any]:
        start = f"{self.directory_of('memory')}/memory."
        usage = read(f"{start}usage_in_bytes", files.parse_number)
        limit = read(f"{start}limit_in_bytes", files.parse_number)
        found: dict[str, Any] = {
            "usage": usage,
            "max": read(f"{start}max_usage_in_bytes", files.parse_number),
            "limit": limit,
            "stat": read(f"{start}stat", files.table),
        }
        if whole:
            with_swap = read(f"{start}memsw.usage_in_bytes", files.parse_number)
            swap_limit = read(f"{start}memsw.limit_in_bytes", files.parse_number)
            found |= {
                "failcnt": read(f"{start}failcnt", files.parse_number),
                "swap_usage": max(with_swap - usage, 0),
                "swap_limit": max(swap_limit - limit, 0) if limit < 1 << 62 else swap_limit,
            }
        return found

    def _pids_stats(self, whole: bool, read: Read) -> dict[str, int]:
        directory = self.directory_of("pids")
        found = {
            "current": read(f"{directory}/pids.current", files.parse_number),
            "limit": read(f"{directory}/pids.max", files.parse_number)
            if directory
            else files.UNLIMITED,
        }
        if whole:
            found["refused"] = self.refused_forks()
        return found

    def _block_io(self, counter: str, read: Read) -> list[tuple[int, int, str, int]]:
        directory = self.directory_of("blkio")
        for kind in ("bfq", "throttle"):
            rows: list[tuple[int, int, str, int]]
            rows = read(f"{directory}/blkio.{kind}.{counter}_recursive", block_rows)
            if rows:
                return rows
        return []

    def _huge_page_stats(self) -> dict[str, dict[str, int]]:
        directory = self.directory_of("hugetlb")
        found = {}
        for size in page_sizes(directory, ".usage_in_bytes"):
            start = f"{directory}/hugetlb.{size}."
            found[size] = {
                "usage": files.number(f"{start}usage_in_bytes"),
                "max": files.number(f"{start}max_usage_in_bytes"),
                "failcnt": files.number(f"{start}failcnt"),
            }
        return found


def block_rows(text: str) -> list[tuple[int, int, str, int]]:
    """Lines of `major:minor Operation number` (blkio-controller.rst), without the total line."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3:
            continue
        major, _, minor = words[0].partition(":")
        if major.isdigit() and minor.isdigit() and words[2].isdigit():
            rows.append((int(major), int(minor), words[1], int(words[2])))
    return rows


def page_sizes(directory: str, end: str) -> list[str]:
    """The huge page sizes of a group's hugetlb files, without the reservation ones."""
    if not directory:
        return []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    sizes = [
        n[len("hugetlb.") : -len(end)]
        for n in names
        if n.startswith("hugetlb.") and n.endswith(end)
    ]
    return sorted(size for size in sizes if "." not in size)


def _make(directory: str, mount: str, cpuset: bool) -> bool:
    """Make a group and those above it; whether it is new."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        above = os.path.dirname(directory)
        if above in (mount, "/", "") or not directory.startswith(mount + "/"):
            raise SystemFault(f"cgroup tree {mount} is not mounted any more") from None
        _make(above, mount, cpuset)
        return _make(directory, mount, cpuset)
    except OSError as error:
        hint = "run as root, or delegate a cgroup" if error.errno == errno.EACCES else ""
        raise KernelFault(f"make cgroup {directory}", error.errno or 0, hint=hint) from None
    if cpuset:
        try:
            _fill_cpuset(directory, mount)
        except (OSError, SkerryError):
            os.rmdir(directory)
            raise
    return True


def _fill_cpuset(directory: str, mount: str) -> None:
    """Give a new group its parent's CPUs and memory nodes: without any nobody can join.

    Groups made below with cgroup.clone_children come filled, so only the first in a tree pays.
    """
    above = os.path.dirname(directory)
    # The setting above may be younger than this group, so it alone proves nothing.
    inherits = files.text(f"{above}/cgroup.clone_children") == "1\n"
    for name in ("cpuset.cpus", "cpuset.mems"):
        if files.text(f"{directory}/{name}").strip():
            continue
        if above != mount and not files.text(f"{above}/{name}").strip():
            # Another process has just made it and not filled it yet.
            _fill_cpuset(above, mount)
        files.put(f"{directory}/{name}", files.text(f"{above}/{name}").strip())
    if not inherits:
        files.put(f"{directory}/cgroup.clone_children", "1")
