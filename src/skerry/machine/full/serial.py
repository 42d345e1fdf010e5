"""A serial line for many: the guest's output into a log and to everybody, their input to it.

The guest is hostile: what it writes is bytes to copy, at most so many as the log keeps. A client
that does not read is dropped; the guest is never held up. Lean.
"""

import os
import select
import socket
from contextlib import suppress

SERIAL, CONSOLE = "serial.sock", "console.sock"
LOG_BYTES = 1 << 20
"""After so many the log is rotated; one older part is kept."""
CHUNK = 65536
_CLIENT_BYTES = 1 << 20
"""Output that a client may lag behind before it is dropped."""
_INPUT_BYTES = 65536
_MAX_CLIENTS = 32


def listen_at(path: str) -> socket.socket:
    """A listening unix socket, reachable by the same user only; a long path is no hindrance."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def connect_to(path: str) -> socket.socket:
    """Connected to a unix socket; OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


class Log:
    """The serial port's output: the file and its one older part."""

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output, not the machine."""
        with suppress(OSError):
            os.write(self._fd, data)
        self._size += len(data)
        if self._size > LOG_BYTES:
            os.close(self._fd)
            os.rename(self.path, f"{self.path}.1")
            self.__init__(self.path)  # type: ignore[misc]

    def tail(self, count: int) -> bytes:
        """The last `count` bytes."""
        return tail(self.path, count)


def tail(path: str, count: int) -> bytes:
    """The last `count` bytes of a log and its older part."""
    data = b""
    for name in (path, f"{path}.1"):
        if len(data) < count:
            with suppress(FileNotFoundError), open(name, "rb") as file:
                data = file.read(2 * LOG_BYTES) + data
    return data[-count:] if count > 0 else b""


class Client:
    """Somebody at the console. `past` is None until the first line has come."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.out = bytearray()
        self.head = bytearray()
        self.joined = False


class Console:
    """Copies between one serial port and many clients. `turn` waits for something to do."""

    def __init__(self, run_dir: str, log: Log) -> None:
        self._serial = connect_to(os.path.join(run_dir, SERIAL))
        self._serial.setblocking(False)
        self._door = listen_at(os.path.join(run_dir, CONSOLE))
        self._door.setblocking(False)
        self._log = log
        self._input = bytearray()
        self._clients: dict[int, Client] = {}
        self._poll = select.poll()

    def turn(self, others: "tuple[int, ...]") -> set[int]:
        """Serve what is ready; the descriptors among `others` that are."""
        poll = select.poll()
        for fd in others:
            poll.register(fd, select.POLLIN)
        if self._serial.fileno() >= 0:
            wanted = select.POLLOUT if self._input else 0
            poll.register(self._serial, select.POLLIN | wanted)
        poll.register(self._door, select.POLLIN)
        for fd, client in self._clients.items():
            wanted = select.POLLOUT if client.out else 0
            # Input waits with the client while the guest does not take what is here.
            poll.register(fd, wanted | (select.POLLIN if len(self._input) < _INPUT_BYTES else 0))
        ready = set()
        for fd, events in poll.poll():
            if fd in others:
                ready.add(fd)
            elif fd == self._door.fileno():
                self._accept()
            elif fd == self._serial.fileno():
                self._serve_serial(events)
            elif fd in self._clients:
                self._serve(self._clients[fd], events)
        return ready

    def _accept(self) -> None:
        with suppress(OSError):
            sock, _ = self._door.accept()
            if len(self._clients) >= _MAX_CLIENTS:
                sock.close()
                return
            self._clients[sock.fileno()] = Client(sock)

    def _serve_serial(self, events: int) -> None:
        if events & select.POLLOUT and self._input:
            self._send_input()
        if events & ~select.POLLOUT:
            self.read_serial()

    def _send_input(self) -> None:
        with suppress(OSError):
            del self._input[: self._serial.send(self._input)]

    def read_serial(self) -> bool:
        """One piece of the guest's output; whether there was any."""
        try:
            data = self._serial.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._serial.close()
            return False
        self._log.write(data)
        for client in list(self._clients.values()):
            if client.joined:
                self._give(client, data)
        return True

    def _give(self, client: Client, data: bytes) -> None:
        client.out += data
        try:
            del client.out[: client.sock.send(client.out)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.out) > _CLIENT_BYTES + 2 * LOG_BYTES:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def _serve(self, client: Client, events: int) -> None:
        if events & select.POLLOUT and client.out:
            self._give(client, b"")
        if not events & ~select.POLLOUT or client.sock.fileno() < 0:
            return
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        if not client.joined:
            data = self._join(client, data)
        self._input += data
        self._send_input()

    def _join(self, client: Client, data: bytes) -> bytes:
        client.head += data
        line, end, rest = bytes(client.head).partition(b"\n")
        if not end or not line.isdigit() or len(line) > 9:
            if end or len(client.head) > 16:
                self._drop(client)
            return b""
        client.joined = True
        self._give(client, self._log.tail(int(line)))
        return rest

    def close(self) -> None:
        """The rest of the output, then everybody is let go."""
        if self._serial.fileno() >= 0:
            while self.read_serial():
                pass
        for client in list(self._clients.values()):
            with suppress(OSError):
                client.sock.setblocking(True)
                client.sock.settimeout(1.0)
                client.sock.sendall(client.out)
            self._drop(client)
        self._door.close()
