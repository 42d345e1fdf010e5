"""A machine that is stopped and goes on, and its counters, which are read before."""

import socket
import time
from contextlib import suppress

from skerry.base.errors import Conflict, MachineFault, SkerryError
from skerry.base.light import Any
from skerry.machine import said
from skerry.machine.asking import Guest, Waiting
from skerry.machine.qmp import Monitor
from skerry.runtime import wire

PAUSE_SECONDS = 2.0
"""How long a machine that is to be paused may take to tell its counters before."""


class Pause:
    """Whether one machine is paused, or about to be."""

    def __init__(self, monitor: Monitor, guest: Guest) -> None:
        self._monitor = monitor
        self._guest = guest
        self.is_paused = False
        self._asked: tuple[socket.socket, int] | None = None
        """Who wants it."""
        self.due: float | None = None
        """When the machine is stopped whether the guest has answered or not."""
        self._last_stats: dict[str, Any] = {}

    def begin(self, sock: socket.socket, seq: int) -> None:
        """Stop the machine, after a last reading of its counters."""
        if self.due is not None:
            raise Conflict("the machine is being paused")
        mine = self._asked = sock, seq
        self.due = time.monotonic() + PAUSE_SECONDS

        def then(answer: dict[str, Any]) -> None:
            self._keep(answer)
            if self._asked is mine:
                self.stop()

        with suppress(MachineFault):
            self._guest.ask({"op": "stats"}, b"", Waiting(None, 0, then))

    def stop(self) -> None:
        """Now, and tell who asked for it."""
        if self._asked is None:
            return
        sock, seq = self._asked
        self._asked = self.due = None
        try:
            self._monitor.execute("stop")
        except SkerryError as error:
            said.say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
            return
        self.is_paused = True
        said.say(sock, {"reply": seq})

    def end(self, *, let_go: bool = True) -> None:
        """Have it go on; without `let_go` somebody else does."""
        if let_go:
            self._monitor.execute("cont")
        self.is_paused = False

    def stats(self, mine: Waiting) -> None:
        """Answer with the guest's counters: the last ones of a machine that is paused."""
        if self.is_paused and mine.sock is not None:
            said.answer(mine.sock, mine.seq, self._last_stats, b"")
            return

        def then(answer: dict[str, Any]) -> None:
            self._keep(answer)
            if mine.sock is not None:
                said.answer(mine.sock, mine.seq, answer, b"")

        self._guest.ask({"op": "stats"}, b"", Waiting(None, 0, then))

    def _keep(self, answer: dict[str, Any]) -> None:
        if "error" not in answer:
            self._last_stats = answer
