"""The /dev/shm of containers that share theirs: `--ipc shareable` and `--ipc container:NAME`.

The donor's is a tmpfs in its run folder, mounted for as long as it runs; who joins binds the same.
A private one is made by the runtime inside the container and needs nothing here.
"""

import os
from contextlib import suppress

from skerry.base.errors import Conflict, KernelFault, SystemFault
from skerry.engine.record import Record
from skerry.engine.roster import Roster
from skerry.engine.spec import SHM_SIZE
from skerry.kernel import mounts

_FOLDER = "shm"


def source(record: Record, roster: Roster, run_dir: str) -> str:
    """The folder of the host to bind at /dev/shm, or empty for one that the runtime makes.

    Conflict, in Docker's words, when the container to join does not share its own.
    """
    mode = record.host.get("IpcMode", "")
    if mode == "host":
        return "/dev/shm"
    if mode == "shareable":
        return _own(record, run_dir)
    word, _, reference = mode.partition(":")
    if word != "container":
        return ""
    other = roster.find(reference)
    if _mode(other.record) in ("host", "container"):
        return source(other.record, roster, os.path.join(os.path.dirname(run_dir), other.id))
    path = os.path.join(os.path.dirname(run_dir), other.id, _FOLDER)
    if _mode(other.record) != "shareable" or not os.path.ismount(path):
        raise Conflict(
            f"cannot join IPC of a container {other.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return path


def _mode(record: Record) -> str:
    return str(record.host.get("IpcMode", "")).partition(":")[0]


def _own(record: Record, run_dir: str) -> str:
    path = os.path.join(run_dir, _FOLDER)
    release(run_dir)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise SystemFault(f"cannot make {path}: {error.strerror}") from None
    size = record.host.get("ShmSize") or SHM_SIZE
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    mounts.mount("shm", path, "tmpfs", flags, f"mode=1777,size={size}")
    return path


def release(run_dir: str) -> None:
    """Unmount a donor's, if it is there; those who joined keep it as long as they run."""
    path = os.path.join(run_dir, _FOLDER)
    with suppress(KernelFault):
        while os.path.ismount(path):
            mounts.umount(path, mounts.MNT_DETACH)
