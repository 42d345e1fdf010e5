"""The steps of starting a container, as data that can be printed, compared and sent.

All numbers are resolved (flags, capability masks, a compiled seccomp program), so the process that
executes a plan needs neither tables nor parsers. `skerry.runtime.plan` makes plans.
"""

import marshal

from skerry.base.errors import InvalidInput
from skerry.base.isolation import Overlay
from skerry.base.light import Any, NamedTuple
from skerry.kernel.cgroups import Write

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
    """`bind`, `filesystem`, `layers` or `cgroup`; `data` of `layers` is overlayfs's lowerdir."""
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
    subpath: str = ""
    """Of a bind mount or of layers: only what is at this path, resolved beneath the source."""


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

    def hooks_of(self, kind: str) -> tuple[Hook, ...]:
        """The hooks of one point of the life cycle."""
        return dict(self.hooks).get(kind, ())

    def describe(self) -> list[str]:
        """The steps in words, one a line in the order of execution."""
        from skerry.runtime.describe import describe

        return describe(self)

    def to_wire(self) -> bytes:
        """The plan as bytes for another process of the same version of skerry."""
        return marshal.dumps((WIRE_VERSION, _plain(self)))

    @classmethod
    def from_wire(cls, data: bytes) -> "Plan":
        """The plan that `to_wire` packed. Only for bytes from skerry itself, never from a guest."""
        version, fields = marshal.loads(data)
        if version != WIRE_VERSION:
            raise InvalidInput(f"plan of version {version}, this is version {WIRE_VERSION}")
        plan = cls(*fields)
        return plan._replace(
            joins=tuple(Join(*row) for row in plan.joins),
            uid_map=_id_maps(plan.uid_map),
            gid_map=_id_maps(plan.gid_map),
            cgroup_writes=tuple(Write(*row) for row in plan.cgroup_writes),
            overlay=None if plan.overlay is None else Overlay(*plan.overlay),
            mounts=tuple(_mount(row) for row in plan.mounts),
            devices=tuple(DeviceStep(*row) for row in plan.devices),
            hooks=tuple((kind, tuple(Hook(*row) for row in rows)) for kind, rows in plan.hooks),
            process=None if plan.process is None else ProcessPlan(*plan.process),
        )


def process_to_wire(process: ProcessPlan) -> bytes:
    """A process plan as bytes, as `Plan.to_wire`."""
    return marshal.dumps((WIRE_VERSION, _plain(process)))


def process_from_wire(data: bytes) -> ProcessPlan:
    """The process plan that `process_to_wire` packed."""
    version, fields = marshal.loads(data)
    if version != WIRE_VERSION:
        raise InvalidInput(f"plan of version {version}, this is version {WIRE_VERSION}")
    return ProcessPlan(*fields)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_plain(item) for item in value])
    return value


def _id_maps(rows: tuple[IdMap, ...]) -> tuple[IdMap, ...]:
    return tuple(IdMap(*row) for row in rows)


def _mount(row: MountStep) -> MountStep:
    step = MountStep(*row)
    if step.idmap is None:
        return step
    uids, gids = step.idmap
    return step._replace(idmap=(_id_maps(uids), _id_maps(gids)))
