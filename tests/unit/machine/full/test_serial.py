"""The serial line: many clients on one serial line, and a log that stays small."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.machine.full import serial

SECONDS = 20


@pytest.fixture
def guest(short_tmp: Path) -> Iterator[tuple[socket.socket, Path]]:
    """QEMU's end of the serial line, and the run folder; a console runs meanwhile."""
    door = serial.listen_at(str(short_tmp / serial.SERIAL))
    console = serial.Console(str(short_tmp), serial.Log(str(short_tmp / "console.log")))
    line, _ = door.accept()
    door.close()
    line.settimeout(SECONDS)
    stop, stopped = os.pipe()

    def run() -> None:
        while not console.turn((stop,)):
            pass
        console.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield line, short_tmp
    os.write(stopped, b"x")
    line.close()
    thread.join(SECONDS)
    os.close(stop)
    os.close(stopped)
    assert not thread.is_alive()


def client(folder: Path, head: bytes = b"1000\n") -> socket.socket:
    """Somebody at the console."""
    sock = serial.connect_to(str(folder / serial.CONSOLE))
    sock.settimeout(SECONDS)
    sock.sendall(head)
    return sock


def read(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return data


def test_all_hear_and_all_type(guest: tuple[socket.socket, Path]) -> None:
    line, folder = guest
    with client(folder, b"0\nab") as one:
        assert read(line, 2) == b"ab"
        line.sendall(b"hello")
        assert read(one, 5) == b"hello"
        with client(folder, b"3\n") as other:
            assert read(other, 3) == b"llo"
            other.sendall(b"c")
            assert read(line, 1) == b"c"
            line.sendall(b"more")
            assert read(one, 4) == read(other, 4) == b"more"


@pytest.mark.parametrize("head", [b"x\n", b"1" * 10 + b"\n", b"9" * 40])
def test_a_wrong_first_line_ends_the_connection(
    guest: tuple[socket.socket, Path], head: bytes
) -> None:
    with client(guest[1], head) as sock:
        assert sock.recv(1) == b""


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up(
    guest: tuple[socket.socket, Path],
) -> None:
    line, folder = guest
    with client(folder, b"0\n") as slow, client(folder, b"0x\n".replace(b"x", b"")) as quick:
        slow.sendall(b"s")
        quick.sendall(b"q")
        assert sorted(read(line, 2)) == sorted(b"sq")
        piece = bytes(65536)
        for _ in range(100):
            line.sendall(piece)
            read(quick, len(piece))
        while slow.recv(1 << 20):
            pass


def test_the_log_keeps_the_last_megabytes(tmp_path: Path) -> None:
    log = serial.Log(str(tmp_path / "log"))
    for at in range(40):
        log.write(b"%07d\n" % at * 8192 * 2)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= serial.LOG_BYTES + 131072
    assert log.tail(8) == b"0000039\n"
    assert len(log.tail(serial.LOG_BYTES)) == serial.LOG_BYTES
    assert log.tail(0) == b""


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    door = serial.listen_at(str(folder / "sock"))
    with serial.connect_to(str(folder / "sock")):
        door.accept()[0].close()
    door.close()
    assert oct((folder / "sock").stat().st_mode)[-3:] == "600"
