"""What will be done to start a container, as data: made without privileges, printed, compared, sent.

`plan` turns an OCI configuration into a `Plan`; `launch` and `init` execute it and decide nothing.
A plan holds builtin types only, all numbers resolved (flags, capability masks, a compiled seccomp
program), so the process that executes it needs neither tables nor parsers.
"""

import marshal
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.base.isolation import Overlay
from skerry.base.oci_runtime import Process, Spec
from skerry.kernel.cgroups import Layout, Write

WIRE_VERSION = 1


class IdMap(NamedTuple):
    """A range of user or group ids."""

    container: int
    host: int
    size: int


class Join(NamedTuple):
    """A namespace to enter: the CLONE_ flag of its kind and its file."""

    flag: int
    path: str


class MountStep(NamedTuple):
    """One mount, options resolved to flags.

    `flags` and `data` are mount(2)'s for a new file system. The `attr_…` fields are
    mount_setattr(2)'s for a bind mount, for the top mount and for the whole tree.
    """

    kind: str
    """`bind`, `filesystem` or `cgroup`."""
    target: str
    source: str
    fstype: str
    flags: int = 0
    data: str = ""
    recursive: bool = False
    attr_set: int = 0
    attr_clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: tuple[int, ...] = ()
    """MS_SHARED and its kin, perhaps with MS_REC, in order."""
    copy_up: bool = False
    idmap: tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None = None
    """Uid and gid ranges of an idmapped mount; two empty ones mean the container's own."""
    idmap_recursive: bool = False


class DeviceStep(NamedTuple):
    """A device node to make; `mode` includes the file type (S_IFCHR and so on)."""

    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int


class Hook(NamedTuple):
    """A hook program; `timeout` in seconds, 0 waits for ever."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int


class ProcessPlan(NamedTuple):
    """A program and everything that is set on the process right before it is executed."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    """-1 keeps the runtime's."""
    bounding: int
    """The five capability sets as bit masks; see capabilities(7)."""
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    keep_capabilities: bool
    """The configuration says nothing about capabilities: leave them alone."""
    no_new_privileges: bool
    rlimits: tuple[tuple[int, int, int], ...]
    """(RLIMIT_ number, soft, hard)."""
    oom_score_adj: int | None
    seccomp: bytes
    """A classic BPF program, empty for none."""
    seccomp_flags: int
    seccomp_listener: str
    seccomp_metadata: str
    apparmor: str
    selinux: str
    terminal: bool
    rows: int
    columns: int
    io_priority: int
    """ioprio_set(2)'s value, -1 for none."""
    scheduler: tuple[int, int, int, int, int, int, int] | None
    """sched_setattr(2): policy, flags, nice, priority, runtime, deadline, period."""
    personality: int
    """-1 for none."""
    new_keyring: bool
    preserve_fds: int
    """How many descriptors from 3 on the program inherits."""


class Plan(NamedTuple):
    """Everything `launch.create` does, in order. Paths are the host's unless said otherwise."""

    id: str
    bundle: str
    annotations: tuple[tuple[str, str], ...]
    new_namespaces: int
    """CLONE_NEW… flags."""
    joins: tuple[Join, ...]
    uid_map: tuple[IdMap, ...]
    gid_map: tuple[IdMap, ...]
    time_offsets: tuple[tuple[str, int, int], ...]
    """(clock, seconds, nanoseconds)."""
    cgroup_path: str
    """Below the cgroup root, with a leading slash; empty stays in the caller's cgroup."""
    cgroup_writes: tuple[Write, ...]
    rootfs: str
    """A directory that is the root, empty when `overlay` is used."""
    overlay: Overlay | None
    root_readonly: bool
    root_propagation: int
    pivot: bool
    mounts: tuple[MountStep, ...]
    devices: tuple[DeviceStep, ...]
    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    hostname: str
    domainname: str
    sysctls: tuple[tuple[str, str], ...]
    """(path below /proc/sys, value)."""
    mount_label: str
    hooks: tuple[tuple[str, tuple[Hook, ...]], ...]
    process: ProcessPlan | None

    def describe(self) -> list[str]:
        """The steps in words, one a line, for people and for tests."""
        raise NotImplementedError

    def to_wire(self) -> bytes:
        """The plan as bytes for another process of the same version of skerry."""
        return marshal.dumps((WIRE_VERSION, _plain(self)))

    @classmethod
    def from_wire(cls, data: bytes) -> "Plan":
        """The plan that `to_wire` packed. Only for bytes from skerry itself, never from a guest."""
        raise NotImplementedError


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


def plan(
    spec: Spec,
    *,
    bundle: str,
    container_id: str,
    layout: Layout,
    rootfs: Overlay | None = None,
    cgroup_path: str = "",
    pivot: bool = True,
    new_keyring: bool = True,
    preserve_fds: int = 0,
) -> Plan:
    """Decide everything about a container from its configuration.

    `rootfs` replaces `root.path`; `cgroup_path` replaces `linux.cgroupsPath`. Pure: reads nothing
    but its arguments and the kernel tables. Raises InvalidInput for what cannot be meant and
    Unsupported for what this version cannot do.
    """
    raise InvalidInput("not yet")


def plan_process(
    process: Process, spec: Spec, *, new_keyring: bool = True, preserve_fds: int = 0
) -> ProcessPlan:
    """The plan of a further process in the container that `spec` describes (exec)."""
    raise InvalidInput("not yet")
