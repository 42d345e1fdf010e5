"""Who a container's process is: names looked up in the image's own /etc/passwd and /etc/group.

Both files are the image's, so they are hostile bytes: read through a descriptor that was opened
beneath the image's root, up to a limit, and parsed leniently as getpwent(3) does.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from skerry.base.errors import InvalidInput, NotFound

FILE_LIMIT = 8 << 20
"""Bytes of passwd or group that are read."""
ID_LIMIT = 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]+")
"""Docker's limit on numeric ids."""
GROUP_LIMIT = 1024

ReadFile = Callable[[str], bytes]
"""The start of a file in the image, empty when there is none."""


class Passwd(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


class Group(NamedTuple):
    """A line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


class User(NamedTuple):
    """What the process becomes."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    value = int(text)
    return value if value <= 2**32 - 2 else None


def parse_passwd(data: bytes) -> list[Passwd]:
    """The well-formed lines of passwd(5); others are skipped."""
    users = []
    for line in data.decode("utf-8", "replace").splitlines():
        parts = line.strip().split(":")
        if len(parts) < 4 or parts[0].startswith("#"):
            continue
        uid, gid = _number(parts[2]), _number(parts[3])
        if uid is not None and gid is not None:
            users.append(Passwd(parts[0], uid, gid, parts[5] if len(parts) > 5 else ""))
    return users


def parse_group(data: bytes) -> list[Group]:
    """The well-formed lines of group(5); others are skipped."""
    groups = []
    for line in data.decode("utf-8", "replace").splitlines():
        parts = line.strip().split(":")
        if len(parts) < 3 or parts[0].startswith("#"):
            continue
        gid = _number(parts[2])
        if gid is not None:
            members = parts[3].split(",") if len(parts) > 3 and parts[3] else []
            groups.append(Group(parts[0], gid, tuple(members)))
    return groups


def _id(text: str, what: str) -> int | None:
    """`text` as a numeric id, None when it is a name."""
    value = _number(text)
    if (value is None and _WHOLE.fullmatch(text)) or (value or 0) > ID_LIMIT:
        raise InvalidInput(f"{what} must be in range 0-{ID_LIMIT}: {text:.40}")
    return value


def resolve(spec: str, extra: Sequence[str], read: ReadFile) -> User:
    """The user that `user[:group]` means in an image, with additional groups.

    Docker's rules: a number needs no entry; a name without one is an error; without `:group` the
    groups that list the user as a member are joined. InvalidInput as Docker words it.
    """
    user_text, _, group_text = spec.partition(":")
    users = parse_passwd(read("/etc/passwd"))
    groups = parse_group(read("/etc/group"))
    number = _id(user_text, "uids and gids") if user_text else 0
    entry = next((u for u in users if u.name == user_text), None) if number is None else None
    if number is not None:
        entry = next((u for u in users if u.uid == number), None)
    if number is None and entry is None:
        raise InvalidInput(f"unable to find user {user_text}: no matching entries in passwd file")
    uid = entry.uid if number is None and entry else number or 0
    gid = entry.gid if entry else 0
    more: list[int] = []
    if group_text:
        gid = _group_id(group_text, groups)
    elif entry:
        more = [g.gid for g in groups if entry.name in g.members]
    more += [_group_id(text, groups) for text in extra]
    # The primary group comes first, as setgroups(2) callers and `id` expect it.
    joined = tuple(dict.fromkeys([gid, *more]))[:GROUP_LIMIT]
    home = entry.home if entry and entry.home.startswith("/") else "/"
    return User(uid, gid, joined, home)


def _group_id(text: str, groups: Iterable[Group]) -> int:
    number = _id(text, "uids and gids")
    if number is not None:
        return number
    for group in groups:
        if group.name == text:
            return group.gid
    raise InvalidInput(f"unable to find group {text}: no matching entries in group file")


def reader(open_file: Callable[[str], int]) -> ReadFile:
    """A ReadFile over `open_file(path) -> fd`, which resolves beneath the image's root."""

    def read(path: str) -> bytes:
        try:
            fd = open_file(path)
        except (NotFound, OSError):
            return b""
        try:
            # A FIFO or a device in the place of the file must neither block nor have effects.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            return os.read(fd, FILE_LIMIT)
        finally:
            os.close(fd)

    return read
