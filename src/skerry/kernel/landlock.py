"""Landlock, as far as it is of use beside namespaces: a scope that no socket leads out of.

A program in the host's network namespace could join the host's abstract unix sockets, which have
no file that could be hidden (CVE-2020-15257).
Sources: landlock(7), linux/landlock.h.
"""

import os
import struct

from skerry.base.errors import KernelFault
from skerry.kernel.syscalls import syscall

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
"""The same on every architecture."""
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2


def scope() -> bool:
    """From now on no abstract unix socket and no process of somebody outside is reached; False
    where the kernel cannot (before 6.12, or without Landlock). Needs no_new_privs."""
    attributes = struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL)
    try:
        fd = syscall(_CREATE_RULESET, attributes, len(attributes), 0, action="make a ruleset")
    except KernelFault:
        return False
    try:
        syscall(_RESTRICT_SELF, fd, 0, action="restrict itself")
    finally:
        os.close(fd)
    return True
