"""QEMU's monitor for a lean, single-threaded process: one command at a time over a stream socket.

QEMU may have been taken over by its guest, so what it says is bounded in length and time.
Source: docs/interop/qmp-spec.txt.
"""

import _socket
import json
import time

from skerry.base.errors import Conflict, Unavailable
from skerry.base.light import Any
from skerry.kernel.descriptors import send_fds
from skerry.machine.channel import wait_readable

SECONDS = 20.0
_MOST_LINE = 1024 * 1024
_READ = 64 * 1024
_MOST_READS = 16
"""In a row: a QEMU that says something without end must not keep its warden."""


class Monitor:
    """The monitor of one QEMU; `sock` is taken over."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._waiting = bytearray()
        self.events: list[dict[str, Any]] = []
        """Events that came between; at most a thousand are kept."""

    def greet(self, seconds: float = SECONDS) -> None:
        """Wait for the greeting and leave the negotiation; Unavailable."""
        deadline = time.monotonic() + seconds
        while "QMP" not in self._next(deadline, "its greeting"):
            continue
        self.execute("qmp_capabilities")

    def execute(self, command: str, *, seconds: float = SECONDS, **arguments: Any) -> Any:
        """Run a command; `_` in arguments' names stands for `-`. Conflict when QEMU refuses,
        Unavailable when it has gone or does not answer in time."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": given} if given else {"execute": command}
        return self._ask(request, (), command, time.monotonic() + seconds)

    def exchange(self, serial: str, node: dict[str, object]) -> None:
        """Put a node in the place of the one named `serial` behind the disk of that id, whose size
        is the same; that one goes."""
        request = {"execute": "blockdev-add", "arguments": node}
        self._ask(request, (), "blockdev-add", time.monotonic() + SECONDS)
        disk = f"/machine/peripheral/{serial}"
        self.execute("qom-set", path=disk, property="drive", value=node["node-name"])
        self.execute("blockdev-del", node_name=serial)

    def give_fd(self, name: str, fd: int) -> None:
        """Hand QEMU a descriptor that later commands call `name`."""
        request = {"execute": "getfd", "arguments": {"fdname": name}}
        self._ask(request, (fd,), "getfd", time.monotonic() + SECONDS)

    def give_fd_set(self, number: int, fd: int) -> int:
        """Hand QEMU a descriptor that opens as `/dev/fdset/<number>`; its number in QEMU."""
        request = {"execute": "add-fd", "arguments": {"fdset-id": number}}
        found = self._ask(request, (fd,), "add-fd", time.monotonic() + SECONDS)
        return int(found["fd"])

    def _ask(
        self, request: dict[str, Any], fds: tuple[int, ...], command: str, deadline: float
    ) -> Any:
        try:
            send_fds(self.sock, json.dumps(request).encode() + b"\n", fds)
        except OSError as error:
            raise Unavailable(f"QEMU does not take {command}: {error.strerror}") from None
        while True:
            answer = self._next(deadline, command)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                told = answer["error"]
                text = told.get("desc") if isinstance(told, dict) else told
                raise Conflict(f"QEMU refused {command}: {text!s:.500}")

    def await_event(self, name: str, seconds: float = SECONDS, **data: object) -> None:
        """Until QEMU has told of such an event with this data; other events stay. Unavailable."""
        deadline = time.monotonic() + seconds
        while True:
            self._sort_all()
            for event in self.events:
                told = event.get("data")
                said = told.items() if isinstance(told, dict) else {}.items()
                if event.get("event") == name and data.items() <= said:
                    self.events.remove(event)
                    return
            left = deadline - time.monotonic()
            if left <= 0 or not wait_readable(self.sock.fileno(), left):
                raise Unavailable(f"QEMU does not tell of {name} in time")
            if not self._read():
                raise Unavailable(f"QEMU has gone before {name}")

    def take_events(self) -> list[dict[str, Any]]:
        """Read what waits, within bounds; the events since the last call."""
        self._sort_all()
        for _ in range(_MOST_READS):
            if not self._read():
                break
            self._sort_all()
        taken, self.events = self.events, []
        return taken

    def _sort_all(self) -> None:
        while (line := self._line()) is not None:
            self._sort(line)

    def _next(self, deadline: float, command: str) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            line = self._line()
            if line is not None:
                message = self._sort(line)
                if message is not None:
                    return message
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not wait_readable(self.sock.fileno(), left):
                raise Unavailable(f"QEMU does not answer {command} in time")
            if not self._read():
                raise Unavailable(f"QEMU has gone during {command}")

    def _read(self) -> bool:
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            return False
        self._waiting += data
        if len(self._waiting) > _MOST_LINE:
            raise Unavailable("QEMU's monitor says more than it may")
        return bool(data)

    def _line(self) -> bytes | None:
        end = self._waiting.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._waiting[:end])
        del self._waiting[: end + 1]
        return line

    def _sort(self, line: bytes) -> dict[str, Any] | None:
        """A message, or None when it was an event."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Unavailable("QEMU's monitor speaks no JSON") from None
        if not isinstance(message, dict):
            raise Unavailable("QEMU's monitor speaks no QMP")
        if "event" in message:
            if len(self.events) < 1000:
                self.events.append(message)
            return None
        return message
