"""From a snapshot that a step has written to the layer that it becomes.

The upper folder itself becomes the layer's folder: it is packed once, for its digest, and never
unpacked again. Before that it loses what only the runtime put there, the empty files and folders
that something was mounted on.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from skerry.base.errors import KernelFault, LimitExceeded, SystemFault
from skerry.base.isolation import Overlay
from skerry.base.oci_image import Descriptor
from skerry.engine import facts
from skerry.store import Store
from skerry.store.changes import MOUNT_POINTS
from skerry.store.commit import store_layer
from skerry.store.pack import PackOptions, pack
from skerry.store.paths import open_long
from skerry.store.trees import DIRECTORY, DiskUsage
from skerry.store.whiteouts import is_opaque

MAX_LAYER: Final = 256 << 30
"""Bytes of the files of one layer; holes count."""


class Stub(NamedTuple):
    """A path that did not exist before something was mounted on it; the first such component is
    where it begins."""

    path: str
    begins: int
    """How many components existed."""


def stubs(overlay: Overlay, targets: Iterable[str]) -> list[Stub]:
    """Which of the mount targets the root does not have yet. To be called before the step."""
    found = []
    root = facts.open_root(Overlay(overlay.lower))
    try:
        for target in sorted({*MOUNT_POINTS, *targets}):
            parts = target.strip("/").split("/")
            for count in range(len(parts), -1, -1):
                if _exists(root, "/".join(parts[:count]) or "."):
                    if count < len(parts):
                        found.append(Stub("/".join(parts), count))
                    break
    finally:
        os.close(root)
    return found


def _exists(root: int, path: str) -> bool:
    try:
        os.close(open_long(root, path, os.O_PATH))
    except KernelFault:
        return False
    return True


def clean(overlay: Overlay, made: Iterable[Stub]) -> None:
    """Take away the stubs that are still empty, and directories that only they brought along."""
    upper = os.open(overlay.upper, DIRECTORY)
    try:
        for stub in made:
            parts = stub.path.split("/")
            for count in range(len(parts), 0, -1):
                path = "/".join(parts[:count])
                if count > stub.begins:
                    gone = _remove_empty(upper, path)
                else:
                    gone = _remove_unchanged(upper, path, overlay.lower)
                if not gone:
                    break
    finally:
        os.close(upper)


def _parent(upper: int, path: str) -> int:
    return open_long(upper, path.rpartition("/")[0] or ".", os.O_PATH | os.O_DIRECTORY)


def _remove_empty(upper: int, path: str) -> bool:
    try:
        parent = _parent(upper, path)
    except KernelFault:
        return False
    name = path.rpartition("/")[2]
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(status.st_mode) and not status.st_size:
            os.unlink(name, dir_fd=parent)
        else:
            return False
    except OSError:
        return False
    finally:
        os.close(parent)
    return True


def _remove_unchanged(upper: int, path: str, lower: tuple[str, ...]) -> bool:
    """An empty directory that was copied up for a stub, and is otherwise as it was below."""
    try:
        fd = open_long(upper, path, os.O_RDONLY | os.O_DIRECTORY)
    except KernelFault:
        return False
    try:
        if os.listdir(fd) or is_opaque(fd):
            return False
        now = os.fstat(fd)
    finally:
        os.close(fd)
    for folder in lower:
        try:
            before = os.lstat(f"{folder}/{path}")
        except OSError:
            continue
        same = (now.st_mode, now.st_uid, now.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
        return same and _remove_empty(upper, path)
    return False


def options_of(folder: int) -> PackOptions:
    """How a layer's folder is packed: its root has an entry only when it is unlike others."""
    status = os.fstat(folder)
    plain = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)
    return PackOptions(top=not plain, whiteouts=True)


def commit(store: Store, folder: str, *, compress: bool) -> str:
    """Make a folder (an overlay's upper) a layer; its diff id, or empty when nothing is in it.

    With `compress` the blob is stored on the way. LimitExceeded.
    """
    upper = os.open(folder, DIRECTORY)
    try:
        if not os.listdir(upper) and not is_opaque(upper) and not options_of(upper).top:
            return ""
        size = DiskUsage(apparent=True).tree(folder)
        if size > MAX_LAYER:
            raise LimitExceeded(f"the step leaves {size} bytes of files, at most {MAX_LAYER} fit")
        with store.leases.hold():
            if compress:
                descriptor, diff_id = store_layer(store.images, pack(upper, options_of(upper)))
                note_blob(store, diff_id, descriptor)
            else:
                seen = hashlib.sha256()
                for piece in pack(upper, options_of(upper)):
                    seen.update(piece)
                diff_id = f"sha256:{seen.hexdigest()}"
            store.layers.adopt(folder, diff_id, size)
            return diff_id
    finally:
        os.close(upper)


def note_blob(
    store: Store, diff_id: str, descriptor: Descriptor, compression: str = "gzip"
) -> None:
    """Remember a layer's compressed form."""
    store.steps.set_blob(
        _form(diff_id, compression),
        {
            "media_type": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        },
    )


def _form(diff_id: str, compression: str) -> str:
    return diff_id if compression == "gzip" else f"{diff_id}+{compression}"


def blob_of(store: Store, diff_id: str, compression: str = "gzip") -> Descriptor:
    """A layer's compressed form, made if nobody needed it before."""
    noted = store.steps.blob(_form(diff_id, compression))
    if noted is not None and store.blobs.has(noted["digest"]):
        return Descriptor(**noted)
    folder = os.open(store.layers.path(diff_id), DIRECTORY)
    try:
        plain = pack(folder, options_of(folder))
        descriptor, packed = store_layer(store.images, plain, compression)
    finally:
        os.close(folder)
    if packed != diff_id:
        raise SystemFault(
            f"layer {diff_id} was changed on the disk: it is {packed} now",
            hint="remove it with `skerry builder prune --all` and build again",
        )
    note_blob(store, diff_id, descriptor, compression)
    return descriptor
