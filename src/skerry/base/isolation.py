"""What the engine and an isolation driver say to one another, as plain data.

A *driver* puts a wall around a program: `skerry.runtime.driver` with namespaces, later
`skerry.machine` with a hypervisor. The engine knows drivers only by the contract in
`skerry.engine.isolation`; the types here are the words of that contract. They hold builtin types
only, so that they travel as JSON.
"""

from skerry.base.light import Any, NamedTuple


class Overlay(NamedTuple):
    """A root file system put together from layers (Documentation/filesystems/overlayfs.rst).

    Absolute directories; `lower` is ordered top-most first. Without `upper` the result is
    read-only.
    """

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    volatile: bool = False
    """What is written is not synced, whatever the program asks for: for what a crash throws away.
    Such an upper folder cannot be mounted a second time."""


class LogOptions(NamedTuple):
    """Where the keeper writes the program's output. `driver` is `json-file`, `local` or `none`."""

    driver: str = "json-file"
    path: str = ""
    max_size: int = 10 * 1024 * 1024
    """Bytes after which the file is rotated; 0 never rotates."""
    max_file: int = 3
    compress: bool = False
    """Whether files are compressed once they are rotated."""


DISK = "disk.qcow2"
"""A machine's writable disk, beside the `upper` folder whose part it plays."""


KERNEL_ANNOTATION = "io.skerry.kernel"
"""The OCI annotation with the path of the kernel that a machine is to run."""


WHOLE = "whole"
"""A file beside it, there when the disk stands on nothing: it came from elsewhere."""


MIRRORED = "mirrored"
"""A file beside it, there when `upper` holds a copy of what is on the disk."""


class SavedInfo(NamedTuple):
    """How a machine was saved: how long it stood still, in milliseconds; which files of its
    container no copy may share; whether that has programs that want to run in a copy; what it is
    made of, for `Saved`."""

    pause_ms: float
    renew: list[str]
    hooks: bool
    made_of: dict[str, Any]


class Saved(NamedTuple):
    """A machine that was saved while it ran: `memory` is a file of its RAM, to be mapped privately,
    `devices` a file with the rest. `renew` are files of a copy that are to be its own: path in the
    container to hexadecimal contents; `made_of` is what `SavedInfo` said."""

    memory: str
    devices: str
    renew: dict[str, str]
    made_of: dict[str, Any]


class Task(NamedTuple):
    """A program to run behind a wall.

    `spec` is an OCI runtime configuration (config.json) in which `root.path` may be empty when
    `rootfs` is an Overlay; the driver writes the bundle into `state_dir`.
    """

    id: str
    spec: dict[str, Any]
    rootfs: Overlay | None
    state_dir: str
    """Survives a reboot: `<root>/containers/<id>`."""
    run_dir: str
    """Does not: `<run-root>/containers/<id>`; keeper socket, pid file, exit record."""
    log: LogOptions = LogOptions()
    open_stdin: bool = False
    """Keep standard input open when nobody is attached (docker run -i)."""
    stdin_once: bool = False
    """Close standard input after the first attached client has gone."""
    init: bool = False
    """Put a small init in front that reaps zombies and forwards signals (--init)."""
    saved: Saved | None = None
    """Instead of running the program, go on in this machine, where it runs (drivers that can)."""
    renew: dict[str, str] | None = None
    """Files to be replaced before the program runs, where they are there (drivers whose disks the
    engine cannot write to): path in the container to hexadecimal contents."""
    disk: int = 0
    """Bytes that it may have on a disk of its own, 0 for all there are (drivers that have one)."""


class ExecTask(NamedTuple):
    """A further process inside a running container. `process` is the OCI `process` object."""

    id: str
    container_id: str
    process: dict[str, Any]
    run_dir: str
    open_stdin: bool = False
    detach: bool = False


class Attach(NamedTuple):
    """Which streams to join."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Started(NamedTuple):
    """A running init: its pid in the host's pid namespace and its start time.

    The start time, in clock ticks (field 22 of /proc/PID/stat), tells it from a later process with
    the same pid.
    """

    pid: int
    start_time: int


class Exit(NamedTuple):
    """How a program ended. `code` is 0 to 255; 128 + signal when it was killed."""

    code: int
    oom_killed: bool
    finished_at: float
    """Seconds since the epoch."""
    error: str = ""
    """Why the engine believes so when nobody saw the end: the keeper was lost."""


class Stats(NamedTuple):
    """One reading of a container's counters, from its cgroup, in Docker's terms and units."""

    read_at: float
    pids: int
    pids_limit: int
    """0 is no limit."""
    cpu_total_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    cpu_periods: int
    cpu_throttled_periods: int
    cpu_throttled_ns: int
    memory_bytes: int
    memory_max_bytes: int
    memory_limit_bytes: int
    memory_stat: dict[str, int]
    block_io: tuple[tuple[int, int, str, int], ...]
    """(major, minor, operation, bytes)."""
    networks: dict[str, dict[str, int]]
    """Interface name to rx_bytes, rx_packets, rx_errors, rx_dropped and the same for tx."""


class Unpacking(NamedTuple):
    """A plain tar to unpack."""

    fd: int
    """It is read from here; stays the caller's."""
    path: str
    """A folder in the container."""
    keep_kinds: bool
    owner: tuple[int, int] | None
