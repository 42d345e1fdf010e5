"""The `alpine` image."""

from typing import TYPE_CHECKING, Final, NamedTuple

from skerry.base.errors import Unsupported
from skerry.store.bootstrap.base import Report

if TYPE_CHECKING:
    from skerry.store.images import Images

MIRROR: Final = "https://dl-cdn.alpinelinux.org/alpine"


class Request(NamedTuple):
    """What to make."""

    version: str
    mirror: str
    key: str


def make(images: "Images", tag: str, request: Request, progress: Report | None) -> str:
    """The image's id."""
    raise Unsupported("alpine")
