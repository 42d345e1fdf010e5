"""Base images made on the spot, without a registry."""

from collections.abc import Callable, Iterable
from typing import Any

from skerry.store.images import Images
from skerry.store.leases import Leases
from skerry.store.scratch import Scratch

Report = Callable[[str | dict[str, Any]], None]


class Bootstrap:
    """Each method makes an image, tags it, and returns its id. The same inputs give the same id."""

    def __init__(self, images: Images, scratch: Scratch, leases: Leases) -> None:
        self._images = images
        self._scratch = scratch
        self._leases = leases

    def busybox(
        self, *, tag: str = "", binary: str = "/bin/busybox", progress: Report | None = None
    ) -> str:
        """`busybox:latest` from Debian's busybox-static."""
        raise NotImplementedError

    def debian(
        self,
        suite: str,
        include: Iterable[str] = (),
        *,
        tag: str = "",
        progress: Report | None = None,
    ) -> str:
        """`debian:<suite>` by mmdebstrap or debootstrap, minimal variant."""
        raise NotImplementedError

    def alpine(
        self,
        version: str = "latest",
        mirror: str | None = None,
        *,
        key: str | None = None,
        tag: str = "",
        progress: Report | None = None,
    ) -> str:
        """`alpine:<version>` from the signed minirootfs of a mirror; `key` is a keyring's path."""
        raise NotImplementedError
