"""What is true of this host: `gather` reads and tries everything, `limits` what can be limited.

Facts come from trying (`kernel.host_probe`, `kernel.kvm_probe`) wherever a file could be wrong
about them; the rest from /proc and /sys.
"""

import os
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from skerry.engine import criu
from skerry.kernel import capabilities, cgroups, host_probe, kvm_probe, processes
from skerry.kernel.cgroups import Layout
from skerry.kernel.mountinfo import plain
from skerry.machine import compiled, shares


class Limits(NamedTuple):
    """Which limits this host's control groups can set; the names of Docker's `/info`."""

    memory: bool
    swap: bool
    kernel_memory_tcp: bool
    oom_kill_disable: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool
    cpu_set: bool
    pids: bool
    blkio_weight: bool
    blkio_throttle: bool
    huge_pages: bool
    devices: bool
    freezer: bool


class Facts(NamedTuple):
    """Everything that the verdicts are made of."""

    kernel: str
    """As `uname -r`."""
    machine: str
    system: str
    """PRETTY_NAME of os-release(5)."""
    cpus: int
    memory: int
    """Bytes."""
    swap: int
    """Bytes."""
    huge_pages: Mapping[str, int]
    """Pages reserved by size, as in `2048kB`."""
    root: str
    """The folder that holds the containers, or the nearest one above that exists."""
    root_fstype: str
    root_free: int
    """Bytes."""
    uid: int
    capabilities: int
    """The effective set as a bit mask."""
    sysctls: Mapping[str, str]
    """The few that matter, by their path below /proc/sys; without those that do not exist."""
    programs: Mapping[str, str]
    """Helper programs and where they are; empty when missing."""
    systemd: bool
    layout: Layout
    limits: Limits
    probes: Mapping[str, str]
    """See `host_probe.probe`."""
    kvm: kvm_probe.Kvm
    criu: str = ""
    """Why processes cannot be checkpointed; empty when they can."""


_SYSCTLS = (
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/seccomp/actions_avail",
    "kernel/pid_max",
    "fs/inotify/max_user_instances",
)
_PROGRAMS = (
    *("newuidmap", "newgidmap", "mmdebstrap"),
    *("qemu-system-x86_64", "qemu-img", "mkfs.erofs", "mkfs.ext4"),
)


def gather(root: str) -> Facts:
    """Read and try everything."""
    while not os.path.isdir(root):
        root = os.path.dirname(root)
    scratch = root if os.access(root, os.W_OK) else "/tmp"
    space = os.statvfs(root)
    name = os.uname()
    layout = cgroups.detect()
    return Facts(
        kernel=name.release,
        machine=name.machine,
        system=_os_name(),
        cpus=len(os.sched_getaffinity(0)),
        memory=processes.meminfo("MemTotal"),
        swap=processes.meminfo("SwapTotal"),
        huge_pages=_huge_pages(),
        root=root,
        root_fstype=_fstype(root),
        root_free=space.f_bavail * space.f_frsize,
        uid=os.geteuid(),
        capabilities=capabilities.current().effective,
        sysctls={path: text for path in _SYSCTLS if (text := _text(f"/proc/sys/{path}"))},
        programs={
            **{program: shutil.which(program) or "" for program in _PROGRAMS},
            "virtiofsd": shares.installed(),
            "compiler": compiled.compiler(),
        },
        systemd=os.path.isdir("/run/systemd/system"),
        layout=layout,
        limits=limits(layout),
        probes=host_probe.probe(scratch),
        kvm=kvm_probe.probe(),
        criu=criu.probe(),
    )


def limits(layout: Layout) -> Limits:
    """Which limits can be set: by controllers, and by control files where a controller has options.

    On v2 the files of options exist only below the root, so the caller's own group is looked at.
    """
    here = layout.controllers
    if layout.version == 2 and layout.unified:
        own = layout.unified.mount + layout.unified.own
        return Limits(
            memory="memory" in here,
            swap="memory" in here and _has_swap_files(own),
            kernel_memory_tcp=False,
            oom_kill_disable=False,
            cpu_cfs_period="cpu" in here,
            cpu_cfs_quota="cpu" in here,
            cpu_shares="cpu" in here,
            cpu_set="cpuset" in here,
            pids="pids" in here,
            blkio_weight="io" in here and os.path.exists("/sys/module/bfq"),
            blkio_throttle="io" in here,
            huge_pages="hugetlb" in here,
            devices=True,
            freezer=True,
        )

    def has(controller: str, file: str) -> bool:
        mount = layout.mount_of(controller)
        return bool(mount) and os.path.exists(f"{mount}/{file}")

    return Limits(
        memory="memory" in here,
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        kernel_memory_tcp=has("memory", "memory.kmem.tcp.limit_in_bytes"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        cpu_cfs_period=has("cpu", "cpu.cfs_period_us"),
        cpu_cfs_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_set="cpuset" in here,
        pids="pids" in here,
        # The root group has no weight itself; bfq's counters show that the groups below have one.
        blkio_weight=has("blkio", "blkio.bfq.io_serviced") or has("blkio", "blkio.weight"),
        blkio_throttle=has("blkio", "blkio.throttle.read_bps_device"),
        huge_pages="hugetlb" in here,
        devices="devices" in here,
        freezer="freezer" in here,
    )


def _has_swap_files(own: str) -> bool:
    if own.rstrip("/") != own or not os.path.exists(f"{own}/memory.max"):
        # The root group has none of its own: the kernel's build decides, and /proc/swaps shows it.
        return os.path.exists("/proc/swaps")
    return os.path.exists(f"{own}/memory.swap.max")


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536).strip()
    except OSError:
        return ""


def _os_name() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in _text(path).splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip("\"'")
    return "unknown system"


def _huge_pages() -> dict[str, int]:
    folder = "/sys/kernel/mm/hugepages"
    try:
        sizes = sorted(os.listdir(folder))
    except OSError:
        return {}
    counts = {size: _text(f"{folder}/{size}/nr_hugepages") for size in sizes}
    return {
        size.removeprefix("hugepages-"): int(count)
        for size, count in counts.items()
        if count.isdigit()
    }


def _fstype(path: str) -> str:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return fstype(os.path.realpath(path), file.read())
    except OSError:
        return "unknown"


def fstype(path: str, mountinfo: str) -> str:
    """The type of the file system that holds `path`: of the last mount nearest above it. Device
    numbers would not tell: a subvolume of btrfs has one that no mount shows."""
    nearest, found = 0, "unknown"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words = left.split(" ")
        if len(words) < 5:
            continue
        point = plain(words[4]).rstrip("/") + "/"
        if f"{path}/".startswith(point) and len(point) >= nearest:
            nearest, found = len(point), right.split(" ")[0]
    return found
