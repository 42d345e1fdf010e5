"""A user at a container: attached streams, terminal, signals, window size, until it ends."""

from __future__ import annotations

import os

from skerry.base.errors import GuestFault, SkerryError
from skerry.cli.context import terminal
from skerry.cli.options import UsageError
from skerry.cli.streams import ENDED, Pump
from skerry.cli.terminal import DetachKeys, RawMode, parse_keys, size
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal
    from collections.abc import Callable
    from typing import Any

    from skerry.sdk.client import Client
else:
    # The C module under `signal`: the latter wraps each number in an enum, 3 ms at start-up.
    import _signal as signal

PROXIED = (1, 2, 3, 10, 12, 14, 15)
"""SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM (signal(7))."""
DETACHED = 1
"""Exit code of attach and exec when the user detached, as Docker's; of run and start it is 0."""
_FORCE = 3
"""So many SIGINT or SIGTERM leave a container that does not end."""


def check_terminal(tty: bool, stdin: bool) -> None:
    """Docker's rule: -t with -i needs a terminal."""
    if tty and stdin and not terminal(0):
        raise UsageError("the input device is not a TTY", exit_code=1)


class Session:
    """Attached streams with everything around them."""

    def __init__(self, client: Client, resize: str, *, tty: bool, stdin: bool, keys: str) -> None:
        """`resize` is the API path whose POST takes h and w: a container's or an exec's; empty for
        a serial line, which has no size."""
        self._client = client
        self._resize_path = resize
        self._tty = tty
        self._stdin = stdin
        self._keys = parse_keys(keys)
        self._raw = RawMode(0) if tty and stdin and terminal(0) else None
        self._signals: dict[int, Any] = {}
        self._count = 0
        self._pump: Pump | None = None
        self._fatal = 0

    def resize(self, *_: object) -> None:
        """Tell the engine the window's size; also the handler of SIGWINCH."""
        if not self._resize_path:
            return
        rows, columns = size(1) if terminal(1) else size(0)
        if not rows and not columns:
            return
        try:
            with _fresh(self._client) as client:
                client.post(f"{self._resize_path}{query(h=rows, w=columns)}")
        except SkerryError:
            return  # it has just ended, or not yet begun

    def run(
        self,
        stream: tuple[_socket.socket, bytes],
        *,
        proxy: Callable[[int], None] | None = None,
        started: Callable[[], None] | None = None,
    ) -> bool:
        """Carry the streams until the program ends; False when the user detached by keys.

        `proxy(signal)` passes a signal on when there is no terminal that would; `started` is
        called once everything is in place and before the first byte is carried.
        """
        detach = DetachKeys(self._keys) if self._tty and self._stdin else None
        self._pump = Pump(*stream, tty=self._tty, stdin=0 if self._stdin else None, keys=detach)
        try:
            if self._raw:
                self._raw.enter()
            self._watch(proxy)
            if started:
                started()
            if self._tty:
                self.resize()
            outcome = self._pump.run()
        finally:
            if self._raw:
                self._raw.restore()
            for number, before in self._signals.items():
                signal.signal(number, before)
        if self._fatal:
            raise Interrupted(self._fatal)
        return outcome == ENDED

    def _watch(self, proxy: Callable[[int], None] | None) -> None:
        def handler(number: int, _: object) -> None:
            if number in (signal.SIGINT, signal.SIGTERM):
                self._count += 1
            if self._count >= _FORCE or proxy is None:
                self._fatal = number
                if self._pump:
                    self._pump.leave()
                return
            try:
                proxy(number)
            except SkerryError:
                return  # it has just ended

        for number in PROXIED:
            # A hang-up that our parent had us ignore (nohup) stays ignored; an interrupt that a
            # shell had us ignore, for we are in the background, can still be sent by name.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._handle(number, handler)
        self._handle(signal.SIGTTIN, signal.SIG_IGN)
        self._handle(signal.SIGCONT, self._continued)
        if self._tty:
            self._handle(signal.SIGWINCH, self.resize)

    def _handle(self, number: int, handler: Any) -> None:
        before = signal.signal(number, handler)
        self._signals.setdefault(number, before)

    def _continued(self, *_: object) -> None:
        if self._raw and os.tcgetpgrp(0) == os.getpgrp():
            self._raw.enter()
        if self._tty:
            self.resize()
        if self._pump:
            self._pump.resume_input()


class Interrupted(GuestFault):
    """This process was told to end; the exit code says by which signal."""

    def __init__(self, number: int) -> None:
        super().__init__("left it running")
        self.exit_code = 128 + number


def proxy_to(client: Client, container: str) -> Callable[[int], None]:
    """A function that sends the container a signal, on a connection of its own."""

    def send(number: int) -> None:
        with _fresh(client, timeout=5) as fresh:
            fresh.post(f"/containers/{quote(container)}/kill{query(signal=number)}")

    return send


def _fresh(client: Client, timeout: float = 5) -> Client:
    """Another connection to the same engine: a signal may interrupt a request on the first."""
    return type(client)(client.host, timeout=timeout)
