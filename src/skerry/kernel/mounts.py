"""Mounts: the classic calls and the descriptor-based ones.

Sources: mount(2), mount_setattr(2), Documentation/filesystems/mount_api.rst.

A detached mount (from `open_tree` with OPEN_TREE_CLONE or `fsmount`) belongs to nobody's namespace
and goes away with its descriptor, so whatever fails half-way leaves nothing mounted.
"""

import ctypes
import errno
import os

from skerry.base.errors import KernelFault
from skerry.base.isolation import Overlay
from skerry.kernel.descriptors import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE
from skerry.kernel.syscalls import (
    NR_FSCONFIG,
    NR_FSMOUNT,
    NR_FSOPEN,
    NR_MOUNT_SETATTR,
    NR_MOVE_MOUNT,
    NR_OPEN_TREE,
    NR_PIVOT_ROOT,
    checked,
    libc,
    syscall,
)

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

# mount_setattr(2)
ATTR_RDONLY = 0x01
ATTR_NOSUID = 0x02
ATTR_NODEV = 0x04
ATTR_NOEXEC = 0x08
ATTR_ATIME = 0x70
ATTR_RELATIME = 0x00
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x00100000
ATTR_NOSYMFOLLOW = 0x00200000

_OPEN_TREE_CLONE = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_F_EMPTY_PATH = 0x04
_T_EMPTY_PATH = 0x40
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_PAGE = 4096


class _MountAttr(ctypes.Structure):
    """struct mount_attr, linux/mount.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    )


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


def open_tree(path: str, *, recursive: bool = False, dirfd: int = AT_FDCWD) -> int:
    """A detached copy of the mount at `path` (of all below it too when `recursive`)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(
        NR_OPEN_TREE, dirfd, os.fsencode(path), flags, action=f"copy the mount at {path or dirfd}"
    )


def mount_setattr(
    fd: int,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    userns_fd: int = -1,
    recursive: bool = False,
    what: str = "",
) -> None:
    """Change the attributes of the mount behind `fd` (mount_setattr(2), Linux 5.12).

    With `userns_fd` it becomes an idmapped mount; it must be detached then.
    """
    if userns_fd >= 0:
        attr_set |= ATTR_IDMAP
    attributes = _MountAttr(attr_set, attr_clear, propagation, max(userns_fd, 0))
    syscall(
        NR_MOUNT_SETATTR,
        fd,
        b"",
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
        action=f"set mount attributes of {what or fd}",
    )


def move_mount(fd: int, target: str | int) -> None:
    """Attach a detached mount at a path, or on the file or folder behind a descriptor."""
    if isinstance(target, int):
        syscall(
            NR_MOVE_MOUNT,
            fd,
            b"",
            target,
            b"",
            _F_EMPTY_PATH | _T_EMPTY_PATH,
            action="attach a mount",
        )
    else:
        syscall(
            NR_MOVE_MOUNT,
            fd,
            b"",
            AT_FDCWD,
            os.fsencode(target),
            _F_EMPTY_PATH,
            action=f"attach a mount at {target}",
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
    """A detached mount of `overlay`; any number of layers. KernelFault EINVAL before Linux 6.8,
    where layers cannot be given one by one."""
    fs_fd = fsopen("overlay")
    try:
        fsconfig(fs_fd, "source", "overlay")
        for layer in overlay.lower:
            fsconfig(fs_fd, "lowerdir+", layer)
        if overlay.upper:
            fsconfig(fs_fd, "upperdir", overlay.upper)
            fsconfig(fs_fd, "workdir", overlay.work)
        # Renamed folders and changed attributes stay whole in the upper folder, so that it is a
        # layer by itself.
        fsconfig(fs_fd, "redirect_dir", "off")
        fsconfig(fs_fd, "index", "off")
        return fsmount(fs_fd, 0 if overlay.upper else ATTR_RDONLY, "overlay")
    finally:
        os.close(fs_fd)


def mount_overlay(overlay: Overlay, target: str) -> None:
    """Mount `overlay` at the folder `target`, on kernels without `lowerdir+` too."""
    try:
        fd = overlay_fd(overlay)
    except KernelFault as fault:
        if fault.errno != errno.EINVAL or "lowerdir+" not in fault.action:
            raise
        _mount_overlay_by_options(overlay, target)
        return
    try:
        move_mount(fd, target)
    finally:
        os.close(fd)


def _mount_overlay_by_options(overlay: Overlay, target: str) -> None:
    """mount(2) takes one page of options, so layers are named relative to their common folder."""
    base = os.path.commonpath(overlay.lower) if len(overlay.lower) > 1 else "/"
    lower = [os.path.relpath(layer, base) for layer in overlay.lower]
    escaped = [name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for name in lower]
    data = "lowerdir=" + ":".join(escaped)
    if overlay.upper:
        data += f",upperdir={overlay.upper},workdir={overlay.work}"
    if len(data) >= _PAGE:
        raise KernelFault(
            f"mount overlay of {len(lower)} layers on {target}",
            errno.E2BIG,
            hint="Linux 6.8 and newer take any number of layers",
        )
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(base)
        mount("overlay", target, "overlay", 0 if overlay.upper else MS_RDONLY, data)
    finally:
        os.fchdir(before)
        os.close(before)


def read_only_copy(path: str) -> int:
    """A descriptor of `path` through a detached read-only mount: what is executed from it can never
    be opened for writing through /proc/PID/exe, whatever the permissions of the file are."""
    tree = open_tree(path)
    try:
        mount_setattr(tree, attr_set=ATTR_RDONLY, what=path)
        return os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(tree)
