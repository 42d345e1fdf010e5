"""Mounts: the classic calls and the descriptor-based ones.

Sources: mount(2), mount_setattr(2), Documentation/filesystems/mount_api.rst.

Detached mounts are in `trees`, whose names are found here too.
"""

import ctypes
import errno
import os

from skerry.base.errors import KernelFault
from skerry.base.isolation import Overlay
from skerry.kernel.syscalls import (
    NR_FSCONFIG,
    NR_FSMOUNT,
    NR_FSOPEN,
    NR_PIVOT_ROOT,
    checked,
    libc,
    syscall,
)
from skerry.kernel.trees import (
    ATTR_ATIME,
    ATTR_IDMAP,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_RELATIME,
    ATTR_STRICTATIME,
    mount_setattr,
    move_mount,
    open_tree,
)

__all__ = [
    "ATTR_ATIME",
    "ATTR_IDMAP",
    "ATTR_NOATIME",
    "ATTR_NODEV",
    "ATTR_NODIRATIME",
    "ATTR_NOEXEC",
    "ATTR_NOSUID",
    "ATTR_NOSYMFOLLOW",
    "ATTR_RDONLY",
    "ATTR_RELATIME",
    "ATTR_STRICTATIME",
    "mount_setattr",
    "move_mount",
    "open_tree",
]

# linux/mount.h: mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25
MNT_DETACH = 2

_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC

libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); strings that are empty become null pointers where the call allows it."""
    checked(
        libc.mount(
            os.fsencode(source) or b"none",
            os.fsencode(target),
            fstype.encode() or None,
            flags,
            os.fsencode(data) or None,
        ),
        f"mount {fstype or source or 'flags'} on {target}",
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    checked(libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    syscall(
        NR_PIVOT_ROOT,
        os.fsencode(new_root),
        os.fsencode(put_old),
        action=f"pivot the root to {new_root}",
    )


def fsopen(fstype: str) -> int:
    """Begin a new file system of this type (fsopen(2))."""
    return syscall(NR_FSOPEN, fstype.encode(), _CLOEXEC, action=f"open file system {fstype}")


def fsconfig(fs_fd: int, key: str, value: str | None = None) -> None:
    """Give one option: a flag without value, a string with one."""
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    syscall(
        NR_FSCONFIG,
        fs_fd,
        command,
        key.encode(),
        None if value is None else os.fsencode(value),
        0,
        action=f"set option {key}={value}",
    )


def fsmount(fs_fd: int, attributes: int = 0, what: str = "file system") -> int:
    """Make the file system that was configured, and a detached mount of it."""
    # The kernel's own words about a refused option wait in the descriptor.
    try:
        syscall(NR_FSCONFIG, fs_fd, _FSCONFIG_CMD_CREATE, None, None, 0, action=f"create {what}")
    except KernelFault as fault:
        raise KernelFault(fault.action, fault.errno, hint=_messages(fs_fd)) from None
    return syscall(NR_FSMOUNT, fs_fd, _CLOEXEC, attributes, action=f"mount {what}")


def _messages(fs_fd: int) -> str:
    lines = []
    for _ in range(8):
        try:
            lines.append(os.read(fs_fd, 1024).decode(errors="replace").strip())
        except OSError:
            break
    return "; ".join(lines)


def detached(fstype: str, *, attributes: int = 0, **options: str) -> int:
    """A detached mount of a fresh file system; `options` as mount(8) writes them after -o."""
    fs_fd = fsopen(fstype)
    try:
        for key, value in options.items():
            fsconfig(fs_fd, key, value)
        return fsmount(fs_fd, attributes, fstype)
    finally:
        os.close(fs_fd)


def overlay_fd(overlay: Overlay) -> int:
    """A detached mount of `overlay`; any number of layers since Linux 6.8, about 200 before."""
    # By version: trying it leaves a line in the kernel's log for every container.
    if release() >= (6, 8):
        return overlay_of(overlay, [("lowerdir+", layer) for layer in overlay.lower])
    from skerry.kernel.overlay_options import overlay_fd_by_options

    return overlay_fd_by_options(overlay)


_release: tuple[int, ...] = ()


def release() -> tuple[int, ...]:
    """The kernel's version: (6, 8)."""
    global _release
    if not _release:
        numbers = os.uname().release.split("-")[0].split(".")[:2]
        _release = tuple(int(number) for number in numbers if number.isdigit())
    return _release


def _set_upper(fs_fd: int, path: str) -> None:
    try:
        fsconfig(fs_fd, "upperdir", path)
    except KernelFault as fault:
        if fault.errno != errno.EINVAL:
            raise
        raise KernelFault(
            f"use {path} as a writable layer",
            errno.EINVAL,
            hint="its file system cannot hold one, as an overlay cannot: move --root to ext4, xfs, "
            "btrfs or tmpfs; in a container, to a volume",
        ) from None


def overlay_of(overlay: Overlay, lower: list[tuple[str, str]]) -> int:
    """A detached mount of `overlay`, its lower layers given by the options `lower`."""
    fs_fd = fsopen("overlay")
    try:
        fsconfig(fs_fd, "source", "overlay")
        for key, value in lower:
            fsconfig(fs_fd, key, value)
        if overlay.upper:
            _set_upper(fs_fd, overlay.upper)
            fsconfig(fs_fd, "workdir", overlay.work)
        if overlay.volatile:
            fsconfig(fs_fd, "volatile")
        # Renamed folders and changed attributes stay whole in the upper folder, so that it is a
        # layer by itself.
        fsconfig(fs_fd, "redirect_dir", "off")
        fsconfig(fs_fd, "index", "off")
        fsconfig(fs_fd, "metacopy", "off")
        return fsmount(fs_fd, 0 if overlay.upper else ATTR_RDONLY, "overlay")
    finally:
        os.close(fs_fd)


def view_fd(overlay: Overlay) -> int:
    """A descriptor of the root that the layers make, read-only; the caller closes it.

    The upper folder is taken as one more lower layer, so that a mount of it elsewhere is never
    disturbed.
    """
    lower = ((overlay.upper,) if overlay.upper else ()) + overlay.lower
    if len(lower) == 1:
        return os.open(lower[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return overlay_fd(Overlay(lower))


def mount_overlay(overlay: Overlay, target: str) -> None:
    """Mount `overlay` at the folder `target`."""
    fd = overlay_fd(overlay)
    try:
        move_mount(fd, target)
    finally:
        os.close(fd)
