"""The guest as its warden sees it: a line, questions that wait for answers, numbers for streams.

Lean. The guest is hostile: what waits for it is bounded in number and bytes.
"""

import socket
from collections.abc import Callable

from skerry.base.errors import MachineFault
from skerry.base.light import Any, NamedTuple
from skerry.machine import said
from skerry.machine.channel import Line, Message

MAIN = "main"
"""The id of the container's own program."""
_MOST_WAITING = 4096
_MOST_QUEUED = 8 << 20
_FIRST_STREAM, _STREAMS = 16, 3
"""Numbers below are the main program's; whoever comes later gets so many."""


class Waiting(NamedTuple):
    """Somebody who waits for the guest's answer."""

    sock: socket.socket | None
    seq: int
    then: Callable[[dict[str, Any]], None] | None


class Guest:
    """The guest's side of one warden."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._waiting: dict[int, Waiting] = {}
        self._seq = 0
        self._next_stream = _FIRST_STREAM

    @property
    def next_seq(self) -> int:
        """The number of the question that comes next."""
        return self._seq + 1

    def tell(self, head: dict[str, Any]) -> None:
        """Say something whose answer nobody waits for."""
        if self.line.queued < _MOST_QUEUED:
            self.line.say({**head, "seq": 0})

    def check_room(self, streams: int = 0) -> None:
        """Whether the guest can be asked, and be given so many more streams; MachineFault."""
        if len(self._waiting) >= _MOST_WAITING or self.line.queued >= _MOST_QUEUED:
            raise MachineFault("the guest does not answer")
        if not self.line.has_room(streams):
            raise MachineFault("the machine has too many streams")

    def ask(self, head: dict[str, Any], body: bytes, waiting: Waiting) -> int:
        """Ask something; the question's number. MachineFault when too many wait."""
        self.check_room()
        self._seq += 1
        self._waiting[self._seq] = waiting
        self.line.say({**head, "seq": self._seq}, body)
        return self._seq

    def replied(self, message: Message) -> None:
        """Pass an answer on to whoever waits for it."""
        waiting = self._waiting.pop(said.number(message.head["reply"], 1 << 62), None)
        if waiting is None:
            return
        if waiting.then is not None:
            waiting.then(message.head)
        elif waiting.sock is not None:
            said.answer(waiting.sock, waiting.seq, message.head, message.body)

    def forget(self, sock: socket.socket) -> None:
        """Whoever asked has left."""
        for seq, waiting in list(self._waiting.items()):
            if waiting.sock is sock:
                del self._waiting[seq]

    def new_streams(self) -> int:
        """The first of the numbers for whoever brings streams."""
        first = self._next_stream
        self._next_stream += _STREAMS
        return first
