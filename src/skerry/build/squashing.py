"""Several layers as one: what the upper ones add and take away, in one folder.

The layers are mounted one above the other, so overlayfs merges directories and hides what is
hidden; whiteouts of what lies below all of them are carried over from the folders themselves.
"""

import os
import stat
from collections.abc import Sequence

from skerry.base.isolation import Overlay
from skerry.build import copying
from skerry.build.committing import commit
from skerry.build.directory import DirectoryTree
from skerry.engine import facts
from skerry.store import Store
from skerry.store.trees import DIRECTORY, walk
from skerry.store.whiteouts import is_opaque, is_whiteout, make_opaque, make_whiteout


def merge(store: Store, layers: Sequence[str]) -> str:
    """The layer that has the effect of all of them (bottom-most first); empty for none."""
    folders = [store.layers.path(each) for each in layers]
    with store.scratch.folder("squash") as folder:
        os.chmod(folder, 0o755)
        lower = tuple(dict.fromkeys(reversed(folders)))
        tree = DirectoryTree(facts.open_root(Overlay(lower)), "the layers")
        request = copying.Request((".",), "/")
        root = os.open(folder, DIRECTORY)
        try:
            copying.place(tree, copying.select(tree, request), request, root, copying.Placement())
            for each in folders:
                _carry_marks(each, folder)
        finally:
            os.close(root)
            tree.close()
        return commit(store, folder, compress=True)


def _carry_marks(layer: str, folder: str) -> None:
    """Whiteouts that no later layer fills, and opaque directories."""
    top = os.open(layer, DIRECTORY)
    parts: list[str] = []
    try:
        for visit in walk(top):
            parts[visit.depth - 1 :] = [visit.name]
            path = "/".join(parts)
            above = f"{folder}/{'/'.join(parts[:-1])}"
            if is_whiteout(visit.stat):
                if os.path.isdir(above) and not os.path.lexists(f"{folder}/{path}"):
                    parent = os.open(above, DIRECTORY)
                    try:
                        make_whiteout(parent, visit.name)
                    finally:
                        os.close(parent)
            elif stat.S_ISDIR(visit.stat.st_mode) and is_opaque(f"{layer}/{path}"):
                try:
                    fd = os.open(f"{folder}/{path}", DIRECTORY)
                except OSError:
                    continue
                try:
                    make_opaque(fd)
                finally:
                    os.close(fd)
    finally:
        os.close(top)
