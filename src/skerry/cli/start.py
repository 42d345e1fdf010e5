"""The entry point: the shortest way for a plain `skerry exec`, the whole command line for the rest.

A quarter of `docker exec` is 14 to 19 ms, and an interpreter that has imported nothing takes 7 to
10 of them. So `exec` without options, in a container named in plain letters, is done here with
built-in modules alone and one request; whatever is not plain, or does not answer as expected, goes
the ordinary way, which repeats nothing: until the engine has answered 101, nothing was started.

Where there is a compiler start.c does the same before any interpreter begins, and hands over the
connection that it has asked when the answer is not as expected.

The launcher executes this file by its path, as `__main__` and without the packages around it. Each
file that an import looks for and reads costs 0.3 ms, `__future__` and C modules that are not built
in too.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal
else:
    import _signal as signal

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_MAX_HEAD = 64 * 1024
_MAX_CODE = 8
_BLOCK = 65536
_STDOUT, _STDERR, _END = 1, 2, 4


def main() -> None:
    """What the launcher runs: the command, then the end."""
    source, here = main.__code__.co_filename, "/skerry/cli/start.py"
    sys.path.insert(1, source.removesuffix(here))
    # The launcher's own interpreter lies in lib/skerry, the environment's in bin.
    environment, own, _ = sys.executable.rpartition("/lib/skerry/")
    if own:
        sys.executable = f"{environment}/bin/python"
    if sys.argv[0] == "-c":
        del sys.argv[0]
    sys.argv[0] = "skerry"
    try:
        code = entry()
    except KeyboardInterrupt:
        code = 130
    # One more Ctrl-C from here on would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
    except OSError:
        code = code or 141  # Nobody reads what was said.
    import posix  # And not os, which takes 1.5 ms of its own.

    # Taking the interpreter down in good order costs a tenth of a short command.
    posix._exit(code)


def entry() -> int:
    """The command's exit code."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # By a shell that started us in the background; `kill -INT` ends us all the same.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    words = sys.argv[1:]
    if len(words) > 2 and words[0] == "exec":
        code = quick_exec(words[1], words[2:])
        if code is not None:
            return code
    from skerry.cli.main import entry as whole

    return whole()


def quick_exec(container: str, words: list[str]) -> int | None:
    """Run a command in a container; None when this is not the way, and nothing was started."""
    if container[:1] == "-" or not _PLAIN.issuperset(container):
        return None
    path = _socket_path()
    if not path or not all(word.isascii() for word in words):
        return None
    try:
        sock = _asked() or _ask(path, container, words)
        head, rest = _head(sock)
    except OSError:
        return None
    status = head[9:12]
    if status != b"101":
        return _refused(sock, status, head, rest)
    return _carry(sock, rest)


def _asked() -> "_socket.socket | None":
    """The connection on which start.c has sent the request."""
    import posix

    number = posix.environ.pop(b"SKERRY_ASKED", b"")
    if not number.isdigit():
        return None
    import _socket

    posix.unsetenv(b"SKERRY_ASKED")
    posix.set_inheritable(int(number), False)
    return _socket.socket(fileno=int(number))


def _ask(path: str, container: str, words: list[str]) -> "_socket.socket":
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    sock.connect(path)
    command = ",".join([_quoted(word) for word in words])
    body = f'{{"Cmd":[{command}],"AttachStdout":true,"AttachStderr":true}}'
    sock.sendall(
        f"POST /skerry/containers/{container}/exec HTTP/1.1\r\nHost: skerry\r\n"
        "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")
    )
    return sock


def _quoted(word: str) -> str:
    """An ASCII word as a JSON string."""
    if not word.isprintable():
        from _json import encode_basestring_ascii as encode

        return encode(word)
    word = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"'


def _socket_path() -> str:
    """Where the engine listens; empty when that takes more to find out."""
    import posix

    host: bytes = posix.environ.get(b"SKERRY_HOST", b"")
    if host.startswith(b"unix:///") and host.isascii():
        return host[7:].decode("ascii")
    if host or b"SKERRY_RUN_ROOT" in posix.environ or posix.geteuid():
        return ""
    return "/run/skerry/skerry.sock"


def _head(sock: "_socket.socket") -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(_BLOCK)
        if not piece or len(data) > _MAX_HEAD:
            raise OSError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _refused(sock: "_socket.socket", status: bytes, head: bytes, rest: bytes) -> int | None:
    """Report why nothing runs, in the words of the ordinary way."""
    if status in (b"404", b"426") or not status.isdigit():
        return None  # Perhaps an engine that does not know this request.
    from skerry.base.errors import SkerryError
    from skerry.cli.commands.exec import failed
    from skerry.sdk.client import error_of
    from skerry.sdk.http import body_length, parse_head

    try:
        code, headers, _ = parse_head(head, "the socket")
        length = min(body_length("POST", code, headers), _BLOCK)
        while len(rest) < length and (piece := sock.recv(_BLOCK)):
            rest += piece
        return failed(error_of(code, rest))
    except (SkerryError, OSError):
        return None


def _carry(sock: "_socket.socket", data: bytes) -> int:
    """Output to its descriptors until the frame that says the exit code."""
    number = left = 0
    head = code = b""
    while True:
        at = 0
        while at < len(data):
            if not left:
                taken = 8 - len(head)
                head += data[at : at + taken]
                at += taken
                if len(head) == 8:
                    number, left, head = head[0], int.from_bytes(head[4:], "big"), b""
                continue
            piece = data[at : at + left]
            at += len(piece)
            left -= len(piece)
            if number in (_STDOUT, _STDERR):
                _write(number, piece)
            elif number == _END:
                code += piece[:_MAX_CODE]
                if not left and code.isdigit():
                    return int(code) & 0xFF
        try:
            data = sock.recv(_BLOCK)
        except OSError:
            data = b""
        if not data:
            _write(_STDERR, b"skerry: the engine went away before the command had ended\n")
            return 1


def _write(fd: int, data: bytes) -> None:
    import posix

    view = memoryview(data)
    while view:
        try:
            view = view[posix.write(fd, view) :]
        except BlockingIOError:
            from skerry.cli.context import write

            write(fd, view)
            return
        except BrokenPipeError:
            # Nobody reads what was said (`skerry exec c yes | head`).
            posix._exit(141)


if __name__ == "__main__":
    main()
