"""A scripted server on a unix socket: it says exactly the bytes that a test wants."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Scripted:
    """Answers each connection's requests with the scripts, one a request, in order."""

    def __init__(self, path: str, scripts: list[bytes]) -> None:
        self.path = path
        self.host = f"unix://{path}"
        self.requests: list[bytes] = []
        self._scripts = scripts
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._scripts:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while self._scripts:
                    request = self._read(connection)
                    if not request:
                        break
                    self.requests.append(request)
                    script = self._scripts.pop(0)
                    try:
                        connection.sendall(script)
                    except OSError:
                        break
                    if b"connection: close" in script.lower() or not _keeps(script):
                        break

    def _read(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return data
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lower = head.lower()
        if b"content-length: " in lower:
            length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
        elif b"transfer-encoding: chunked" in lower:
            while not body.endswith(b"0\r\n\r\n"):
                body += connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        """Stop listening."""
        self._scripts.clear()
        # Closing alone does not wake a thread that is in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def _keeps(script: bytes) -> bool:
    """Whether the answer says where it ends, so that the connection can go on."""
    head = script.partition(b"\r\n\r\n")[0].lower()
    return b"content-length" in head or b"chunked" in head or b" 204 " in head or b" 304 " in head


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[..., Scripted]]:
    """`scripted(b"HTTP/1.1 …", …)` starts a server."""
    servers: list[Scripted] = []

    def start(*scripts: bytes) -> Scripted:
        server = Scripted(str(tmp_path / f"s{len(servers)}.sock"), list(scripts))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A plain answer with its length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def reply() -> Callable[..., bytes]:
    """`answer` for tests."""
    return answer
