"""Whether a machine has let go of its disk in good order, and what is done when it has not.

A mark (xattr(7)) on the disk itself says that a machine writes to it, so that it goes wherever the
file goes. Who finds the mark at a start knows that QEMU was killed: clusters that it had reserved
may belong to nobody (qemu-img(1), "leaks"). `disks.repair` gives them back first.

Lean: wardens mark.
"""

import os
from contextlib import suppress

_MARK = "trusted.skerry.open"
_OPEN, _UNCHECKED = b"1", b"2"
"""Written to now; written to again although nobody has checked it since a machine was killed."""


def mark(disk: int | str) -> None:
    """A machine is about to write to this disk."""
    # Where marks cannot be kept, space may stay lost, and nothing else.
    with suppress(OSError):
        try:
            os.setxattr(disk, _MARK, _OPEN, os.XATTR_CREATE)
        except FileExistsError:
            os.setxattr(disk, _MARK, _UNCHECKED)


def close(disk: int | str) -> None:
    """QEMU has closed it in good order, which gives back nothing that another has lost before."""
    with suppress(OSError):
        if os.getxattr(disk, _MARK) == _OPEN:
            os.removexattr(disk, _MARK)


def clear(disk: int | str) -> None:
    """It has been checked."""
    with suppress(OSError):
        os.removexattr(disk, _MARK)


def is_marked(disk: str) -> bool:
    """Whether nobody has closed it in order."""
    try:
        return bool(os.getxattr(disk, _MARK))
    except OSError:
        return False
