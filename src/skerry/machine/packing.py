"""Files on their way between a client and the guest: packed there, or unpacked.

A guest that does not go on with them is given up: it costs its client patience, nobody else.
"""

import socket
import time
from collections.abc import Callable

from skerry.base.errors import MachineFault
from skerry.base.light import Any
from skerry.machine import said, terminal
from skerry.machine.asking import Guest, Waiting
from skerry.machine.channel import Sink, Source
from skerry.runtime import wire

WORK_SECONDS = 300.0
"""How long files may stand still on their way while it is the guest's turn."""
WORK_RATE = 4096
"""Bytes a second that a guest has to manage over time."""
LOOK_SECONDS = 1.0
"""Between two looks at how it gets on."""


class Work:
    """Files on their way."""

    def __init__(self, end: Sink | Source, over: Callable[[dict[str, Any]], None]) -> None:
        self.end = end
        self.over = over
        self.due = time.monotonic() + WORK_SECONDS
        self._moved = 0

    def is_late(self, now: float) -> bool:
        """Whether the guest has had its time: it gets more for every byte that it moves, and while
        it waits for the host."""
        moved, self._moved = self.end.moved - self._moved, self.end.moved
        latest = now + WORK_SECONDS
        self.due = latest if self.end.hosts_turn else min(latest, self.due + moved / WORK_RATE)
        return now > self.due


class Works:
    """All of one machine, by the numbers of their questions."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._going: dict[int, Work] = {}

    def __len__(self) -> int:
        return len(self._going)

    def start(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        """Packing or unpacking: a stream of its own; answered when it is over."""
        self._guest.check_room(streams=1)
        stream, fd = self._guest.new_streams(), terminal.unblocked(message.fds.pop())
        if message.head["op"] == "pack":
            end: Sink | Source = self._guest.line.sink(stream, fd)
        else:
            end = self._guest.line.source(stream, fd)

        def over(head: dict[str, Any]) -> None:
            result = said.result(head)
            if isinstance(end, Sink) and not end.done and not result:
                end.on_end = lambda: finish(result)  # What has come is still being written.
            else:
                finish(result)

        def finish(result: dict[str, Any]) -> None:
            if self._going.pop(number, None) is not None:
                end.on_end = None
                end.finish() if isinstance(end, Source) else end.close()
                said.answer(sock, seq, result, b"")

        def then(answer: dict[str, Any]) -> None:
            if "error" in answer:
                finish({"error": answer["error"]})

        number = self._guest.ask({**message.head, "stream": stream}, b"", Waiting(None, 0, then))
        self._going[number] = Work(end, over)

    def worked(self, head: dict[str, Any]) -> None:
        """The guest says that one is over."""
        work = self._going.get(said.number(head.get("number"), 1 << 62))
        if work is not None:
            work.over(head)

    def end_late(self) -> None:
        """Give up those that stand still."""
        now = time.monotonic()
        for work in list(self._going.values()):
            if work.is_late(now):
                late = MachineFault("the guest does not go on with the files")
                work.over({"error": wire.error_to_wire(late)})
