"""Message sockets on the event loop: the engine's side of spawner and keepers."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from skerry.base.errors import SkerryError, Unavailable
from skerry.base.isolation import Exit, Started
from skerry.kernel.descriptors import send_fds
from skerry.runtime import rundir, wire

_MESSAGES_A_TURN = 16


class Link:
    """One end of a message socket. `on_end` is called once, unless `close` came first."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[wire.Message], None],
        on_end: Callable[[], None],
    ) -> None:
        """Take over a connected SOCK_SEQPACKET socket; needs a running loop."""
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, head: dict[str, Any], body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Send, or queue when the socket is full. Takes over `fds`; nothing when it is closed."""
        if self.closed:
            _close_all(fds)
            return
        try:
            datagram, memfd = wire.pack(head, body)
        except SkerryError:
            _close_all(fds)
            raise
        self._waiting.append((datagram, fds if memfd is None else (*fds, memfd)))
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            datagram, fds = self._waiting[0]
            try:
                send_fds(self._sock, datagram, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self._end()
                return
            self._waiting.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_MESSAGES_A_TURN):
            if self.closed:
                return
            try:
                message = wire.hear(self._sock)
            except BlockingIOError:
                return
            if message is None:
                self._end()
                return
            self._on_message(message)

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._on_end()

    def close(self) -> None:
        """Let go of the socket and of what is still queued."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()


class Control:
    """The engine's line to one keeper.

    `on_exit` is called once, with the Exit or with None when the keeper left without a word after
    the program had started; but not before `release`, so that whoever starts a program knows it
    before it hears of its end.
    """

    def __init__(self, sock: socket.socket, on_exit: Callable[[Exit | None], None]) -> None:
        self._on_exit = on_exit
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sequence = 0
        self._released = False
        self.taken = False
        """A keeper has begun on the request."""
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = loop.create_future()
        """Resolves when the program runs, or with the error why it does not."""
        self.ended: asyncio.Future[Exit | None] = loop.create_future()
        """Resolves when the program that ran has ended."""
        self._link = Link(sock, self._message, self._end)

    @property
    def closed(self) -> bool:
        """Nobody is at the other end any more."""
        return self._link.closed

    def release(self) -> None:
        """From now on (not within this call) `on_exit` may be called."""
        if not self._released:
            self._released = True
            if self.ended.done():
                asyncio.get_running_loop().call_soon(self._on_exit, self.ended.result())

    async def request(self, op: str, fds: tuple[int, ...] = (), **words: Any) -> dict[str, Any]:
        """Ask the keeper; its error is raised, Unavailable when it has gone. Takes over `fds`."""
        self._sequence += 1
        number = self._sequence
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            if self._link.closed:
                _close_all(fds)
                raise _gone()
            self._link.send({"op": op, "seq": number, **words}, fds=fds)
            return await answer
        finally:
            self._answers.pop(number, None)

    def _message(self, message: wire.Message) -> None:
        _close_all(tuple(message.fds))
        head = message.head
        if "reply" in head:
            self._answer({**head, "body": message.body} if message.body else head)
            return
        match head.get("event"):
            case "taken":
                self.taken = True
            case "started":
                if not self.started.done():
                    self.started.set_result(Started(head["pid"], head["start_time"]))
            case "failed":
                if not self.started.done():
                    self._fail(wire.error_from_wire(head["error"]))
            case "exit":
                self._tell(rundir.exit_from(head))

    def _answer(self, head: dict[str, Any]) -> None:
        answer = self._answers.get(head["reply"])
        if answer is None or answer.done():
            return
        if "error" in head:
            answer.set_exception(wire.error_from_wire(head["error"]))
        else:
            answer.set_result(head)

    def _fail(self, error: Exception) -> None:
        self.started.set_exception(error)
        self.started.exception()  # Nobody need be waiting for it.

    def _tell(self, end: Exit | None) -> None:
        if not self.ended.done():
            self.ended.set_result(end)
            if self._released:
                self._on_exit(end)

    def _end(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_gone())
        if not self.started.done():
            self._fail(_gone())
        elif not self.started.cancelled() and self.started.exception() is None:
            self._tell(None)

    def close(self) -> None:
        """Hang up without a word; the keeper goes on."""
        self._link.close()
        self.started.cancel()
        self.ended.cancel()
        for answer in self._answers.values():
            answer.cancel()


def _gone() -> Unavailable:
    return Unavailable("the keeper has gone", hint="the program may have ended just now")


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
