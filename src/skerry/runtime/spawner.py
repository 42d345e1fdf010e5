"""The spawner: a lean, single-threaded process that forks a keeper for each request.

Theory. Forking from the engine would copy its page tables, take its threads' locks along and put
the engine's memory in reach of what runs in a half-made container. So the engine starts one spawner
when it comes up, while there is nothing secret in it, and sends it requests:

    descriptor 0 of the message   the control socket of the keeper to be
    descriptor 1, if any          the stream socket of the first client
    head and body                 for the keeper; the spawner does not look at them

It forks (or hands over to a child that stands by: `standby`) and goes back to reading; it never
waits for a container and keeps nothing of a request, so one container's plan is not in the memory
that the next one's init is forked from. When the engine dies the spawner reads the end of its
socket, after the requests still queued there (their keepers see that nobody is left, and leave),
and goes too.

Privileges: it keeps root and stays in the host's namespaces; it is not dumpable, so nobody inside a
container can trace what was forked from it until it executes the program; its executable is
read-only (`skerry.runtime.interpreter`). Every module is imported and the garbage collector frozen
before the first fork: a page that nobody writes to is shared by all keepers.
"""

import _socket
import gc
import os
import select
import signal
import socket
import sys

from skerry.base.errors import KernelFault
from skerry.kernel import namespaces, signals
from skerry.kernel.capabilities import remember_bounding
from skerry.kernel.cgroups import detect
from skerry.kernel.descriptors import set_dumpable
from skerry.kernel.syscalls import libc
from skerry.runtime import wire
from skerry.runtime.containers import Containers
from skerry.runtime.keeper import EXEC, START, keep, keep_ahead
from skerry.runtime.launch import rehearse_exec
from skerry.runtime.standby import QUIET, Standby
from skerry.runtime.starter import Programs

_ROOM_FOR_FDS = _socket.CMSG_SPACE(4 * wire.MAX_FDS)
_CUT_SHORT = _socket.MSG_TRUNC | _socket.MSG_CTRUNC
# linux/prctl.h
_PR_SET_NAME = 15


def serve(sock: _socket.socket, programs: Programs, ahead: tuple[bytes, ...] = (EXEC,)) -> None:
    """Fork a keeper for each message until the other end closes; for those whose head begins with
    one of `ahead`, before they come."""
    signals.heed()  # What the engine was started with is no container's business.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for keepers.
    gc.collect()
    gc.freeze()
    gc.disable()
    standby = Standby(lambda waiting, receive: keep_ahead(waiting, receive, programs))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while True:
        # No wrapper of ours: what this loop writes to is no longer shared with earlier keepers.
        ready = poll.poll(QUIET if standby.due else None)
        if not ready:
            if standby.make(sock):
                poll.register(standby.fd, select.POLLIN)
            continue
        if ready[0][0] == standby.fd:
            if not standby.hear():
                poll.unregister(ready[0][0])
            continue
        datagram, ancillary, flags, _ = sock.recvmsg(
            wire.DATAGRAM, _ROOM_FOR_FDS, _socket.MSG_CMSG_CLOEXEC
        )
        if not datagram:
            return
        fds = tuple(memoryview(ancillary[0][2]).cast("i")) if ancillary else ()
        # A request that was cut short is dropped: the engine sees its control socket close.
        if fds and not flags & _CUT_SHORT:
            ready_made = datagram.startswith(ahead, wire.HEADER) and standby.give(datagram, fds)
            if not ready_made:
                _fork(sock, standby, datagram, fds, programs)
        for fd in fds:
            os.close(fd)


def _fork(
    sock: _socket.socket,
    standby: Standby,
    datagram: bytes,
    fds: tuple[int, ...],
    programs: Programs,
) -> None:
    try:
        if os.fork() == 0:
            try:
                sock.close()
                standby.gone()
                keep(datagram, fds, programs)
            finally:
                os._exit(0)
    except OSError as error:
        _refuse(fds, error)


def _refuse(fds: tuple[int, ...], error: OSError) -> None:
    fault = KernelFault("starting a keeper", error.errno or 0)
    with socket.socket(fileno=os.dup(fds[0])) as control:
        wire.send(control, {"event": "failed", "error": wire.error_to_wire(fault)})


def main(fd: int) -> None:
    """The spawner's process, started by `skerry.runtime.driver`; `fd` is its end of the socket."""
    if os.geteuid() == 0:
        # Without root, the id maps of a child can be written only while it is dumpable.
        set_dumpable(False)
    libc.prctl(_PR_SET_NAME, b"skerry-spawner", 0, 0, 0)
    programs = Containers(detect())
    # Imported late elsewhere; a keeper must not read modules from the disk at the end of a program.
    programs.kill_rest("/skerry/no-such-group")  # It kills what it finds.
    rehearse_exec()
    # Asked here once, or every init asks the kernel anew, one capability at a time.
    remember_bounding()
    namespaces.remember_own()
    os.set_inheritable(fd, False)
    serve(_socket.socket(fileno=fd), programs, (EXEC, START))


if __name__ == "__main__":
    main(int(sys.argv[1]))
