"""Detached mounts: copies of mounts, or fresh file systems, that are attached nowhere yet.

A detached mount belongs to nobody's namespace and goes away with its descriptor, so whatever fails
half-way leaves nothing mounted. Apart from `mounts` because a command line needs just this much,
and nothing slow to import, to execute its interpreter again from a read-only mount.
"""

import ctypes
import os

from skerry.kernel.syscalls import NR_MOUNT_SETATTR, NR_MOVE_MOUNT, NR_OPEN_TREE, syscall

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

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

# linux/mount.h
_OPEN_TREE_CLONE = 1
_F_EMPTY_PATH = 0x04
_T_SYMLINKS = 0x10
_T_EMPTY_PATH = 0x40


class _MountAttr(ctypes.Structure):
    """struct mount_attr, linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def open_tree(path: str, *, recursive: bool = False, dirfd: int = AT_FDCWD) -> int:
    """A detached copy of the mount at `path` (of all below it too when `recursive`)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    what = path or f"descriptor {dirfd}"
    return syscall(
        NR_OPEN_TREE, dirfd, os.fsencode(path), flags, action=f"copy the mount at {what}"
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


def move_mount(fd: int, target: "str | int") -> None:
    """Attach a detached mount at a path, or on the file or folder behind a descriptor."""
    flags = _F_EMPTY_PATH
    if isinstance(target, int):
        place, name, flags, what = target, b"", flags | _T_EMPTY_PATH, "a mount"
    else:
        place, name, what = AT_FDCWD, os.fsencode(target), f"a mount at {target}"
        flags |= _T_SYMLINKS
    syscall(NR_MOVE_MOUNT, fd, b"", place, name, flags, action=f"attach {what}")
