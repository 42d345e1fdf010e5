"""What this host can and cannot do, with the remedy: `skerry doctor`.

`judge` is pure, so that every verdict can be tested anywhere.
"""

from typing import Literal, NamedTuple

from skerry.engine.host_facts import Facts, Limits, gather, limits
from skerry.kernel import capabilities, kvm_probe

__all__ = ["Check", "Facts", "Limits", "Status", "examine", "gather", "judge", "limits"]

Status = Literal["ok", "warn", "fail"]


_MACHINE_PROGRAMS = (
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mkfs.erofs", "erofs-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("virtiofsd", "qemu-system-common"),
)
"""And their packages in Debian 12."""


class Check(NamedTuple):
    """One finding. `fail` means that containers cannot run, `warn` that something is left out."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What to do about it; empty when there is nothing to do."""


def examine(root: str = "") -> list[Check]:
    """Try everything and judge it; `root` is the engine's, by default the system's.

    Takes 0.3 s, most of it for the KVM guest.
    """
    return judge(gather(root or "/var/lib/skerry"))


def judge(facts: Facts) -> list[Check]:
    """The findings, most basic first."""
    return [
        *_machine(facts),
        *_rights(facts),
        *_namespaces(facts),
        *_user_namespaces(facts),
        *_cgroups(facts),
        *_file_systems(facts),
        *_filters(facts),
        *_virtual_machines(facts),
        *_checkpoints(facts),
        *_helpers(facts),
    ]


def _machine(facts: Facts) -> list[Check]:
    version = tuple(
        int(part) for part in facts.kernel.split("-")[0].split(".")[:2] if part.isdigit()
    )
    checks = [
        Check(
            "kernel",
            "ok" if version >= (5, 12) else "fail",
            f"Linux {facts.kernel} on {facts.machine}, {facts.system}",
            "" if version >= (5, 12) else "5.12 is the oldest that has mount_setattr(2): upgrade",
        ),
        Check("processors", "ok", str(facts.cpus)),
    ]
    swap = f", {_size(facts.swap)} swap" if facts.swap else ", no swap"
    checks.append(Check("memory", "ok", _size(facts.memory) + swap))
    pages = ", ".join(f"{count} of {size}" for size, count in facts.huge_pages.items())
    checks.append(Check("huge pages", "ok", pages or "the kernel has none"))
    return checks


_WANTED_RIGHTS = {
    "CAP_SYS_ADMIN": ("fail", "no namespaces, mounts or cgroups without it"),
    "CAP_SETUID": ("fail", "containers cannot change users"),
    "CAP_SETGID": ("fail", "containers cannot change groups"),
    "CAP_CHOWN": ("fail", "image layers cannot keep their owners"),
    "CAP_MKNOD": ("warn", "device nodes are bound from the host instead"),
    "CAP_NET_ADMIN": ("warn", "no networks for containers"),
    "CAP_SYS_PTRACE": ("warn", "processes of other users cannot be looked at"),
    "CAP_SYS_RESOURCE": ("warn", "limits (ulimits, oom_score_adj) cannot be raised, only lowered"),
}


def _rights(facts: Facts) -> list[Check]:
    if facts.uid != 0:
        return [
            Check(
                "privileges",
                "warn",
                f"user {facts.uid}: containers run in a user namespace",
                "run the engine as root for everything that the host can do",
            )
        ]
    checks = []
    for name, (status, loss) in _WANTED_RIGHTS.items():
        if not facts.capabilities & capabilities.mask([name]):
            remedy = f"give the engine {name}: it was taken from root, as containers do"
            checks.append(Check(name, "fail" if status == "fail" else "warn", loss, remedy))
    return checks or [Check("privileges", "ok", "root with every capability that is needed")]


def _namespaces(facts: Facts) -> list[Check]:
    remedies = {
        "mount": "CONFIG_NAMESPACES, and CAP_SYS_ADMIN: inside a container run it --privileged",
        "user": "sysctl -w user.max_user_namespaces=15000",
        "time": "needs Linux 5.6 with CONFIG_TIME_NS; leave `timeOffsets` out",
        "cgroup": "needs CONFIG_CGROUPS; containers see the host's group names",
    }
    made, checks = [], []
    for name, why in facts.probes.items():
        kind = name.removeprefix("namespace.")
        if kind == name:
            continue
        if not why:
            made.append(kind)
            continue
        status: Status = "warn" if kind in ("user", "time", "cgroup") else "fail"
        checks.append(
            Check(f"{kind} namespace", status, why, remedies.get(kind, remedies["mount"]))
        )
    if made:
        checks.insert(0, Check("namespaces", "ok", " ".join(made)))
    if why := facts.probes.get("proc", ""):
        remedy = "the outer container hides parts of /proc: run it --privileged"
        checks.append(Check("fresh /proc", "fail", why, remedy))
    return checks


def _user_namespaces(facts: Facts) -> list[Check]:
    why = facts.probes.get("user.unprivileged", "")
    if not why:
        checks = [Check("user namespaces for users", "ok", "ordinary users can make them")]
    else:
        sysctls = facts.sysctls
        if sysctls.get("user/max_user_namespaces") == "0":
            remedy = "sysctl -w user.max_user_namespaces=15000"
        elif sysctls.get("kernel/unprivileged_userns_clone") == "0":
            remedy = "sysctl -w kernel.unprivileged_userns_clone=1"
        elif sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == "1":
            remedy = (
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile "
                "that allows userns"
            )
        else:
            remedy = "a seccomp filter or an LSM forbids it: needed only for engines without root"
        checks = [Check("user namespaces for users", "warn", why, remedy)]
    missing = [name for name in ("newuidmap", "newgidmap") if not facts.programs.get(name)]
    if missing:
        detail = f"{' and '.join(missing)} missing: engines without root have one id only"
        checks.append(Check("id maps for users", "warn", detail, "apt-get install uidmap"))
    else:
        checks.append(Check("id maps for users", "ok", "newuidmap and newgidmap"))
    return checks


_CONTROLLERS = {
    1: ("memory", "cpu", "cpuacct", "pids", "devices", "freezer", "cpuset", "blkio", "hugetlb"),
    2: ("memory", "cpu", "pids", "cpuset", "io", "hugetlb"),
}
_VITAL = {"devices": "containers could open any device", "freezer": "no pause"}


def _cgroups(facts: Facts) -> list[Check]:
    layout = facts.layout
    if layout.version == 0:
        remedy = "mount -t cgroup2 none /sys/fs/cgroup"
        return [Check("cgroups", "fail", "none are mounted: no limits, no statistics", remedy)]
    words = {"v1": "version 1", "hybrid": "version 1 with an empty version 2 beside it"}
    detail = words.get(layout.mode, "version 2") + ": " + " ".join(sorted(layout.controllers))
    checks = [Check("cgroups", "ok", detail)]
    for controller in _CONTROLLERS[layout.version]:
        if controller in layout.controllers:
            continue
        what = _VITAL.get(controller, f"{controller} limits are refused")
        if layout.version == 2:
            remedy = f"echo +{controller} > /sys/fs/cgroup/cgroup.subtree_control"
        else:
            remedy = (
                f"mkdir -p /sys/fs/cgroup/{controller} && "
                f"mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}"
            )
        checks.append(Check(f"cgroup controller {controller}", "warn", f"missing: {what}", remedy))
    if why := facts.probes.get("cgroup", ""):
        remedy = "run as root, or with a delegated group (systemd: Delegate=yes)"
        checks.append(Check("cgroup of a container", "fail", why, remedy))
    else:
        checks.append(Check("cgroup of a container", "ok", "made, limited, joined and removed"))
    if layout.version and not facts.limits.swap:
        remedy = "boot with swapaccount=1"
        detail = "swap cannot be limited apart from memory"
        checks.append(Check("swap accounting", "warn", detail, remedy))
    if not facts.limits.blkio_weight:
        detail = "block-I/O weights are refused (limits in bytes and operations work)"
        checks.append(Check("block-I/O weight", "warn", detail, "modprobe bfq, and use it"))
    manager = (
        "runs: an engine beside it needs Delegate=yes" if facts.systemd else "does not run here"
    )
    checks.append(Check("systemd", "ok", manager))
    return checks


def _file_systems(facts: Facts) -> list[Check]:
    probes = facts.probes
    checks = []
    free = f"{facts.root_fstype}, {_size(facts.root_free)} free at {facts.root}"
    if facts.root_free < 1 << 30:
        checks.append(Check("disk", "warn", free, "images need room: move --root, or free some"))
    else:
        checks.append(Check("disk", "ok", free))
    if why := probes.get("scratch", ""):
        checks.append(Check("disk is writable", "fail", why, "give --root a folder of your own"))
        return checks
    if why := probes.get("overlay", ""):
        remedy = "modprobe overlay; or move --root to ext4, xfs or btrfs (not to an overlay)"
        checks.append(Check("overlayfs", "fail", why, remedy))
    else:
        checks.append(Check("overlayfs", "ok", "works"))
    for name, title, loss, remedy in (
        ("overlay.user", "overlayfs for users", "engines without root copy", "needs Linux 5.11"),
        ("idmap", "idmapped mounts", "user-namespaced containers own copies of their layers", ""),
        ("reflink", "reflink", "copies take space and time", "xfs (reflink=1) or btrfs for --root"),
    ):
        if why := probes.get(name, ""):
            # ext4 is a fine choice, so this is no warning.
            status: Status = "ok" if name == "reflink" else "warn"
            default = f"not on {facts.root_fstype} with Linux {facts.kernel}"
            checks.append(Check(title, status, f"no ({why}): {loss}", remedy or default))
        else:
            checks.append(Check(title, "ok", "works"))
    return checks


def _filters(facts: Facts) -> list[Check]:
    if why := facts.probes.get("seccomp", ""):
        remedy = "needs CONFIG_SECCOMP_FILTER; without it only --security-opt seccomp=unconfined"
        return [Check("seccomp", "fail", why, remedy)]
    actions = facts.sysctls.get("kernel/seccomp/actions_avail", "")
    return [Check("seccomp", "ok", actions or "filters load")]


def _virtual_machines(facts: Facts) -> list[Check]:
    kvm = facts.kvm
    remedies = {
        kvm_probe.ABSENT: "modprobe kvm_intel or kvm_amd; switch on VT-x or SVM in the firmware",
        kvm_probe.FORBIDDEN: "usermod -aG kvm USER, or give the outer container /dev/kvm",
        kvm_probe.EMULATES: "ask for nested virtualisation; until then machines run by software "
        "emulation (TCG), 10 to 30 times slower",
        kvm_probe.BROKEN: "see dmesg; machines run by software emulation (TCG) meanwhile",
    }
    if kvm.state == kvm_probe.WORKS:
        found = Check("KVM", "ok", kvm.detail)
    else:
        found = Check("KVM", "warn", kvm.detail, remedies.get(kvm.state, ""))
    return [found, *_machine_programs(facts)]


def _machine_programs(facts: Facts) -> list[Check]:
    lacking = [
        (name, package) for name, package in _MACHINE_PROGRAMS if not facts.programs.get(name)
    ]
    if lacking:
        names = ", ".join(name for name, _ in lacking)
        # Only volumes and binds need virtiofsd.
        loss = "no volumes and binds in machines" if names == "virtiofsd" else "no machines"
        packages = dict.fromkeys(package for _, package in lacking)
        remedy = f"apt-get install {' '.join(packages)}"
        checks = [Check("programs for machines", "warn", f"{loss}: {names} missing", remedy)]
    else:
        checks = [Check("programs for machines", "ok", "QEMU and its tools, erofs, virtiofsd")]
    if path := facts.programs.get("compiler"):
        return [*checks, Check("compiled part of guests", "ok", f"made by {path}")]
    detail = "no C compiler: machines do without, boot later and take longer to fork"
    remedy = "apt-get install gcc libc6-dev: the next start makes a kit that has it"
    return [*checks, Check("compiled part of guests", "warn", detail, remedy)]


def _checkpoints(facts: Facts) -> list[Check]:
    if facts.criu:
        remedy = "snapshot the files of containers, or whole machines: --isolation vm"
        return [Check("checkpoints", "warn", f"not of containers: {facts.criu}", remedy)]
    detail = "CRIU works here; skerry snapshots containers' files only, and machines as a whole"
    return [Check("checkpoints", "ok", detail)]


def _helpers(facts: Facts) -> list[Check]:
    if facts.programs.get("mmdebstrap"):
        return [Check("mmdebstrap", "ok", "Debian base images can be bootstrapped")]
    detail = "missing: `skerry bootstrap debian:…` does not work"
    return [Check("mmdebstrap", "warn", detail, "apt-get install mmdebstrap")]


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB"
