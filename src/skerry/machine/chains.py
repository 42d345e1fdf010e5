"""Which of a container's layers are on which disk."""

import os
from pathlib import Path

from skerry.base.isolation import DISK, Overlay, Task


def frozen_disks(overlay: Overlay | None) -> list[Path]:
    """The disks of the frozen layers that a container stands on, top-most first."""
    found = []
    for path in overlay.lower if overlay else ():
        disk = Path(os.path.dirname(path), DISK)
        if os.path.basename(path) == "upper" and disk.exists():
            found.append(disk)
    return found


def on_layers_disk(overlay: Overlay) -> Overlay:
    """The chain without what is on frozen disks, which is not taken from its folder."""
    disks = {str(disk.parent / "upper") for disk in frozen_disks(overlay)}
    return overlay._replace(lower=tuple(path for path in overlay.lower if path not in disks))


def disk_of(task: Task) -> Path:
    """The writable disk: beside the upper folder whose part it plays, so that it lives as long."""
    return Path(os.path.dirname(task.rootfs.upper) if task.rootfs else task.state_dir, DISK)
