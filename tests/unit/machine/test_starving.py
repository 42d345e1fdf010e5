"""A guest's lack of memory, from what it says to what the engine polls and reads."""

import select
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Unsupported
from skerry.machine import clients, starving
from skerry.runtime import rundir, wire


def words(sock: socket.socket) -> int:
    """How many messages wait."""
    sock.setblocking(False)
    count = 0
    while True:
        try:
            sock.recv(4096)
        except BlockingIOError:
            return count
        count += 1


def test_the_engine_polls_a_connection_and_reads_a_file(tmp_path: Path) -> None:
    watched = starving.Watched(str(tmp_path))
    with pytest.raises(Unsupported, match="has ended"):
        watched.watch_oom()
    assert watched.oom_kills() == 0

    listener = rundir.listen(str(tmp_path), clients.SOCKET)
    watch = watched.watch_oom()
    warden, _ = listener.accept()
    asked = wire.receive(warden)
    assert asked is not None
    assert asked.head["op"] == starving.OP

    starved = starving.Starved(str(tmp_path), copied=False)
    starved.join(warden)
    starved.heard({"kills": 0})
    poll = select.poll()
    poll.register(watch.fd, watch.mask)
    assert not poll.poll(0)
    starved.heard({"kills": 2})
    assert poll.poll(0)
    assert watched.oom_kills() == 2
    watch.clear()
    assert not poll.poll(0)
    starved.part(warden)
    starved.heard({"kills": 3})
    assert not poll.poll(0)
    with socket.socket(fileno=watch.fd), listener, warden:
        assert watched.oom_kills() == 3


def test_a_copy_does_not_tell_what_happened_to_its_source(tmp_path: Path) -> None:
    starved = starving.Starved(str(tmp_path), copied=True)
    watched = starving.Watched(str(tmp_path))
    starved.heard({"kills": 5})
    assert watched.oom_kills() == 0
    starved.heard({"kills": 6})
    assert watched.oom_kills() == 1


@given(st.lists(st.dictionaries(st.just("kills"), st.integers() | st.none() | st.text())))
def test_a_guest_that_lies_is_told_a_bounded_number_of_times(
    tmp_path_factory: pytest.TempPathFactory, said: list[dict[str, Any]]
) -> None:
    run_dir = str(tmp_path_factory.mktemp("run"))
    starved = starving.Starved(run_dir, copied=False)
    for head in said:
        starved.heard(head)
    assert 0 <= starving.Watched(run_dir).oom_kills() <= 1000


def test_a_guest_that_floods(tmp_path: Path) -> None:
    starved = starving.Starved(str(tmp_path), copied=False)
    mine, engine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, engine:
        mine.setblocking(False)
        starved.join(mine)
        for kills in range(3000):
            starved.heard({"kills": kills})
        assert 0 < words(engine) <= 1000
