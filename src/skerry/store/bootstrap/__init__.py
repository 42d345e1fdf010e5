"""Base images made on the spot, without a registry."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from skerry.store.bootstrap import alpine, busybox, debian
from skerry.store.bootstrap.base import Report

if TYPE_CHECKING:
    from skerry.store.images import Images


class Bootstrap:
    """Each method makes an image, names it, and returns its id. The same inputs give the same id.

    `progress` is called with a line of text for people. Errors leave nothing behind.
    """

    def __init__(self, images: "Images") -> None:
        self._images = images

    def busybox(
        self, *, tag: str = "", binary: str = "/bin/busybox", progress: Report | None = None
    ) -> str:
        """`busybox:latest` from Debian's busybox-static."""
        return busybox.make(self._images, tag or "busybox:latest", binary, progress)

    def debian(
        self,
        suite: str,
        include: Iterable[str] = (),
        *,
        mirror: str | None = None,
        key: str | None = None,
        tag: str = "",
        progress: Report | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> str:
        """`debian:<suite>` by mmdebstrap or debootstrap, minimal variant.

        `mirror` is a URL, or the host's own apt sources when it is not given; `key` the path of an
        OpenPGP public key to trust in place of Debian's own. Given up when it is not `wanted`.
        """
        request = debian.Request(suite, tuple(include), mirror or "", key or "")
        return debian.make(self._images, tag or f"debian:{suite}", request, progress, wanted)

    def alpine(
        self,
        version: str = "latest",
        mirror: str | None = None,
        *,
        key: str | None = None,
        tag: str = "",
        progress: Report | None = None,
    ) -> str:
        """`alpine:<version>` from the signed minirootfs of a mirror.

        `key` is the path of an OpenPGP public key to trust in place of Alpine's own.
        """
        request = alpine.Request(version, mirror or alpine.MIRROR, key or "")
        return alpine.make(self._images, tag, request, progress)


__all__ = ["Bootstrap", "Report"]
