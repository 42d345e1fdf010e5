"""The loop between standard streams and an attached container."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from skerry.base.errors import InvalidInput, Unavailable
from skerry.cli.streams import DETACHED, ENDED, LEFT, Pump
from skerry.cli.terminal import DetachKeys


class Ends:
    """The engine's end of the connection, and pipes for the three streams."""

    def __init__(self) -> None:
        self.engine, self.client = socket.socketpair(socket.AF_UNIX)
        self.engine.settimeout(120)
        self.input_read, self.input_write = os.pipe()

    def close(self) -> None:
        self.engine.close()
        for fd in (self.input_read, self.input_write):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def test_output_is_sorted(ends: Ends, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ends.engine.sendall(frame(1, b"out") + frame(2, b"err") + frame(1, b"!"))
    ends.engine.close()
    pump = Pump(ends.client, frame(1, b"first "), tty=False, stdin=None)
    assert pump.run() == ENDED
    assert capfdbinary.readouterr() == (b"first out!", b"err")


def test_a_terminal_is_raw(ends: Ends, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ends.engine.sendall(b"\x01\0\0\0 not a frame")
    ends.engine.close()
    assert Pump(ends.client, b"", tty=True, stdin=None).run() == ENDED
    assert capfdbinary.readouterr().out == b"\x01\0\0\0 not a frame"


def test_the_end_of_input_is_passed_on(
    ends: Ends, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def engine() -> None:
        data = b""
        while more := ends.engine.recv(100):
            data += more
        ends.engine.sendall(frame(1, data.upper()))
        ends.engine.close()

    thread = threading.Thread(target=engine)
    thread.start()
    os.write(ends.input_write, b"hello")
    os.close(ends.input_write)
    assert Pump(ends.client, b"", tty=False, stdin=ends.input_read).run() == ENDED
    thread.join()
    assert capfdbinary.readouterr().out == b"HELLO"


def test_neither_direction_blocks_the_other(
    ends: Ends, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """An engine that writes 4 MB before it reads, and a user who sends 4 MB meanwhile."""
    size = 4 << 20

    def engine() -> None:
        ends.engine.sendall(frame(1, b"x" * size))
        got = 0
        while more := ends.engine.recv(65536):
            got += len(more)
        ends.engine.sendall(frame(1, b"%d" % got))
        ends.engine.close()

    def user() -> None:
        view = memoryview(b"y" * size)
        while view:
            view = view[os.write(ends.input_write, view) :]
        os.close(ends.input_write)

    threads = [threading.Thread(target=engine), threading.Thread(target=user)]
    for thread in threads:
        thread.start()
    assert Pump(ends.client, b"", tty=False, stdin=ends.input_read).run() == ENDED
    for thread in threads:
        thread.join()
    assert capfdbinary.readouterr().out == b"x" * size + b"%d" % size


def test_detach_keys_leave(ends: Ends) -> None:
    os.write(ends.input_write, b"abc\x10\x11def")
    keys = DetachKeys(b"\x10\x11")
    assert Pump(ends.client, b"", tty=True, stdin=ends.input_read, keys=keys).run() == DETACHED
    assert ends.engine.recv(100) == b"abc"
    assert ends.engine.recv(100) == b""


def test_leaving_from_elsewhere(ends: Ends) -> None:
    pump = Pump(ends.client, b"", tty=False, stdin=None)
    threading.Timer(0.05, pump.leave).start()
    assert pump.run() == LEFT


def test_a_stream_that_is_cut_off_is_an_error(ends: Ends) -> None:
    ends.engine.sendall(frame(1, b"hello")[:-2])
    ends.engine.close()
    with pytest.raises(Unavailable, match="cut off"):
        Pump(ends.client, b"", tty=False, stdin=None).run()


def test_a_stream_that_is_not_framed_is_an_error(ends: Ends) -> None:
    ends.engine.sendall(b"no frames here")
    with pytest.raises(InvalidInput, match="not framed"):
        Pump(ends.client, b"", tty=False, stdin=None).run()


def test_a_closed_output_does_not_end_the_program(ends: Ends) -> None:
    """`skerry run … | head`: what comes after is dropped, and standard error goes on."""
    saved = os.dup(1)
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(write)
    os.close(read)
    try:
        ends.engine.sendall(frame(1, b"a") + frame(1, b"b"))
        ends.engine.close()
        assert Pump(ends.client, b"", tty=False, stdin=None).run() == ENDED
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_descriptors_are_closed(ends: Ends) -> None:
    before = set(os.listdir("/proc/self/fd"))
    ends.engine.close()
    Pump(ends.client, b"", tty=False, stdin=None).run()
    assert set(os.listdir("/proc/self/fd")) < before
