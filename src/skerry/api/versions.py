"""Docker's API versions: which ones are spoken, and what differs between them.

Everything that depends on the version a client asked for is decided here. Facts from Docker's API
version history (https://docs.docker.com/reference/api/engine/version-history/).
"""

from typing import NamedTuple

from skerry.base.errors import InvalidInput


class Version(NamedTuple):
    """An API version."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST = Version(1, 24)
NEWEST = Version(1, 50)

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def split(path: str) -> tuple[Version, str]:
    """The version that a path asks for, and the path without it. InvalidInput in Docker's words."""
    if not path.startswith("/v"):
        return NEWEST, path
    head, slash, rest = path[2:].partition("/")
    major, dot, minor = head.partition(".")
    digits = (major + minor).isascii() and major.isdigit() and minor.isdigit()
    if not (dot and slash and digits and len(head) < 8):
        return NEWEST, path
    version = Version(int(major), int(minor))
    if version < OLDEST:
        raise InvalidInput(
            f"client version {version} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
    if version > NEWEST:
        raise InvalidInput(
            f"client version {version} is too new. Maximum supported API version is {NEWEST}"
        )
    return version, f"/{rest}"


def stream_type(version: Version, *, terminal: bool) -> str:
    """Content type of attached streams and logs: since 1.42 it tells whether frames are inside."""
    if version >= (1, 42) and not terminal:
        return MULTIPLEXED_STREAM
    return RAW_STREAM


def images_have_virtual_size(version: Version) -> bool:
    """Images' VirtualSize went in 1.44."""
    return version < (1, 44)


def has_short_config(version: Version) -> bool:
    """Since 1.50 an image's configuration no longer holds fields that only containers have."""
    return version >= (1, 50)


def prunes_named_volumes(version: Version) -> bool:
    """Before 1.42 pruning volumes took named ones along, as `all` does since."""
    return version < (1, 42)


def wait_answers_at_once(version: Version) -> bool:
    """Since 1.30 `wait` sends its headers before the container ends."""
    return version >= (1, 30)
