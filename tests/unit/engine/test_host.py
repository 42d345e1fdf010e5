"""`skerry doctor`: every verdict from made-up facts, and one look at the real host."""

from typing import Any

import pytest

from skerry.engine import host
from skerry.engine.host import Check, Facts, Limits
from skerry.engine.host_facts import fstype
from skerry.kernel import capabilities, kvm_probe
from skerry.kernel.cgroups import Hierarchy, Layout
from skerry.kernel.kvm_probe import Kvm
from skerry.kernel.namespaces import FLAGS

ALL_V2 = ("memory", "cpu", "pids", "cpuset", "io", "hugetlb")
TRIED = "overlay overlay.user idmap reflink proc seccomp cgroup user.unprivileged"
PROBES = {f"namespace.{kind}": "" for kind in FLAGS} | dict.fromkeys(TRIED.split(" "), "")
PROGRAMS = dict.fromkeys(
    [
        *("newuidmap", "newgidmap", "mmdebstrap", "compiler"),
        *("qemu-system-x86_64", "qemu-img", "mkfs.erofs", "mkfs.ext4", "virtiofsd"),
    ],
    "/usr/bin/x",
)
GOOD = Facts(
    kernel="6.12.1-amd64",
    machine="x86_64",
    system="Some Linux",
    cpus=4,
    memory=8 << 30,
    swap=1 << 30,
    huge_pages={"2048kB": 0},
    root="/var/lib/skerry",
    root_fstype="xfs",
    root_free=50 << 30,
    uid=0,
    capabilities=capabilities.mask(capabilities.known_to_kernel()),
    sysctls={"kernel/seccomp/actions_avail": "kill_process allow"},
    programs=PROGRAMS,
    systemd=False,
    layout=Layout("unified", (), Hierarchy(ALL_V2, "/sys/fs/cgroup", "/")),
    limits=Limits(*[True] * len(Limits._fields)),
    probes=PROBES,
    kvm=Kvm(kvm_probe.WORKS, "ran a guest in 2.0 ms", 0.001, 0.002),
)


def verdict(name: str, **changes: Any) -> Check:
    """The one check of this name on the good host with some facts changed."""
    found = [check for check in host.judge(GOOD._replace(**changes)) if check.name == name]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def test_a_good_host_has_nothing_to_remedy() -> None:
    checks = host.judge(GOOD)
    assert {check.status for check in checks} == {"ok"}
    assert not [check for check in checks if check.remedy]
    names = [check.name for check in checks]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "status", "remedy", "changes"),
    [
        ("kernel", "fail", "upgrade", {"kernel": "5.4.0-generic"}),
        ("privileges", "warn", "as root", {"uid": 1000}),
        ("CAP_SYS_ADMIN", "fail", "CAP_SYS_ADMIN", {"capabilities": 0}),
        ("CAP_SYS_RESOURCE", "warn", "CAP_SYS_RESOURCE", {"capabilities": 0}),
        ("mount namespace", "fail", "privileged", {"probes": {**PROBES, "namespace.mount": "no"}}),
        ("user namespace", "warn", "sysctl", {"probes": {**PROBES, "namespace.user": "no"}}),
        ("fresh /proc", "fail", "privileged", {"probes": {**PROBES, "proc": "no"}}),
        ("id maps for users", "warn", "uidmap", {"programs": {}}),
        ("cgroups", "fail", "mount -t cgroup2", {"layout": Layout("none", (), None)}),
        ("cgroup of a container", "fail", "Delegate", {"probes": {**PROBES, "cgroup": "no"}}),
        ("disk", "warn", "--root", {"root_free": 1000}),
        ("disk is writable", "fail", "--root", {"probes": {"scratch": "read-only"}}),
        ("overlayfs", "fail", "modprobe overlay", {"probes": {**PROBES, "overlay": "no"}}),
        ("idmapped mounts", "warn", "xfs", {"probes": {**PROBES, "idmap": "no"}}),
        ("reflink", "ok", "btrfs", {"probes": {**PROBES, "reflink": "no"}}),
        ("seccomp", "fail", "CONFIG_SECCOMP_FILTER", {"probes": {**PROBES, "seccomp": "no"}}),
        ("KVM", "warn", "modprobe", {"kvm": Kvm(kvm_probe.ABSENT, "does not exist")}),
        ("KVM", "warn", "TCG", {"kvm": Kvm(kvm_probe.EMULATES, "opens, but")}),
        ("KVM", "warn", "usermod", {"kvm": Kvm(kvm_probe.FORBIDDEN, "no")}),
        ("mmdebstrap", "warn", "apt-get install", {"programs": {}}),
        ("programs for machines", "warn", "qemu-utils erofs-utils", {"programs": {}}),
        ("compiled part of guests", "warn", "gcc libc6-dev", {"programs": {}}),
        ("swap accounting", "warn", "swapaccount", {"limits": GOOD.limits._replace(swap=False)}),
    ],
)
def test_each_shortcoming_has_its_remedy(
    name: str, status: str, remedy: str, changes: dict[str, Any]
) -> None:
    found = verdict(name, **changes)
    assert found.status == status
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("sysctl", "value"),
    [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_the_sysctl_that_forbids_user_namespaces_is_named(sysctl: str, value: str) -> None:
    found = verdict(
        "user namespaces for users",
        probes={**PROBES, "user.unprivileged": "Operation not permitted"},
        sysctls={sysctl: value},
    )
    assert sysctl.replace("/", ".") in found.remedy


def test_without_virtiofsd_machines_lack_volumes_alone() -> None:
    found = verdict("programs for machines", programs={**PROGRAMS, "virtiofsd": ""})
    assert "no volumes" in found.detail
    assert found.remedy == "apt-get install qemu-system-common"


def test_a_missing_controller_is_named_with_the_way_to_get_it() -> None:
    v1 = Layout("v1", (Hierarchy(("memory", "devices"), "/sys/fs/cgroup/memory", "/"),), None)
    found = verdict("cgroup controller freezer", layout=v1)
    assert "no pause" in found.detail
    assert "mount -t cgroup -o freezer" in found.remedy
    v2 = Layout("unified", (), Hierarchy(("memory",), "/sys/fs/cgroup", "/"))
    assert "cgroup.subtree_control" in verdict("cgroup controller pids", layout=v2).remedy


def test_this_host() -> None:
    checks = host.examine()
    assert {"kernel", "memory", "cgroups", "KVM"} <= {check.name for check in checks}
    for check in checks:
        assert check.detail
        assert check.status == "ok" or check.remedy, check


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount() -> None:
    mounts = (
        ("/", "ext4"),
        ("/data", "xfs"),
        ("/data/a\\040b", "btrfs"),
        ("/data/a\\040b", "tmpfs"),
    )
    text = "".join(
        f"{count} 1 0:{count} / {point} rw - {kind} none rw\n"
        for count, (point, kind) in enumerate(mounts)
    )
    for path, kind in (
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data", "xfs"),
        ("/data/x", "xfs"),
        ("/data/a b/c", "tmpfs"),
    ):
        assert fstype(path, text + "nonsense\n") == kind
    assert fstype("/x", "") == "unknown"
