"""The root of a container that does not run, with its volumes, binds and images mounted in it.

Theory. The mounts are those that the next start would make, made by the same code, in a mount
namespace of their own: a thread unshares it, mounts and ends, and a descriptor keeps it. Nothing of
it is seen on the host, and it goes when the descriptors are closed, also those of a killed engine.
The root is writable, so the caller sees to it that the container does not start meanwhile.
"""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import cast

from skerry.base.errors import SkerryError
from skerry.base.isolation import Overlay
from skerry.base.oci_runtime import Mount
from skerry.engine.mounts import oci_mount
from skerry.engine.record import MountPoint
from skerry.kernel import mounts, namespaces
from skerry.runtime import mount_options
from skerry.runtime.init.mounting import CgroupTree, perform


class RootView:
    """`root` is an O_PATH descriptor; to be closed."""

    def __init__(
        self,
        overlay: Overlay,
        points: Sequence[MountPoint],
        images: Mapping[str, Sequence[str]],
    ) -> None:
        """`images` has the layers of images that are mounted, by id. SkerryError."""
        self.root = self._namespace = -1
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self._assemble(overlay, points, images)
            except (SkerryError, OSError) as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failures:
            self.close()
            raise failures[0]

    def _assemble(
        self,
        overlay: Overlay,
        points: Sequence[MountPoint],
        images: Mapping[str, Sequence[str]],
    ) -> None:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
        place = os.path.dirname(overlay.upper)
        mounts.mount_overlay(overlay, place)
        self.root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for point in points:
            asked = cast("Mount", oci_mount(point, images.get(point.source, ())))
            perform(self.root, mount_options.step(asked, "/"), CgroupTree({}, {}))
        self._namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give it up. Idempotent."""
        for fd in (self.root, self._namespace):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.root = self._namespace = -1
