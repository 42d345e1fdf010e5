"""A bare HTTP/1.1 client on a unix socket, so that the client costs next to nothing.

It knows what Docker's API uses: keep-alive, Content-Length, chunked bodies and the upgraded
stream of an attached exec.
"""

import json
import socket
from typing import Any


class WireError(RuntimeError):
    """The engine answered with an error, or not in HTTP."""


class Connection:
    """One keep-alive connection. Not for use by two threads."""

    def __init__(self, path: str, timeout: float = 60) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path)
        self._buffer = b""

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, method: str, target: str, body: object = None) -> tuple[int, bytes]:
        """Send and read the whole answer: (status, body)."""
        self.send(method, target, body)
        status, headers = self._head()
        return status, self._body(status, headers)

    def call(self, method: str, target: str, body: object = None) -> Any:
        """As `request`, with JSON decoded; WireError unless the status is 2xx or 304."""
        status, answer = self.request(method, target, body)
        if status // 100 != 2 and status != 304:
            raise WireError(f"{method} {target}: {status} {answer[:300].decode(errors='replace')}")
        return json.loads(answer) if answer.strip() else None

    def stream(self, method: str, target: str, body: object = None) -> bytes:
        """Send, then read everything until the engine closes an upgraded stream."""
        self.send(method, target, body, upgrade=True)
        status, headers = self._head()
        if status not in (101, 200):
            answer = self._body(status, headers)
            raise WireError(f"{method} {target}: {status} {answer[:300].decode(errors='replace')}")
        if headers.get("transfer-encoding") == "chunked":
            return self._chunks()
        data = self._buffer
        while more := self._socket.recv(65536):
            data += more
        self._buffer = b""
        return data

    def send(self, method: str, target: str, body: object, upgrade: bool = False) -> None:
        """Write the request only."""
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        if upgrade:
            lines += ["Connection: Upgrade", "Upgrade: tcp"]
        if body is not None:
            lines += ["Content-Type: application/json"]
        if method != "GET" or payload:
            lines += [f"Content-Length: {len(payload)}"]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + payload)

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise WireError(f"{self._path}: the engine closed the connection in mid-answer")
        self._buffer += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._fill()
        before, self._buffer = self._buffer.split(mark, 1)
        return before

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _head(self) -> tuple[int, dict[str, str]]:
        status_line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(status_line.split()[1]), headers

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            return self._chunks()
        return self._exactly(int(headers.get("content-length", "0")))

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            data += self._exactly(size)
            self._exactly(2)
        self._until(b"\r\n")
        return data


def true_container() -> dict[str, Any]:
    """The create request of a container that runs `true` with a private, empty network."""
    return {
        "Image": "busybox:latest",
        "Cmd": ["true"],
        "HostConfig": {"NetworkMode": "none"},
    }


def cycle(connection: Connection) -> None:
    """Create, start, wait and delete one container that runs `true`."""
    made = connection.call("POST", "/containers/create", true_container())["Id"]
    connection.call("POST", f"/containers/{made}/start")
    code = connection.call("POST", f"/containers/{made}/wait")["StatusCode"]
    connection.call("DELETE", f"/containers/{made}")
    if code != 0:
        raise WireError(f"`true` in container {made[:12]} ended with {code}")


def exec_true(path: str, container: str) -> None:
    """Exec `true` attached, as `docker exec` does: create, start, read to the end, inspect."""
    with Connection(path) as first:
        body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        made = first.call("POST", f"/containers/{container}/exec", body)["Id"]
        with Connection(path) as second:
            second.stream("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
        code = first.call("GET", f"/exec/{made}/json")["ExitCode"]
    if code != 0:
        raise WireError(f"exec of `true` ended with {code}")
