"""The spawner's process for machines: as `skerry.runtime.spawner`, with wardens to keep."""

import os
import sys

from skerry.kernel.cgroups import detect
from skerry.kernel.descriptors import set_dumpable
from skerry.kernel.syscalls import libc
from skerry.machine.jail import seccomp_program
from skerry.machine.programs import Machines
from skerry.runtime.spawner import serve

_PR_SET_NAME = 15


def main(fd: int) -> None:
    """`fd` is its end of the engine's socket."""
    import _socket

    if os.geteuid() == 0:
        set_dumpable(False)
    libc.prctl(_PR_SET_NAME, b"skerry-spawner", 0, 0, 0)
    seccomp_program()  # Here, so that no warden compiles it again.
    programs = Machines(detect())
    programs.kill_rest("/skerry/no-such-group")
    os.set_inheritable(fd, False)
    serve(_socket.socket(fileno=fd), programs)


if __name__ == "__main__":
    main(int(sys.argv[1]))
