"""Content digests, as the OCI image specification writes them: `sha256:<64 hex digits>`."""

import hashlib
import re

from skerry.base.errors import DigestMismatch, InvalidInput

_PATTERN = re.compile(r"(sha256:[0-9a-f]{64})|(sha512:[0-9a-f]{128})")


def parse_digest(text: str) -> str:
    """`text` when it is a well-formed sha256 or sha512 digest, else InvalidInput.

    Every digest that came from outside goes through here before it becomes part of a path.
    """
    if not isinstance(text, str) or not _PATTERN.fullmatch(text):
        raise InvalidInput(f"not a digest: {text!r:.100}")
    return text


def sha256(data: bytes) -> str:
    """The digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """The part after the algorithm's name."""
    return parse_digest(digest).partition(":")[2]


class Verifier:
    """Counts and hashes bytes as they stream by; `check` compares at the end."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> str:
        """The digest of what has passed so far."""
        return f"{self.algorithm}:{self._hash.hexdigest()}"

    def check(self, digest: str, size: int | None = None, *, what: str = "content") -> None:
        """DigestMismatch unless the bytes seen are exactly those that were declared."""
        if size is not None and self.size != size:
            raise DigestMismatch(f"{what}: {self.size} bytes, the descriptor says {size}")
        if self.digest != digest:
            raise DigestMismatch(f"{what}: digest is {self.digest}, the descriptor says {digest}")
