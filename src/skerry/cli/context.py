"""What every command is given: where the engine is, the client to it, the output streams."""

from __future__ import annotations

import os
import sys

from skerry.base.errors import Forbidden, GuestFault, SkerryError, Unavailable
from skerry.base.hosts import default_paths
from skerry.sdk.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Context:
    """One invocation."""

    def __init__(
        self, *, root: str = "", run_root: str = "", host: str = "", debug: bool = False
    ) -> None:
        self.debug = debug
        self.path = ""
        """The command as typed, `image ls`; set before the command runs."""
        self.root, self.run_root, self.host = default_paths(root, run_root, host)
        self.named = bool(host or os.environ.get("SKERRY_HOST"))
        """The user said which engine; then none is started on demand."""
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Connected; starts the engine when none listens and the user named no other."""
        if self._client is None:
            client = Client(self.host)
            try:
                client.ensure()
            except Unavailable:
                if self.named:
                    raise
                from skerry.cli.on_demand import start_engine

                start_engine(self.root, self.run_root, self.host, client)
            self._client = client
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()


def out(text: str, end: str = "\n") -> None:
    """To standard output. Bytes that are not UTF-8 in names come out as they went in."""
    write(1, (text + end).encode("utf-8", "surrogateescape"))


def err(text: str) -> None:
    """A line to standard error; a closed one is no error."""
    try:
        write(2, (text + "\n").encode("utf-8", "surrogateescape"))
    except OSError:
        return


def write(fd: int, data: bytes | memoryview) -> None:
    """All of `data`, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            import select

            select.select([], [fd], [])


def each(context: Context, names: list[str], do: Any) -> int:
    """`do(name)` for each; prints what it returns, reports errors and goes on. 1 if any failed."""
    code = 0
    for name in names:
        try:
            answer = do(name)
        except Forbidden:
            raise
        except SkerryError as error:
            report(error)
            code = 1
        else:
            out(name if answer is None else answer)
    return code


def report(error: SkerryError | GuestFault) -> None:
    """One line, then the hint."""
    err(f"skerry: {visible(' '.join(error.message.split(chr(10))).strip())}")
    if error.hint:
        err("\n".join(visible(line) for line in error.hint.split("\n")))


def visible(text: str) -> str:
    """`text` with control characters as Go writes them, \\x1b: what a container, an image or a
    registry chose must not drive the user's terminal."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or "\udc80" <= letter <= "\udcff" else _escape(letter)
        for letter in text
    )


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
            "\v": "\\v"}  # fmt: skip


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return (
        f"\\x{code:02x}"
        if code < 0x80
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def terminal(fd: int) -> bool:
    """Whether `fd` is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def python() -> str:
    """The interpreter of the environment that this command line belongs to."""
    return sys.executable
