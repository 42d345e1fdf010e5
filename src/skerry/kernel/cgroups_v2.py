"""A container's group on cgroup v2: one directory, entered by clone3(CLONE_INTO_CGROUP).

Two rules of the unified tree shape this module (Documentation/admin-guide/cgroup-v2.rst). A
controller works in a group only when every group above lists it in cgroup.subtree_control. And a
group that hands controllers down holds no processes itself (the root excepted).
"""

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Iterable

from skerry.base.errors import Conflict, KernelFault, SystemFault, Unsupported
from skerry.base.light import Any
from skerry.kernel import cgroups_files as files
from skerry.kernel.cgroups_files import Read, Write
from skerry.kernel.cgroups_group import FREEZE_SECONDS, Cgroup, OomWatch, tree
from skerry.kernel.cgroups_layout import Layout

_CORE = ("devices", "cgroup")
"""What a group can do without a controller: device programs, cgroup.freeze and its kin."""


class CgroupV2(Cgroup):
    """See Cgroup."""

    def __init__(self, path: str, layout: Layout) -> None:
        super().__init__(path, layout)
        if layout.unified is None:
            raise SystemFault("cgroup v2 is not mounted")
        self._mount = layout.unified.mount
        self._offered = layout.unified.controllers
        self._directory = self._mount + self.path

    def directories(self) -> tuple[str, ...]:
        """The one directory."""
        return (self._directory,)

    def directory_of(self, controller: str) -> str:
        """The one directory."""
        return self._directory

    def create(self, writes: Iterable[Write] = ()) -> None:
        """See Cgroup.create."""
        writes = tuple(writes)
        made: list[str] = []
        try:
            self._make(self._directory, made)
            if not made and files.text(f"{self._directory}/cgroup.procs"):
                raise Conflict(
                    f"cgroup {self._directory} holds processes already",
                    hint="stop what runs there, or choose another linux.cgroupsPath",
                )
            self._enable({write.controller for write in writes} - set(_CORE))
            self._settle()
            self.apply(writes)
        except BaseException:
            for directory in reversed(made):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            raise

    def _make(self, directory: str, made: list[str]) -> None:
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return
        except FileNotFoundError:
            if not os.path.dirname(directory).startswith(self._mount + "/"):
                raise SystemFault(f"cgroup tree {self._mount} is not mounted any more") from None
            self._make(os.path.dirname(directory), made)
            self._make(directory, made)
            return
        except OSError as error:
            hints = {
                errno.EACCES: "run as root, or delegate a cgroup to this user (Delegate=yes)",
                errno.EAGAIN: "cgroup.max.descendants or cgroup.max.depth is reached above",
            }
            code = error.errno or 0
            raise KernelFault(f"make cgroup {directory}", code, hint=hints.get(code, "")) from None
        made.append(directory)

    def _enable(self, needed: set[str]) -> None:
        """Have every group above hand down all controllers it can; SystemFault without `needed`."""
        here = set(files.text(f"{self._directory}/cgroup.controllers").split())
        if here.issuperset(self._offered):
            return
        refusals: dict[str, OSError] = {}
        place = self._mount
        for name in self.path.split("/")[1:]:
            handed_down = files.text(f"{place}/cgroup.subtree_control").split()
            missing = [one for one in self._offered if one not in handed_down]
            if missing and place == self._mount:
                _make_room(place)
            for controller, error in _hand_down(place, missing).items():
                error.filename = place
                refusals.setdefault(controller, error)
            place = f"{place}/{name}"
        here = set(files.text(f"{self._directory}/cgroup.controllers").split())
        for controller in sorted(needed - here):
            raise self._not_enabled(controller, refusals.get(controller))

    def _settle(self) -> None:
        """Wait for another starter that is enabling controllers for our parent's groups.

        The kernel lists a controller in cgroup.controllers before it has made the controller's
        files, all under cgroup_mutex, which reading does not take. Writing cgroup.max.depth does;
        cgroup.subtree_control would too, but waits for removed siblings to be freed.
        """
        path = f"{self._directory}/cgroup.max.depth"
        with contextlib.suppress(OSError):
            files.put(path, files.text(path).strip() or "max")

    def _not_enabled(self, controller: str, error: OSError | None) -> SystemFault:
        action = f"enable the {controller} controller for cgroup {self.path}"
        if error is None:
            return KernelFault(action, errno.ENOENT, hint=f"no group above offers {controller}")
        where = error.filename or self._mount
        kind = files.text(f"{where}/cgroup.type").strip()
        code = error.errno or 0
        if kind in ("threaded", "domain threaded", "domain invalid"):
            hint = f"{where} is a {kind} group: choose a path in a domain group"
        elif code == errno.EBUSY:
            held = " ".join(files.text(f"{where}/cgroup.procs").split()[:5])
            hint = (
                f"{where} holds processes ({held}), and only groups without any can hand "
                "controllers down: move them into a group below it"
            )
        elif code in (errno.EACCES, errno.EPERM):
            hint = f"{where} is not delegated: with systemd, Delegate=yes in the unit above"
        else:
            hint = f"refused by {where}/cgroup.subtree_control"
        return KernelFault(action, code, hint=hint)

    def _attach_devices(self, value: str) -> None:
        from skerry.kernel import bpf_devices

        fd = self.directory_fd()
        kept = bpf_devices.kept_filter(value)
        try:
            if kept >= 0:
                bpf_devices.attach_program(fd, kept)
            else:
                bpf_devices.attach_device_filter(fd, json.loads(value))
        finally:
            os.close(fd)

    def join_self(self) -> None:
        """See Cgroup.join_self; 10 ms, so clone into `directory_fd` instead."""
        self.join(os.getpid())

    def directory_fd(self, pid: int = 0) -> int:
        """See Cgroup.directory_fd."""
        directory = self._directory
        if pid:
            for line in files.text(f"/proc/{pid}/cgroup").splitlines():
                inside = f"{self._mount}{line[3:]}"
                if line.startswith("0::/") and f"{inside}/".startswith(f"{directory}/"):
                    directory = inside
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelFault(f"open cgroup {directory}", error.errno or 0) from None

    def pids(self, recursive: bool = True) -> list[int]:
        """See Cgroup.pids."""
        found: set[int] = set()
        for place in tree(self._directory) if recursive else (self._directory,):
            # In a threaded group cgroup.procs cannot be read; its processes stand further up.
            found.update(map(int, files.text(f"{place}/cgroup.procs").split()))
        found.discard(0)  # a process of another pid namespace
        return sorted(found)

    def _surely_empty(self) -> bool:
        return "populated 0" in files.text(f"{self._directory}/cgroup.events")

    def wait_empty(self, timeout: float) -> bool:
        """See Cgroup.wait_empty: woken by cgroup.events."""
        return self._wait_for("populated 0", timeout)

    def _wait_for(self, line: str, timeout: float) -> bool:
        """Wait until cgroup.events says `line`; True when the group is gone."""
        try:
            fd = os.open(f"{self._directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            events = select.poll()
            events.register(fd, select.POLLPRI)
            deadline = time.monotonic() + timeout
            while True:
                try:
                    state = os.pread(fd, 256, 0).decode()
                except OSError:
                    return True
                if line in state.splitlines():
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                events.poll(left * 1000)
        finally:
            os.close(fd)

    def freeze(self, seconds: float = FREEZE_SECONDS) -> None:
        """See Cgroup.freeze."""
        self._set("cgroup.freeze", "1")
        if not self._wait_for("frozen 1", seconds):
            self.thaw()
            raise SystemFault(
                f"cannot freeze cgroup {self.path}",
                hint="a process waits for a device or file system: see state D in ps",
            )

    def thaw(self) -> None:
        """See Cgroup.thaw."""
        if os.path.isdir(self._directory):
            self._set("cgroup.freeze", "0")

    def frozen(self) -> bool:
        """See Cgroup.frozen."""
        return files.number(f"{self._directory}/cgroup.freeze") == 1

    def _set(self, file: str, value: str) -> None:
        path = f"{self._directory}/{file}"
        try:
            files.put(path, value)
        except OSError as error:
            raise KernelFault(f"write {value} to {path}", error.errno or 0) from None

    def signal_all(self, number: int) -> None:
        """See Cgroup.signal_all; SIGKILL is one write (cgroup.kill, Linux 5.14)."""
        if number == signal.SIGKILL:
            try:
                files.put(f"{self._directory}/cgroup.kill", "1")
                return
            except OSError as error:
                if not os.path.isdir(self._directory):
                    return
                # Threaded groups refuse it, older kernels do not have it.
                if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                    raise KernelFault(f"kill cgroup {self.path}", error.errno or 0) from None
        super().signal_all(number)

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills."""
        return files.table(files.text(f"{self._directory}/memory.events")).get("oom_kill", 0)

    def refused_forks(self) -> int:
        """See Cgroup.refused_forks."""
        return files.table(files.text(f"{self._directory}/pids.events")).get("max", 0)

    def watch_oom(self) -> OomWatch:
        """See Cgroup.watch_oom: memory.events, which polls as POLLPRI."""
        try:
            fd = os.open(f"{self._directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unsupported(f"cannot watch {self.path} for lack of memory: {error}") from None
        # kernfs wakes a poller only for changes after a read.
        os.read(fd, 4096)
        return OomWatch(fd, select.POLLPRI)

    def stats(self, *, whole: bool = True, read: Read = files.parsed) -> dict[str, Any]:
        """See Cgroup.stats."""
        start = self._directory
        cpu = read(f"{start}/cpu.stat", files.table)
        transferred, operations = read(f"{start}/io.stat", io_rows)
        found: dict[str, Any] = {
            "cpu": {
                "usage_ns": cpu.get("usage_usec", 0) * 1000,
                "user_ns": cpu.get("user_usec", 0) * 1000,
                "system_ns": cpu.get("system_usec", 0) * 1000,
                "percpu_ns": [],
                "periods": cpu.get("nr_periods", 0),
                "throttled_periods": cpu.get("nr_throttled", 0),
                "throttled_ns": cpu.get("throttled_usec", 0) * 1000,
            },
            "memory": self._memory_stats(whole, read),
            "pids": {
                "current": read(f"{start}/pids.current", files.parse_number),
                "limit": read(f"{start}/pids.max", files.parse_number) or files.UNLIMITED,
            },
            "io": transferred,
        }
        if whole:
            found["pids"]["refused"] = self.refused_forks()
            found |= {
                "io_operations": operations,
                "hugetlb": self._huge_page_stats(),
                "pressure": {
                    name: said
                    for name in ("cpu", "memory", "io")
                    if (said := read(f"{start}/{name}.pressure", str))
                },
            }
        return found

    def _memory_stats(self, whole: bool, read: Read) -> dict[str, Any]:
        start = f"{self._directory}/memory."
        found: dict[str, Any] = {
            "usage": read(f"{start}current", files.parse_number),
            "max": read(f"{start}peak", files.parse_number),
            "limit": read(f"{start}max", files.parse_number),
            "stat": read(f"{start}stat", files.table),
        }
        if whole:
            found |= {
                "failcnt": read(f"{start}events", files.table).get("max", 0),
                "swap_usage": read(f"{start}swap.current", files.parse_number),
                "swap_limit": read(f"{start}swap.max", files.parse_number),
            }
        return found

    def _huge_page_stats(self) -> dict[str, dict[str, int]]:
        from skerry.kernel.cgroups_v1 import page_sizes

        found = {}
        for size in page_sizes(self._directory, ".current"):
            start = f"{self._directory}/hugetlb.{size}."
            events = files.table(files.text(f"{start}events"))
            found[size] = {
                "usage": files.number(f"{start}current"),
                "max": 0,
                "failcnt": events.get("max", 0),
            }
        return found


_BYTES = {"rbytes": "read", "wbytes": "write", "dbytes": "discard"}
_OPERATIONS = {"rios": "read", "wios": "write", "dios": "discard"}
_Rows = list[tuple[int, int, str, int]]


def io_rows(text: str) -> tuple[_Rows, _Rows]:
    """Bytes and operations by device from io.stat: `major:minor rbytes=… wbytes=… rios=… …`."""
    transferred: _Rows = []
    operations: _Rows = []
    for line in text.splitlines():
        device, *pairs = line.split() or [""]
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        for pair in pairs:
            key, _, value = pair.partition("=")
            if not value.isdigit():
                continue
            for names, rows in ((_BYTES, transferred), (_OPERATIONS, operations)):
                if key in names:
                    rows.append((int(major), int(minor), names[key], int(value)))
    return transferred, operations


def _make_room(mount: str) -> None:
    """In a container, whose root group is no true root: move its processes to a group `init`.

    Otherwise nothing in this container could ever have limits of its own. The limits that the outer
    engine set hold as before, since they are on the group above.
    """
    if not os.path.exists(f"{mount}/cgroup.type"):
        return
    for _ in range(16):  # a process may fork while it is moved
        pids = [pid for pid in files.text(f"{mount}/cgroup.procs").split() if pid != "0"]
        if not pids:
            return
        with contextlib.suppress(OSError):
            os.mkdir(f"{mount}/init", 0o755)
        for pid in pids:
            with contextlib.suppress(OSError):
                files.put(f"{mount}/init/cgroup.procs", pid)


def _hand_down(place: str, controllers: list[str]) -> dict[str, OSError]:
    """Enable controllers for the groups below `place`; those that were refused, and why."""
    control = f"{place}/cgroup.subtree_control"
    if not controllers:
        return {}
    # Only the true root has no cgroup.type, and only it may have processes. Asked for cpu or pids,
    # the kernel would not refuse: it would make the group threaded, and spoil it for containers.
    if os.path.exists(f"{place}/cgroup.type") and files.text(f"{place}/cgroup.procs"):
        return {one: OSError(errno.EBUSY, os.strerror(errno.EBUSY)) for one in controllers}
    try:
        files.put(control, " ".join(f"+{one}" for one in controllers))
        return {}
    except OSError:
        refused = {}
    for controller in controllers:
        # A single one that is not there refuses the whole line.
        try:
            files.put(control, f"+{controller}")
        except OSError as error:
            refused[controller] = error
    return refused
