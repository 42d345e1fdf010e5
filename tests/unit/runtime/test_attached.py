"""What one attached client of a keeper is given, and how it is left."""

import socket
from collections.abc import Callable

import pytest

from skerry.base.isolation import Attach
from skerry.runtime.attached import Client
from skerry.runtime.loop import Loop
from skerry.runtime.streams import STDOUT, Streams


class Busy(Streams):
    """Streams whose program has read nothing yet, so that a client's input waits."""

    @property
    def stdin_waits(self) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__({"stdout": -1, "stderr": -2})


@pytest.mark.parametrize("closes", [Client.close, Client.finish])
def test_input_sent_in_vain_does_not_turn_the_end_into_a_reset(
    closes: Callable[[Client], object],
) -> None:
    ours, theirs = socket.socketpair()
    client = Client(theirs.detach(), Attach(True, True, True), Busy(), Loop())
    ours.setblocking(False)
    with ours:
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        client.send(STDOUT, b"last words")
        closes(client)
        assert client.gone
        assert ours.recv(100) == b"\x01\0\0\0\0\0\0\x0alast words"
        assert ours.recv(100) == b""
