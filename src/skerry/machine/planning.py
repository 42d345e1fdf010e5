"""From a container's configuration to what its guest runs. Pure: nothing is touched.

The guest is a host of its own: its runtime gets the same configuration, but for what points to this
host. Network namespaces become cards, files of /etc travel as contents, folders of the host become
shares. What has no meaning on the other side of the wall is refused, not ignored.
"""

import json
import os
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.isolation import KERNEL_ANNOTATION, Overlay
from skerry.base.number_lists import numbers
from skerry.kernel import namespaces
from skerry.kernel.cgroups import Hierarchy, Layout
from skerry.machine.shape import Shape, shape_for
from skerry.runtime import bundle, plan
from skerry.runtime.steps import Plan

GUEST_LAYOUT = Layout(
    "unified",
    (),
    Hierarchy(
        ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"), "/sys/fs/cgroup", "/"
    ),
)
"""The control groups of the guest's kernel."""
LAYERS, UPPER, WORK = "/layers", "/rw/upper", "/rw/work"
FILES, VOLUMES = "/run/files", "/volumes"
GUEST_INIT = "/usr/lib/skerry/tini"
GUEST_GROUP = "/skerry/container"
"""The container's control group in the guest: there is one, and it is made before its container."""
"""Where the kit has the small init."""
MOST_FILE = 1024 * 1024
_OWN = ("pid", "ipc", "uts")
"""Kinds of namespaces that a container always has to itself in a machine."""
_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Docker's defaults, which on this side are set in the container's network namespace."""
_SEEN_LATER = frozenset({"shared", "rshared", "slave", "rslave"})
_HOST_SIDE = ("cpu", "blockIO")
"""Limits that hold QEMU on this side; the others hold the program on the other."""


class Share(NamedTuple):
    """A file or folder of the host that the guest sees at /volumes/<number>."""

    source: str
    read_only: bool


class Guest(NamedTuple):
    """What a container becomes behind this wall."""

    plan: Plan
    shape: Shape
    network: str
    """Path of the network namespace whose card the guest gets; empty for none."""
    files: dict[str, str]
    """Name below /run/files to the host's path."""
    shares: tuple[Share, ...]
    limits: dict[str, Any]
    """OCI `linux.resources` for QEMU's control group on this host."""
    hostname: str
    kernel: str
    """Path of the user's own kernel; empty for the kit's."""


def guest_for(
    spec: dict[str, Any], *, container_id: str, state_dir: str, has_layers: bool, host_cpus: int
) -> Guest:
    """Decide everything; InvalidInput for what cannot be meant, Unsupported for what this wall
    cannot do."""
    given = json.loads(json.dumps(spec))
    linux = given.setdefault("linux", {})
    network = _namespaces(linux)
    files: dict[str, str] = {}
    shares: list[Share] = []
    mounts = [_mount(mount, state_dir, files, shares) for mount in given.get("mounts", ())]
    resources = linux.get("resources") or {}
    limits, linux["resources"] = split_limits(resources)
    linux["cgroupsPath"] = GUEST_GROUP
    linux["sysctl"] = _SYSCTLS | (linux.get("sysctl") or {})
    if given.get("hooks"):
        raise Unsupported(
            "hooks run on the host and cannot reach into a machine",
            hint="use --isolation container for this one",
        )
    root = dict(given.get("root", {}), path="rootfs")
    given.update(mounts=mounts, root=root)
    made = plan.plan(
        bundle.parse(json.dumps(given).encode()),
        bundle="/run",
        container_id=container_id,
        layout=GUEST_LAYOUT,
        rootfs=Overlay((LAYERS,), UPPER, WORK),
    )
    made = made._replace(new_namespaces=made.new_namespaces & ~namespaces.FLAGS["network"])
    memory = resources.get("memory") or {}
    shape = shape_for(int(memory.get("limit") or 0), _cpus(resources.get("cpu") or {}), host_cpus)
    hostname = str(given.get("hostname", ""))
    return Guest(made, shape, network, files, tuple(shares), limits, hostname, own_kernel(spec))


def own_kernel(spec: dict[str, Any]) -> str:
    """The kernel that a configuration's annotation names; InvalidInput for a relative path."""
    path = str((spec.get("annotations") or {}).get(KERNEL_ANNOTATION, ""))
    if path and not os.path.isabs(path):
        raise InvalidInput(f"a machine's kernel is given by its full path, not {path!r:.200}")
    return path


def split_limits(resources: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """OCI `linux.resources` for QEMU on this side, and for the program on the other."""
    mine = {name: value for name, value in resources.items() if name in _HOST_SIDE}
    return mine, {name: value for name, value in resources.items() if name not in _HOST_SIDE}


def check_fits(resources: dict[str, Any], shape: Shape, host_cpus: int) -> Shape:
    """What a running machine of this shape needs for these limits, no memory where they say nothing
    of it; InvalidInput for what it cannot have."""
    memory = int((resources.get("memory") or {}).get("limit") or 0)
    quota = _cpus({**(resources.get("cpu") or {}), "cpus": ""})
    needed = shape_for(memory, quota, host_cpus)
    if needed.cpus > shape.places:
        raise InvalidInput(
            f"the machine has places for {shape.places} processors: while it runs, it cannot have"
            f" {quota:g}",
            hint="stop it first: at its next start it gets a machine for its limits",
        )
    return needed if memory > 0 else needed._replace(memory=0)


def _namespaces(linux: dict[str, Any]) -> str:
    """The guest's own kinds; the path of the host's network namespace, which stays outside."""
    network, has_network = "", False
    # A network namespace for the checks' sake: `guest_for` takes it out again.
    kept = [{"type": "cgroup"}, {"type": "network"}]
    for namespace in linux.get("namespaces", ()):
        kind, path = namespace["type"], namespace.get("path", "")
        if kind == "network":
            has_network = True
            network = path  # The guest has one network stack, and it is the container's.
        elif path:
            raise Unsupported(
                f"a machine cannot join another container's {kind} namespace",
                hint="share networks or volumes instead, or use --isolation container",
            )
        elif kind not in ("cgroup", "user"):
            kept.append({"type": kind})
    if not has_network:
        raise Unsupported(
            "a machine cannot share the host's network",
            hint="publish ports, or use --isolation container",
        )
    for kind in _OWN:
        if {"type": kind} not in kept:
            raise Unsupported(
                f"a machine cannot share the host's {kind} namespace",
                hint="use --isolation container for this one",
            )
    linux["namespaces"] = kept
    for name in ("uidMappings", "gidMappings", "timeOffsets"):
        linux.pop(name, None)
    return network


def _mount(
    mount: dict[str, Any], state_dir: str, files: dict[str, str], shares: list[Share]
) -> dict[str, Any]:
    options = mount.get("options", [])
    if not (mount.get("type") == "bind" or "bind" in options or "rbind" in options):
        return mount
    if mount["source"] == GUEST_INIT:
        return mount
    if later := _SEEN_LATER.intersection(options):
        raise Unsupported(
            f"a machine does not see what is mounted below {mount['source']} later on, as"
            f" {min(later)} asks for",
            hint="leave the propagation out, or use --isolation container",
        )
    source = os.path.normpath(os.path.join(state_dir, mount["source"]))
    if os.path.dirname(source) == os.path.normpath(state_dir):
        name = os.path.basename(source)
        files[name] = source
        return {**mount, "source": f"{FILES}/{name}"}
    shares.append(Share(source, "ro" in options))
    return {**mount, "source": f"{VOLUMES}/{len(shares) - 1}"}


def _cpus(cpu: dict[str, Any]) -> float:
    """Processors that a quota or a list of processors amounts to; 0 for no limit."""
    if cpu.get("quota") and cpu["quota"] > 0:
        return float(cpu["quota"]) / float(cpu.get("period") or 100_000)
    if cpu.get("cpus"):
        return float(len(numbers(str(cpu["cpus"]))))
    return 0.0
