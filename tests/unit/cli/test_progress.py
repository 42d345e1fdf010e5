"""Progress of long work."""

import os
import pty
import termios

from skerry.cli.progress import Progress

MESSAGES = [
    {"status": "fetching \x1b[2J things"},
    {"id": "layer", "status": "Downloading", "progressDetail": {"current": 500, "total": 1000}},
    {"id": "layer", "status": "Downloading", "progressDetail": {"current": 1000, "total": 1000}},
    {"id": "other", "status": "Waiting"},
    {"id": "layer", "status": "Done", "progressDetail": {}},
    {"aux": {"ID": "x"}},
    {"id": "odd", "status": "Downloading", "progressDetail": {"current": 7}},
]


def shown(fd_out: int, fd_in: int, *, quiet: bool = False, plain: bool | None = None) -> str:
    progress = Progress(fd_out, quiet=quiet, plain=plain)
    for message in MESSAGES:
        progress.show(message)
    progress.close()
    os.write(fd_out, b"END\n")
    data = b""
    while b"END" not in data:
        data += os.read(fd_in, 4096)
    return data.decode().replace("\r\n", "\n").partition("END")[0]


LINES = (
    "fetching \\x1b[2J things\nlayer: Downloading\nother: Waiting\nlayer: Done\nodd: Downloading\n"
)


def test_a_log_gets_a_line_for_each_change() -> None:
    read, write = os.pipe()
    assert shown(write, read) == LINES
    assert shown(write, read, quiet=True) == ""
    os.close(read)
    os.close(write)


def test_a_terminal_gets_bars_in_place() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    text = shown(follower, leader)
    assert f"layer: Downloading [{'=' * 15 + '>':30}] 500B/1kB\n" in text
    assert f"\x1b[1A\r\x1b[2Klayer: Downloading [{'=' * 30}] 1kB/1kB\x1b[1B\r" in text
    assert "\x1b[2A\r\x1b[2Klayer: Done\x1b[2B\r" in text
    assert "odd: Downloading 7B\n" in text
    assert "\x1b[2J" not in text
    assert shown(follower, leader, plain=True) == LINES
    os.close(leader)
    os.close(follower)


def test_a_line_fits_the_window() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 20))
    assert all(len(line) < 20 for line in shown(follower, leader).split("\n") if "\x1b" not in line)
    os.close(leader)
    os.close(follower)
