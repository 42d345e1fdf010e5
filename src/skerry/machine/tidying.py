"""What of a machine driver's files can go: kits, templates and layers' disks that nobody uses.

All of it can be made again. Files are taken off their names at once, on the engine's loop, so no
start sees half of it; what takes long comes afterwards, in a thread.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple


class Unused(NamedTuple):
    """Paths that nobody uses."""

    kits: list[Path]
    templates: list[Path]
    disks: list[Path]

    def usage(self) -> dict[str, int]:
        """Bytes on disk, by the store's categories."""
        return {
            "machine kits": usage(self.kits),
            "machine templates": usage(self.templates),
            "machine disks": usage(self.disks),
        }

    def set_aside(self) -> "Unused":
        """Take them off their names; where they are now."""
        return Unused(*([_aside(path) for path in paths] for paths in self))

    def remove(self) -> int:
        """Delete them; the bytes that were freed. Blocks."""
        freed = sum(self.usage().values())
        for path in (*self.kits, *self.templates, *self.disks):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return freed


def _aside(path: Path) -> Path:
    # By such a name each room knows what was left half made, or half removed.
    dotted = f".new-{path.name}" if path.parent.name == "kit" else f"{path.name}.gone.erofs"
    if path.name.startswith(".new-") or path.name.endswith(".gone.erofs"):
        return path
    gone = path.with_name(dotted)
    os.rename(path, gone)
    return gone


def usage(paths: list[Path]) -> int:
    """Bytes on disk of files and folders."""
    total = 0
    for path in paths:
        for entry in (path, *path.rglob("*")):
            try:
                total += entry.lstat().st_blocks * 512
            except OSError:
                continue  # It has just gone.
    return total
