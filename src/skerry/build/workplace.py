"""One build's own folders and mounts, which leave nothing behind.

`<run-root>/build/<id>/` holds secrets, sockets and the mount points of what a RUN sees of stages
and images. Whatever is there when the engine starts belongs to a build that was killed: `sweep`
unmounts and removes it.
"""

import contextlib
import os
import shutil
from typing import Final

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.isolation import Overlay
from skerry.kernel import mounts
from skerry.store.trees import remove_tree

FOLDER: Final = "build"


class Workplace:
    """The folder of one build. `close` undoes everything."""

    def __init__(self, run_root: str, id: str) -> None:
        self.path = os.path.join(run_root, FOLDER, id)
        self._mounted: list[str] = []
        self._count = 0

    def fresh(self, what: str) -> str:
        """A path that nothing has yet."""
        if not self._count:
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
            except OSError as error:
                raise SystemFault(f"cannot make {self.path}: {error.strerror}") from None
        self._count += 1
        return f"{self.path}/{what}-{self._count}"

    def folder(self, what: str) -> str:
        """A new folder."""
        path = self.fresh(what)
        os.mkdir(path, 0o755)
        return path

    def file(self, what: str, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> str:
        """A new file that nobody else could read before its owner and mode were set."""
        path = self.fresh(what)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return path

    def mount(self, overlay: Overlay) -> str:
        """Mount layers at a new folder; its path."""
        if len(overlay.lower) == 1 and not overlay.upper:
            return overlay.lower[0]
        path = self.folder("mount")
        mounts.mount_overlay(overlay, path)
        self._mounted.append(path)
        return path

    def close(self) -> None:
        """Unmount and remove everything. Idempotent."""
        while self._mounted:
            with contextlib.suppress(KernelFault):
                mounts.umount(self._mounted.pop(), mounts.MNT_DETACH)
        if self._count:
            remove_tree(self.path)

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def sweep(run_root: str) -> None:
    """Make the folder of all builds, and remove what those of an earlier engine left in it."""
    folder = os.path.join(run_root, FOLDER)
    with contextlib.suppress(OSError):
        os.makedirs(folder, 0o700, exist_ok=True)
        for build in os.listdir(folder):
            for name in os.listdir(os.path.join(folder, build)):
                if name.startswith("mount-"):
                    with contextlib.suppress(KernelFault):
                        mounts.umount(os.path.join(folder, build, name), mounts.MNT_DETACH)
            shutil.rmtree(os.path.join(folder, build), ignore_errors=True)
