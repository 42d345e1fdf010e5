"""Flags of inodes (linux/fs.h, ioctl_iflags(2))."""

import fcntl
import os
import struct
from typing import Final

_FS_IOC_GETFLAGS: Final = 0x80086601
_FS_IOC_SETFLAGS: Final = 0x40086602
_FS_TOPDIR_FL: Final = 0x00020000


def spread_subdirectories(path: str) -> None:
    """Ask the file system to put each subdirectory made in `path` far from the others.

    ext4 keeps files near their directory, and looks at every inode that was freed there within the
    last minutes before it takes one: after a large tree was deleted, making files beside it costs
    20 times as much. With this flag (chattr +T) every tree has its own part of the disk. File
    systems that do not know it are left as they are.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))
        if not flags & _FS_TOPDIR_FL:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", flags | _FS_TOPDIR_FL))
    except OSError:
        return
    finally:
        os.close(fd)
