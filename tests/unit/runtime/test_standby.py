"""The child that stands by, without a spawner around it."""

import _socket
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.runtime.standby import Receive, Standby

PATIENCE = 20_000


def answer(sock: _socket.socket, receive: Receive) -> None:
    """In the child: say what came, and that the exec is over."""
    datagram, fds = receive(sock)
    if datagram:
        os.write(fds[0], b"%d %s" % (os.getpid(), datagram))
        sock.close()
        signal.pause()


@pytest.fixture
def engine() -> Iterator[socket.socket]:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield theirs


@pytest.fixture
def first(engine: socket.socket) -> Iterator[tuple[Standby, int]]:
    """One whose first child is there, and the child's pid."""
    before = children()
    made = Standby(answer)
    read, write = os.pipe()
    assert not made.give(b"first", (write,)), "nobody can stand by yet"
    os.close(read)
    os.close(write)
    assert made.due
    assert made.make(engine)
    assert not made.due
    (pid,) = children() - before
    yield made, pid
    made.gone()
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found}


def wait_for_end(standby: Standby) -> None:
    poll = select.poll()
    poll.register(standby.fd, select.POLLIN)
    while True:
        assert poll.poll(PATIENCE), "the child neither is done nor has gone"
        if not standby.hear():
            return


def test_a_request_is_handed_over_and_another_child_is_due(first: tuple[Standby, int]) -> None:
    standby, child = first
    read, write = os.pipe()
    try:
        assert standby.give(b"request", (write,))
        assert os.read(read, 100) == b"%d request" % child
        assert not standby.give(b"second", (write,)), "it has one already"
        wait_for_end(standby)
        assert standby.due
    finally:
        os.close(read)
        os.close(write)


def test_one_that_was_killed_is_made_again_with_the_next_exec(
    first: tuple[Standby, int], engine: socket.socket
) -> None:
    standby, pid = first
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for_end(standby)
    assert not standby.due
    assert not standby.give(b"request", (0,))
    assert standby.due
    assert standby.make(engine)
    assert standby.fd >= 0


def test_it_goes_with_its_spawner(first: tuple[Standby, int]) -> None:
    standby, pid = first
    standby.gone()  # A spawner that dies closes its end too.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
