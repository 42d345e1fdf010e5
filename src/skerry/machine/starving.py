"""Lack of memory in a guest, told while its container runs.

The engine watches a container by a descriptor to poll and a count to read (`runtime.driver.oom`).
Of a machine that is a connection to its warden, which says a word on it after each time that the
guest's kernel has killed, and a file that the warden writes before. The guest begins to watch when
somebody connects: most containers have ended by then.
"""

import select
import socket

from skerry.base.errors import SkerryError, Unsupported
from skerry.base.light import Any
from skerry.kernel.cgroups_group import OomWatch
from skerry.machine import clients, said
from skerry.runtime import rundir, wire

OP = "starved"
_COUNT = "starved.json"
_MOST_KILLS = 1 << 40
_MOST_TOLD = 1000
"""A guest may say it as often as it likes."""


class Starved:
    """The warden's side: who is to be told, and what the guest has said."""

    def __init__(self, run_dir: str, *, copied: bool) -> None:
        """A copy's kernel has counted what it was copied from, too."""
        self._run_dir = run_dir
        self._asking: list[socket.socket] = []
        self._before = None if copied else 0
        self._kills = 0

    def join(self, sock: socket.socket) -> None:
        """From now on it is told."""
        self._asking.append(sock)

    def part(self, sock: socket.socket) -> None:
        """It has hung up."""
        if sock in self._asking:
            self._asking.remove(sock)

    def heard(self, head: dict[str, Any]) -> None:
        """The guest says how many were killed; anything else is passed over."""
        kills = said.number(head.get("kills"), _MOST_KILLS)
        if self._before is None:
            self._before = kills
        kills = min(kills - self._before, _MOST_TOLD)
        if kills <= self._kills:
            return
        self._kills = kills
        rundir.write_json(self._run_dir, _COUNT, {"version": rundir.VERSION, "kills": self._kills})
        for sock in self._asking:
            said.say(sock, {"event": OP})


class Watched:
    """The engine's side, in a control group's place."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir

    def watch_oom(self) -> OomWatch:
        """See Cgroup.watch_oom."""
        sock = rundir.connect(self._run_dir, clients.SOCKET)
        if sock is None:
            raise Unsupported("the machine has ended")
        try:
            wire.send(sock, {"op": OP, "seq": 1})
        except OSError as error:
            sock.close()
            raise Unsupported(f"the machine does not listen: {error}") from None
        return OomWatch(sock.detach(), select.EPOLLIN)

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills."""
        try:
            found = rundir.read_json(self._run_dir, _COUNT)
        except SkerryError:
            return 0
        return int(found["kills"]) if found else 0
