"""What a hostile guest may say to its warden: any message at all."""

import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skerry.machine.asking import Guest, Waiting
from skerry.machine.channel import Line, Message
from skerry.machine.execs import Exec, Execs
from skerry.machine.packing import Work, Works
from skerry.machine.warden import Warden
from skerry.runtime import wire

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    PLAIN | st.sampled_from(["main", "exec", "exit", "dns", "worked"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["event", "reply", "seq", "id", "code", "signal", "oom", "number", "tcp", "error", "memfd"]
)
HEADS = st.dictionaries(KEYS, JSON | st.integers(0, 3), max_size=6)


class Names:
    """A forwarder that asks nobody."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bool]] = []

    def ask(self, query: bytes, tcp: bool, answer: Any) -> None:
        """Note it."""
        self.asked.append((query, tcp))


def warden(asker: socket.socket) -> Warden:
    """One without a machine, whom the asker waits for and whose exec runs."""
    made = object.__new__(Warden)
    made._end = None
    made._guest = guest = Guest(object.__new__(Line))
    guest._waiting = {1: Waiting(asker, 7, None), 2: Waiting(None, 0, None)}
    made._execs, made._works = Execs(guest), Works(guest)
    made._execs._running = {"exec": Exec(asker, [], None)}
    made._works._going = {3: Work(None, lambda head: None)}  # type: ignore[arg-type]
    made._dns = Names()  # type: ignore[assignment]
    return made


@given(st.lists(st.tuples(HEADS, st.binary(max_size=16)), max_size=8))
def test_no_message_of_a_guest_brings_it_down(messages: list[tuple[dict[str, Any], bytes]]) -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with mine, theirs:
        theirs.setblocking(False)
        made = warden(mine)
        for head, body in messages:
            made._heard(Message(head, body))
        mine.close()
        # Whoever waits hears of its own request or its own exec, and of no other.
        while (said := wire.receive(theirs)) is not None:
            assert said.head.get("reply") == 7 or said.head.get("event") == "exit"
            if said.head.get("event") == "exit":
                assert 0 <= said.head["code"] <= 255
                assert 0 <= said.head["signal"] <= 64
    assert made._end is None or made._end.get("id") == "main"
