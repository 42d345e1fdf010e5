"""What a layer takes away: OCI's `.wh.` names in archives, overlayfs's marks on disk.

image-spec layer.md, "Whiteouts"; Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories".
"""

import errno
import os
import stat
from typing import Final

WHITEOUT_PREFIX: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_PRIVILEGED: Final = "trusted.overlay.opaque"
_UNPRIVILEGED: Final = "user.overlay.opaque"


def opaque_attribute() -> str:
    """The extended attribute that this process can mark an opaque directory with."""
    return _PRIVILEGED if os.geteuid() == 0 else _UNPRIVILEGED


def make_whiteout(directory: int, name: str) -> None:
    """A character device 0:0 in an open directory."""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)


def make_opaque(directory: int) -> None:
    """Hide what lower layers have in an open directory."""
    os.setxattr(directory, opaque_attribute(), b"y")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry of an upper directory or a layer stands for a deleted one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int | str) -> bool:
    """Whether an open directory (or one at a path) hides what lower layers have in it."""
    try:
        return os.getxattr(directory, opaque_attribute()) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
