"""The OCI runtime specification's config.json and state, as types (runtime-spec 1.2).

Every key is optional here; `skerry.runtime.bundle` checks what must be present.
"""

from skerry.base.light import Any, TypedDict

OCI_VERSION = "1.2.0"
"""The newest version of the specification that is understood."""


class User(TypedDict, total=False):
    """`process.user`; ids are the container's."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class Box(TypedDict, total=False):
    """A terminal's size in characters."""

    height: int
    width: int


class Rlimit(TypedDict, total=False):
    """One of `process.rlimits`."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    """Five sets of CAP_ names."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    ambient: list[str]


class Process(TypedDict, total=False):
    """`process`: the program and what it runs as."""

    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    commandLine: str
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    selinuxLabel: str
    oomScoreAdj: int
    scheduler: dict[str, Any]
    ioPriority: dict[str, Any]
    execCPUAffinity: dict[str, str]


class IdMapping(TypedDict, total=False):
    """A range of ids in a user namespace or an idmapped mount."""

    containerID: int
    hostID: int
    size: int


class Root(TypedDict, total=False):
    """`root`; `path` is relative to the bundle or absolute."""

    path: str
    readonly: bool


class Mount(TypedDict, total=False):
    """One of `mounts`."""

    destination: str
    type: str
    source: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]


class Namespace(TypedDict, total=False):
    """A namespace to make (no path) or to join."""

    type: str
    path: str


class Device(TypedDict, total=False):
    """A device node to make."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class HookSpec(TypedDict, total=False):
    """A program to run at a point of the life cycle; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Linux(TypedDict, total=False):
    """`linux`."""

    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    timeOffsets: dict[str, dict[str, int]]
    devices: list[Device]
    cgroupsPath: str
    resources: dict[str, Any]
    intelRdt: dict[str, Any]
    sysctl: dict[str, str]
    seccomp: dict[str, Any]
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    personality: dict[str, Any]


class Spec(TypedDict, total=False):
    """config.json."""

    ociVersion: str
    process: Process
    root: Root
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: dict[str, list[HookSpec]]
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """A container's state as hooks and `state` see it."""

    ociVersion: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]
