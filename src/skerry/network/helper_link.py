"""The engine's end of the line to the network helper: find it, start it, tell it.

Only the network worker's thread uses it.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from skerry.base.errors import KernelFault, Unavailable

_BOOT = """
import sys
sys.path.insert(1, sys.argv[3])
from skerry.network.helper import main
main(int(sys.argv[1]), sys.argv[2])
"""
_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_PATIENCE = 10.0


class HelperLink:
    """A connection, made when it is first needed and again when it broke."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = -1

    def ensure(self) -> bool:
        """Be connected; True when the helper may not know what an earlier one was told."""
        if self._socket is not None and not self._gone():
            return False
        self.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(self._short())
        except OSError:
            sock.close()
            sock = self._start()
        self._socket = sock
        return True

    def _short(self) -> str:
        """A path for a unix address, whose room ends at 107 bytes."""
        if len(self._path) < 100:
            return self._path
        if self._folder < 0:
            self._folder = os.open(os.path.dirname(self._path), os.O_PATH | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{os.path.basename(self._path)}"

    def _gone(self) -> bool:
        """Whether the other end has closed."""
        assert self._socket is not None
        # It only speaks when it is asked, so whatever there is to read is the end.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _start(self) -> socket.socket:
        self._reap()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        try:
            old = os.umask(0o177)
            try:
                listener.bind(self._short())
            finally:
                os.umask(old)
            listener.listen(4)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-ISE", "-c", _BOOT),
                    *(str(listener.fileno()), self._path, _SOURCE),
                ],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
            # The listener's queue takes us before the helper has read its first line of code.
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            sock.settimeout(_PATIENCE)
            sock.connect(self._short())
        except OSError as error:
            raise KernelFault("start the network helper", error.errno or 0) from None
        finally:
            listener.close()
        return sock

    @property
    def pid(self) -> int:
        """Of the helper, when this engine started it; else 0."""
        return self._process.pid if self._process else 0

    def tell(self, op: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Send a message; Unavailable when the helper has gone in this moment."""
        assert self._socket is not None
        data = json.dumps({"op": op, **fields}).encode()
        try:
            if fds:
                socket.send_fds(self._socket, [data], list(fds))
            else:
                self._socket.send(data)
        except OSError as error:
            self.close()
            raise Unavailable(f"the network helper does not listen: {error.strerror}") from None

    def held(self) -> set[str]:
        """What it holds."""
        return self._ask("list")

    def _ask(self, op: str) -> set[str]:
        self.tell(op)
        assert self._socket is not None
        try:
            answer = json.loads(self._socket.recv(1 << 24))
        except (OSError, ValueError):
            self.close()
            raise Unavailable("the network helper does not answer") from None
        return set(answer["keys"])

    def drop(self, keys: Iterable[str]) -> None:
        """Close what it holds; on return the ports are free."""
        listed = sorted(keys)
        if not listed:
            return
        for start in range(0, len(listed), 500):
            self.tell("drop", keys=listed[start : start + 500])
        self._ask("ping")

    def quit(self) -> None:
        """End the helper and wait for it when it is our child."""
        with contextlib.suppress(Unavailable):
            if self._socket is not None:
                self.tell("quit")
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Hang up; the helper stays."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
