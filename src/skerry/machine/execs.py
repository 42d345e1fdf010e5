"""Further processes of a container in a machine: their clients, and their streams over the line."""

import os
import signal
import socket

from skerry.base.light import Any, NamedTuple
from skerry.machine import said, terminal
from skerry.machine.asking import Guest, Waiting
from skerry.machine.channel import Sink, Source
from skerry.runtime import wire


class Exec(NamedTuple):
    """A further process of the container and its client."""

    sock: socket.socket
    sinks: list[Sink]
    source: Source | None


class Execs:
    """Those of one machine, by their ids."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._line = guest.line
        self._running: dict[str, Exec] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        """Start one; its descriptors, which are taken over, are its streams."""
        self._guest.check_room(streams=2)
        head = message.head
        id_, on_terminal = str(head["id"]), bool(head["terminal"])
        first = self._guest.new_streams()
        streams = {"stdout": first, "stderr": first + 1}
        fds = [terminal.unblocked(fd) for fd in message.fds]
        message.fds.clear()
        source = None
        if on_terminal:
            streams["stdin"] = first + 2
            source = self._line.source(first + 2, os.dup(fds[0]))
            sinks = [self._line.sink(first, fds[0])]
        else:
            sinks = [self._line.sink(first, fds[0]), self._line.sink(first + 1, fds[1])]
            if len(fds) > 2:
                streams["stdin"] = first + 2
                source = self._line.source(first + 2, fds[2])

        def then(answer: dict[str, Any]) -> None:
            if "error" in answer:
                self._running.pop(id_, None)
                if source is not None:
                    source.finish()
                for sink in sinks:
                    sink.close()
                    self._line.forget_sink(sink.stream)
            said.answer(sock, seq, answer, b"")

        self._running[id_] = Exec(sock, sinks, source)
        request = {"op": "exec", "id": id_, "streams": streams}
        self._guest.ask(request, message.body, Waiting(None, 0, then))

    def ended(self, id_: object, head: dict[str, Any]) -> None:
        """Tell an exec's client once all output has been written to its keeper."""
        exec_ = self._running.get(id_) if isinstance(id_, str) else None
        if exec_ is None:
            return
        waits = [sink for sink in exec_.sinks if not sink.done]
        if waits:
            waits[0].on_end = lambda: self.ended(id_, head)
            return
        del self._running[str(id_)]
        code, number = said.number(head.get("code"), 255), said.number(head.get("signal"), 64)
        said.say(exec_.sock, {"event": "exit", "code": code, "signal": number})

    def forget(self, sock: socket.socket) -> None:
        """Whoever started them has left."""
        for id_, exec_ in list(self._running.items()):
            if exec_.sock is sock:
                del self._running[id_]
                # Its keeper has died: nobody would hear of the end, or take more of its output.
                self._guest.tell({"op": "signal", "id": id_, "signal": 9})
                for sink in exec_.sinks:
                    sink.close()
                if exec_.source is not None:
                    exec_.source.finish()

    def all_killed(self) -> None:
        """The machine has ended."""
        for exec_ in self._running.values():
            said.say(exec_.sock, {"event": "exit", "code": 0, "signal": int(signal.SIGKILL)})
