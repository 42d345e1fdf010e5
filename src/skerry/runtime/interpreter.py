"""The interpreter that runs what enters containers: executed in a way that nobody can write to it.

A process inside a container can reach the file that a process outside executes, through
/proc/PID/exe, and once that process has gone may open it for writing (CVE-2019-5736): the host's
Python, and with it the host. So the spawner, and all that it forks, executes the interpreter from a
detached, read-only clone of its mount. The clone belongs to no mount namespace, so no container can
make it writable again. Where mounts cannot be cloned (no privileges), a sealed copy in memory does.
"""

import os
import sys

from skerry.base.errors import KernelFault
from skerry.kernel.trees import ATTR_NOSUID, ATTR_RDONLY, mount_setattr, open_tree


def read_only_interpreter() -> int:
    """A descriptor of this interpreter's executable that can be executed and not be written.

    Execute it as `/proc/self/fd/N`; the caller closes it.
    """
    path = os.path.realpath(sys.executable)
    try:
        fd = open_tree(path)
        try:
            mount_setattr(fd, attr_set=ATTR_RDONLY | ATTR_NOSUID, what=path)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except KernelFault:
        from skerry.kernel.descriptors import memfd_sealed

        with open(path, "rb") as file:
            return memfd_sealed("skerry-python", file.read(), executable=True)
