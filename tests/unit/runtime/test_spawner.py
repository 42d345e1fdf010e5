"""The spawner's loop, and the interpreter it runs from, without root."""

import errno
import gc
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.base.errors import KernelFault
from skerry.runtime import interpreter, spawner, wire
from skerry.runtime.starter import Programs


def no_processes_left() -> int:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The engine's end to a spawner that cannot fork."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            monkeypatch.setattr(os, "fork", no_processes_left)
            spawner.serve(socket.socket(fileno=theirs.detach()), Programs())
            frozen = gc.get_freeze_count() > 0 and not gc.isenabled()
            ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
            os._exit(0 if frozen and ignored else 4)
        finally:
            os._exit(3)
    theirs.close()
    yield ours
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def ask(spawner_end: socket.socket, body: bytes = b"", padding: bytes = b"") -> socket.socket:
    """Send a request; the control socket, on which a keeper would speak."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.settimeout(120)
    with theirs:
        datagram, memfd = wire.pack({"op": "start"}, body)
        fds = [theirs.fileno()] + ([memfd] if memfd is not None else [])
        socket.send_fds(spawner_end, [datagram + padding], fds)
        if memfd is not None:
            os.close(memfd)
    return mine


def test_a_keeper_that_cannot_be_forked_is_told_and_the_next_request_served(
    unable: socket.socket,
) -> None:
    for body in (b"", b"x" * 100_000):
        with ask(unable, body) as control:
            message = wire.receive(control)
            assert message is not None
            error = wire.error_from_wire(message.head["error"])
            assert isinstance(error, KernelFault)
            assert error.errno == errno.EAGAIN
            assert wire.receive(control) is None, "the spawner keeps the control socket"


def test_a_request_that_is_too_large_is_hung_up_on(unable: socket.socket) -> None:
    with ask(unable, padding=b"x" * wire.DATAGRAM) as control:
        assert wire.receive(control) is None
    unable.send(b"no descriptors")
    with ask(unable) as control:
        assert wire.receive(control) is not None


def test_without_the_right_to_mount_the_interpreter_is_a_sealed_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> int:
        raise KernelFault(f"copy the mount at {path}", errno.EPERM)

    monkeypatch.setattr(interpreter, "open_tree", refuse)
    fd = interpreter.read_only_interpreter()
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        copied = os.pread(fd, 1 << 24, 0)
        assert copied == Path("/proc/self/exe").read_bytes()
    finally:
        os.close(fd)
