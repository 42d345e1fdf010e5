"""Who may: HTTP basic authentication against an htpasswd file with bcrypt entries.

bcrypt is slow on purpose. What was right once is remembered for a while as a keyed hash, never as
the password; a wrong password costs the full time, off the loop, and so does an unknown name, so
that the time tells nothing.
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from typing import Final

from skerry.base.errors import InvalidInput
from skerry.registry.server.refusals import Refusal

MAX_FILE: Final = 16 << 20
MAX_HEADER: Final = 1024
REMEMBERED: Final = 1000
REMEMBER_SECONDS: Final = 300.0


class Htpasswd:
    """Names and bcrypt hashes. The file is read again when it changes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._users: dict[str, bytes] = {}
        self._key = os.urandom(32)
        self._known: dict[bytes, float] = {}
        # Loaded for who has a password file: the engine starts without.
        import bcrypt

        self._nobody = bcrypt.hashpw(os.urandom(16), bcrypt.gensalt(10))
        self._read()

    def _read(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, "rb") as file:
                users = parse_htpasswd(file.read(MAX_FILE + 1), self._path)
        except OSError as error:
            raise InvalidInput(f"cannot read {self._path}: {error.strerror}") from None
        self._stamp, self._users = stamp, users
        self._known.clear()

    def remembered(self, header: str) -> bool:
        """Whether these very credentials were right a short time ago."""
        self._read()
        return self._known.get(self._mark(header), 0.0) > time.monotonic()

    def verify(self, header: str) -> bool:
        """Whether an `Authorization` header is right. Slow."""
        name, password = parse_basic(header)
        expected = self._users.get(name)
        import bcrypt

        # Beyond 72 bytes bcrypt sees nothing, and the library refuses.
        right = bcrypt.checkpw(password[:72], expected or self._nobody)
        if not (right and expected):
            return False
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[self._mark(header)] = time.monotonic() + REMEMBER_SECONDS
        return True

    def _mark(self, header: str) -> bytes:
        return hmac.digest(self._key, header.encode("utf-8", "replace"), hashlib.sha256)


def parse_htpasswd(data: bytes, path: str) -> dict[str, bytes]:
    """`name:$2y$…` lines. InvalidInput for what is no bcrypt entry: MD5 and crypt are too weak."""
    if len(data) > MAX_FILE:
        raise InvalidInput(f"{path} is over {MAX_FILE} bytes")
    users: dict[str, bytes] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        if not colon or not name or not hashed.startswith(("$2a$", "$2b$", "$2y$")):
            raise InvalidInput(
                f"{path}, line {number}: not a bcrypt entry", hint="make it with htpasswd -B"
            )
        users[name] = hashed.encode()
    return users


def parse_basic(header: str) -> tuple[str, bytes]:
    """Name and password of an `Authorization: Basic` header; empty ones when it is none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > MAX_HEADER:
        return "", b""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return "", b""
    return name.decode("utf-8", "replace"), password.replace(b"\0", b"")


def challenge() -> Refusal:
    """The answer to a request without the right credentials."""
    return Refusal(
        "UNAUTHORIZED",
        "authentication required",
        headers={"WWW-Authenticate": 'Basic realm="skerry registry", charset="UTF-8"'},
    )
