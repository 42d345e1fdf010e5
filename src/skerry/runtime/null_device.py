"""The host's null device for containers: readable and writable, its inode out of their reach.

Root in a container owns what its streams refer to as far as fchmod and fchown are concerned; with
the host's /dev/null as standard input it could change that for the whole host. Through a read-only
mount the device works as ever, for reading and writing it is not the mount's affair, and the inode
cannot be changed.

Making the mount costs as much as a tenth of a container, so a process does it once; keepers
inherit it from the spawner.
"""

import os

from skerry.base.errors import KernelFault
from skerry.kernel.descriptors import device_number, open_in_root
from skerry.kernel.trees import ATTR_RDONLY, mount_setattr, open_tree
from skerry.runtime.init.handover import Stdio

_NULL = (1, 3)
_guarded = -1


def guarded_null() -> int:
    """This process's descriptor of it; -1 without the privilege to mount, when /dev/null is not the
    caller's to change either."""
    global _guarded
    if _guarded >= 0:
        return _guarded
    try:
        tree = open_tree("/dev/null")
        try:
            mount_setattr(tree, attr_set=ATTR_RDONLY, what="/dev/null")
            _guarded = os.open(f"/proc/self/fd/{tree}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(tree)
    except (KernelFault, OSError):
        return -1
    return _guarded


def guarded_streams(stdin: int, stdout: int, stderr: int) -> Stdio:
    """The streams, each that is the null device replaced by the guarded one."""
    streams = []
    for fd in (stdin, stdout, stderr):
        if fd >= 0 and device_number(fd) == _NULL:
            guarded = guarded_null()
            fd = guarded if guarded >= 0 else fd
        streams.append(fd)
    return Stdio(*streams)


def own_streams(streams: Stdio, root_fd: int) -> tuple[Stdio, int]:
    """The streams, each that is the null device replaced by the one of the container whose root is
    `root_fd`, and that one's descriptor, -1 for none.

    So its path and its label are the container's. When the image's /dev/null is something else the
    streams stay.
    """
    theirs = [fd >= 0 and device_number(fd) == _NULL for fd in streams]
    if not any(theirs):
        return streams, -1
    # Looked at before it is opened: we are not under the container's device rules, and it may have
    # any device in its place.
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    place = own = -1
    try:
        place = open_in_root(root_fd, "dev/null", flags)
        if device_number(place) == _NULL:
            own = os.open(f"/proc/self/fd/{place}", os.O_RDWR | os.O_CLOEXEC)
    except (KernelFault, OSError):
        own = -1
    finally:
        if place >= 0:
            os.close(place)
    if own < 0:
        return streams, -1
    return Stdio(*[own if null else fd for fd, null in zip(streams, theirs, strict=True)]), own
