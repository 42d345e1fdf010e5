"""Standing still: while the line is held, `serve.so` waits in the agent's place.

A copy of the machine so begins in a few pages of compiled code, which is all that runs until it has
answered; see serve.c. Without that file (the kit was made where there is no compiler) the agent
waits itself.
"""

import ctypes
import os
import socket
from typing import NamedTuple

from skerry.machine.guest import system

LIBRARY = "/usr/lib/skerry/serve.so"
HANDED, EVENT, SERVED = 1, 2, 3
_CAPACITY = 96 * 1024


class Known(ctypes.Structure):
    """struct known of serve.c."""

    _fields_ = (
        ("random", ctypes.c_int32),
        ("inet", ctypes.c_int32),
        ("told", ctypes.c_int32),
        ("fresh", ctypes.c_int32),
        ("early", ctypes.c_int32),
        ("freezer", ctypes.c_int32),
        ("lengths", ctypes.c_uint32 * 2),
        ("files", ctypes.c_char_p),
        ("cards", ctypes.c_char_p),
    )


class May(NamedTuple):
    """What it may do in the agent's place."""

    told: int
    fresh: int
    cards: bytes
    """See `tasks.known`."""
    freezer: int = -1
    """cgroup.freeze of a container that stands still."""


class Server:
    """`serve.so`, loaded before the machine is frozen."""

    def __init__(self, library: str = LIBRARY) -> None:
        """OSError without the file."""
        self._stand = ctypes.CDLL(library).stand
        self._buffer = ctypes.create_string_buffer(_CAPACITY)
        self._length = ctypes.c_size_t()
        self._inet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: object) -> None:
        self._inet.close()

    def stand(
        self, port: int, events: int, may: May, said: bytes, *, random: int, files: dict[str, int]
    ) -> tuple[int, bytes]:
        """Send `said`, then wait until there is something for the agent: HANDED, EVENT or SERVED,
        and the bytes that were read. `events` is the poll descriptor of all that it watches,
        `files` are open files by their names."""
        table = table_of(files)
        known = Known(
            *(random, self._inet.fileno(), may.told, may.fresh, 0, may.freezer),
            (len(table), len(may.cards)),
            *(table, may.cards),
        )
        self._length.value = 0
        outcome = self._stand(
            ctypes.byref(known), port, events, said, ctypes.c_size_t(len(said)),
            self._buffer, ctypes.c_size_t(_CAPACITY), ctypes.byref(self._length),
        )  # fmt: skip
        return outcome, ctypes.string_at(self._buffer, self._length.value)


def table_of(files: dict[str, int]) -> bytes:
    """Descriptors by name, as `struct known` has them."""
    named = ((os.fsencode(name), fd) for name, fd in files.items())
    return b"".join(fd.to_bytes(4, "big") + bytes([len(name)]) + name for name, fd in named)


def load() -> Server | None:
    """None without a compiled part."""
    try:
        return Server()
    except OSError:
        return None


def open_files() -> dict[str, int]:
    """The host's small files that are open (`system.write_files`), by name."""
    return system.kept_below(system.FILES)
