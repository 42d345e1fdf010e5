"""Starting the spawner process, and starting it again when it was killed."""

import os
import socket
import subprocess
import sys
from typing import Any

from skerry.base.errors import KernelFault
from skerry.runtime import wire
from skerry.runtime.driver.link import Link
from skerry.runtime.interpreter import read_only_interpreter

_BOOT = """
import os, sys
os.close(int(sys.argv[2]))
sys.path.insert(1, sys.argv[3])
from skerry.runtime.spawner import main
main(int(sys.argv[1]))
"""
_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}


_PATIENCE = 2.0


class Spawner:
    """The spawner of this engine; at most one lives."""

    def __init__(self, boot: str = _BOOT) -> None:
        self._boot = boot
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None

    @property
    def pid(self) -> int:
        """Its pid, 0 before the first start."""
        return self._process.pid if self._process else 0

    def send(self, head: dict[str, Any], body: bytes, fds: tuple[int, ...]) -> None:
        """Send a request, to a fresh spawner if there is none. Takes over `fds`."""
        try:
            self.ensure()
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        assert self._link is not None
        self._link.send(head, body, fds)

    def ensure(self) -> None:
        """Start one unless one lives; SystemFault when that fails."""
        if self._link is not None and not self._link.closed:
            return
        self._reap()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        interpreter = read_only_interpreter()
        arguments = [str(theirs.fileno()), str(interpreter), _SOURCE]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-ISE", "-c", self._boot, *arguments],
                executable=f"/proc/self/fd/{interpreter}",
                pass_fds=(theirs.fileno(), interpreter),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_ENVIRONMENT,
                # Ctrl-C at an engine in the foreground must not reach spawner and keepers.
                start_new_session=True,
            )
        except OSError as error:
            mine.close()
            raise KernelFault("starting the spawner", error.errno or 0) from None
        finally:
            theirs.close()
            os.close(interpreter)
        self._link = Link(mine, _ignore, self._reap)

    def _reap(self) -> None:
        """Its socket is closed, so it is ending, and it never waits for anything."""
        if self._process is None:
            return
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        """Let it go; keepers stay."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._reap()


def _ignore(message: wire.Message) -> None:
    for fd in message.fds:
        os.close(fd)
