"""What is saved of a container: versioned plain data, apart from every live handle.

`config` and `host` are Docker's `Config` and `HostConfig` objects with the image's defaults merged
in and empty values left out. Times are nanoseconds since the epoch, 0 for never.
"""

from typing import Any

import msgspec

from skerry.base.errors import SystemFault

VERSION = 1
KIND = "container"

RUNNING = frozenset({"running", "paused", "restarting"})
"""The states in which Docker's `State.Running` is true."""


class State(msgspec.Struct):
    """Where a container is in its life: created, running, paused, restarting, exited or dead."""

    status: str = "created"
    pid: int = 0
    start_time: int = 0
    """Field 22 of /proc/PID/stat of the init; tells it from a later process with the same pid."""
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_at: int = 0
    finished_at: int = 0


class MountPoint(msgspec.Struct, omit_defaults=True):
    """A mount that the user or the image asked for. `kind` is bind, volume, image or tmpfs."""

    kind: str
    target: str
    source: str = ""
    """Of a bind, its folder; of a volume, where it lies; of an image, the image's id."""
    name: str = ""
    """The volume's name; the image's as it was asked for."""
    anonymous: bool = False
    """The volume was made for this container and goes with `rm -v`."""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    options: list[str] = []
    """Mount options of a tmpfs; `nonrecursive`, `writable-below` (read-only
    at the top alone) and `create` (a missing source) of a bind."""
    copy_up: bool = True
    subpath: str = ""
    """Of a volume or an image: only this part of it, resolved beneath it at each start."""
    labels: dict[str, str] = {}
    driver_options: dict[str, str] = {}
    """With these a volume is made that does not exist yet."""


class Record(msgspec.Struct):
    """One container."""

    id: str
    name: str
    image: str
    """The reference as the user wrote it."""
    image_id: str
    created_at: int
    config: dict[str, Any]
    host: dict[str, Any]
    network: dict[str, Any] = {}
    """`NetworkingConfig.EndpointsConfig` as given."""
    mounts: list[MountPoint] = []
    state: State = msgspec.field(default_factory=State)
    restart_count: int = 0
    manually_stopped: bool = False
    ever_started: bool = False
    version: int = VERSION

    def images(self) -> list[str]:
        """Ids of the images it needs: its own and those it mounts."""
        return [self.image_id, *(point.source for point in self.mounts if point.kind == "image")]

    @property
    def running(self) -> bool:
        """Whether an init is expected to exist."""
        return self.state.status in ("running", "paused")


def to_plain(record: Record) -> dict[str, Any]:
    """The record as builtin types, ready for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def from_plain(data: dict[str, Any]) -> Record:
    """A record as it was saved; SystemFault when a newer skerry wrote it or it is damaged."""
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise SystemFault(
            f"container record has version {version!r}, this engine knows {VERSION}",
            hint="start the newer skerry that wrote it",
        )
    try:
        return msgspec.convert(data, Record)
    except msgspec.ValidationError as error:
        raise SystemFault(f"container record {data.get('id')!r:.70} is damaged: {error}") from None
