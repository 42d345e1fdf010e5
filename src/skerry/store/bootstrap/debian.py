"""The `debian` image."""

from typing import TYPE_CHECKING, NamedTuple

from skerry.base.errors import Unsupported
from skerry.store.bootstrap.base import Report

if TYPE_CHECKING:
    from skerry.store.images import Images


class Request(NamedTuple):
    """What to make."""

    suite: str
    include: tuple[str, ...]
    mirror: str


def make(images: "Images", tag: str, request: Request, progress: Report | None) -> str:
    """The image's id."""
    raise Unsupported("debian")
