"""Paths below a root that somebody hostile made, of any length."""

import errno
import os
from typing import Final

from skerry.base.errors import KernelFault, LimitExceeded
from skerry.kernel.descriptors import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

_RESOLVE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_PIECE: Final = 2048
_LONGEST: Final = 1 << 20


def open_long(root_fd: int, path: str, flags: int, follow: bool = True) -> int:
    """openat2 in the root for paths of any length; KernelFault (ELOOP) at a symbolic link when
    `follow` is false.

    A path over PATH_MAX is walked in pieces, each with the last piece's directory as its root:
    links in it may resolve to another place, but never to one outside.
    """
    resolve = _RESOLVE if follow else _RESOLVE | RESOLVE_NO_SYMLINKS
    if len(path) <= _PIECE:
        return openat2(root_fd, path, flags, resolve=resolve)
    if len(path) > _LONGEST:
        raise LimitExceeded(f"path of {len(path)} characters")
    here = os.dup(root_fd)
    try:
        while len(path) > _PIECE:
            cut = path.rfind("/", 0, _PIECE)
            if cut <= 0:
                raise KernelFault(f"open {path[:80]}…", errno.ENAMETOOLONG)
            below = openat2(here, path[:cut], os.O_PATH | os.O_DIRECTORY, resolve=resolve)
            os.close(here)
            here, path = below, path[cut + 1 :]
        return openat2(here, path, flags, resolve=resolve)
    finally:
        os.close(here)
