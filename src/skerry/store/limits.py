"""How much an archive may become when it is unpacked, and how much room it has to leave.

A few bytes can stand for gigabytes, honestly too: an empty disk image, a preallocated file. So a
ratio alone says nothing. Whatever stays below `unquestioned` bytes is unpacked; what is larger may
be `ratio` times what came, as no data that somebody made for its content compresses so well. The
disk is never filled: `reserve` bytes stay free for everybody else on it.
"""

import os
import re
from typing import Any, Final, NamedTuple

from skerry.base import toml_file
from skerry.base.errors import InvalidInput, SystemFault

SYSTEM_FILE: Final = "/etc/skerry/limits.toml"
NAME: Final = "limits.toml"
_STEP: Final = 32 << 20
"""Bytes between two looks at the file system."""
_SHARE: Final = 100
_SIZE: Final = re.compile(r"([0-9]{1,12}) ?(|[KMGT]iB)")
_UNITS: Final = {"": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


class Unpacking(NamedTuple):
    """Sizes in bytes."""

    size: int = 256 << 30
    """Of one archive or layer, decompressed."""
    unquestioned: int = 16 << 30
    """What any archive may become."""
    ratio: int = 200
    """Plain bytes for each that came, beyond that."""
    reserve: int = 1 << 30
    """What stays free on the store's file system, or a hundredth of it where that is less."""

    def allowed(self, packed: int) -> int:
        """What `packed` bytes may become."""
        return min(self.size, max(self.unquestioned, self.ratio * packed))


DEFAULT: Final = Unpacking()


def load(root: str, system_file: str = SYSTEM_FILE) -> Unpacking:
    """`<root>/limits.toml` over `/etc/skerry/limits.toml`; InvalidInput names the file and the key.

    [unpack]
    ratio = 200
    reserve = "1 GiB"
    """
    found: dict[str, int] = {}
    for path in (system_file, os.path.join(root, NAME)):
        document = toml_file.read(path)
        if document is not None:
            found |= parse(document, path)
    return Unpacking(**found)


def parse(document: dict[str, Any], path: str) -> dict[str, int]:
    """What a file says, by field."""
    toml_file.only(document, {"unpack"}, path, "")
    table = toml_file.table(document.get("unpack", {}), path, "unpack")
    toml_file.only(table, set(Unpacking._fields), path, "unpack")
    return {key: _number(value, path, f"unpack.{key}") for key, value in table.items()}


def _number(value: object, path: str, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise InvalidInput(f'{path}: {where}: has to be a number, or a size such as "16 GiB"')
    return int(match[1]) << _UNITS[match[2]]


def shown(size: int) -> str:
    """`1.5 GiB`."""
    value, unit = float(size), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def free(where: str | int) -> tuple[int, int]:
    """Bytes of the file system of a path or descriptor that are free for anybody, and all of them
    (statvfs(3))."""
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class Room:
    """What is left on the file system of a folder. `reserve` bytes stay free, or one part in
    `share` of the disk where that is less."""

    def __init__(self, folder: str, reserve: int, share: int = _SHARE) -> None:
        self.folder = folder
        self._reserve = reserve
        self._share = share

    def left(self) -> int:
        """Bytes that may still be written."""
        available, reserve = self.reserved()
        return available - reserve

    def reserved(self) -> tuple[int, int]:
        """Bytes that are free, and how many of them have to stay so."""
        available, total = free(self.folder)
        return available, min(self._reserve, total // self._share)

    def require(self, size: int, what: str) -> None:
        """SystemFault unless `size` more bytes have room."""
        left = self.left()
        if size > left:
            raise SystemFault(
                f"{what}: no room for {shown(size)}: {shown(max(left, 0))} may still be written to "
                f"the disk of {self.folder}",
                hint=f"skerry system prune frees space; {NAME} says what has to stay free",
            )

    def meter(self) -> "Meter":
        """For one writer."""
        return Meter(self)


class Meter:
    """Looks at the room now and then while somebody writes."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._unseen = 0

    def wrote(self, size: int, what: str) -> None:
        """SystemFault when the reserve is reached."""
        self._unseen += size
        if self._unseen >= _STEP:
            self._unseen = 0
            self._room.require(_STEP, what)
