"""Project quotas: a limit on what lies below one folder.

Sources: quotactl_fd(2), linux/dqblk_xfs.h (ext4 takes XFS's commands too), linux/fs.h
(FS_IOC_FSSETXATTR). Needs Linux 5.14 and a file system mounted with `prjquota`.
"""

import ctypes
import errno
import fcntl
import os
import struct

from skerry.base.errors import KernelFault
from skerry.kernel.syscalls import NR_QUOTACTL_FD, syscall

_PROJECT = 2  # PRJQUOTA, linux/quota.h
_GET, _SET = 0x5803, 0x5804  # Q_XGETQUOTA, Q_XSETQLIM
_SOFT, _HARD = 1 << 2, 1 << 3  # FS_DQ_BSOFT, FS_DQ_BHARD
_OF_PROJECT = 2  # FS_PROJ_QUOTA
_BLOCK = 512
"""Bytes of a "basic block", the unit of the limits."""
_LIMITS = struct.Struct("=bbHI6QiiHH4b3QiHh8x")
"""struct fs_disk_quota."""
_ATTRIBUTES = struct.Struct("=5I8x")
"""struct fsxattr: flags, extent size, extents, project, copy-on-write extent size."""
_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT


def set_project(directory: int, project: int) -> None:
    """Count what is made below the open directory for `project`."""
    flags, extent, extents, _, cow = _attributes(directory)
    data = _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, cow)
    try:
        fcntl.ioctl(directory, _FS_IOC_FSSETXATTR, data)
    except OSError as error:
        raise KernelFault(f"set project {project}", error.errno or 0) from None


def project_of(directory: int) -> int:
    """The project of an open directory, 0 for none."""
    return _attributes(directory)[3]


def _attributes(directory: int) -> tuple[int, ...]:
    try:
        data = fcntl.ioctl(directory, _FS_IOC_FSGETXATTR, bytes(_ATTRIBUTES.size))
    except OSError as error:
        raise KernelFault("read the project of a folder", error.errno or 0) from None
    return _ATTRIBUTES.unpack(data)


def set_limit(directory: int, project: int, size: int) -> None:
    """Let `project` have `size` bytes of the directory's file system; 0 takes the limit away."""
    blocks = -(-size // _BLOCK)
    fields = [1, _OF_PROJECT, _SOFT | _HARD, project, blocks, blocks, *[0] * 17]
    data = ctypes.create_string_buffer(_LIMITS.pack(*fields), _LIMITS.size)
    _call(directory, _SET, project, data, f"limit project {project} to {size} bytes")


def in_use(directory: int, project: int) -> bool:
    """Whether `project` has a limit or files on the directory's file system.

    KernelFault with ESRCH or ENOSYS when that keeps no account of projects.
    """
    data = ctypes.create_string_buffer(_LIMITS.size)
    try:
        _call(directory, _GET, project, data, f"read the quota of project {project}")
    except KernelFault as fault:
        if fault.errno == errno.ENOENT:
            return False
        raise
    return any(_LIMITS.unpack(data.raw)[4:10])


def _call(directory: int, command: int, project: int, data: object, action: str) -> None:
    # A descriptor of a mount point's folder names the file system; O_PATH ones are refused.
    syscall(NR_QUOTACTL_FD, directory, command << 8 | _PROJECT, project, data, action=action)


def open_directory(path: str) -> int:
    """A descriptor for the calls above; KernelFault."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFault(f"open {path}", error.errno or 0) from None
