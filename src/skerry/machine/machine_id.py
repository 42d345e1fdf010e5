"""machine-id(5) of a container in a machine: its own, where the image has such a file.

It is bound over the image's file as /etc/hosts is, so neither `diff` nor `commit` sees it.
"""

import hashlib
import os
import re
import stat
from typing import Any

from skerry.base.isolation import Overlay

PATH = "/etc/machine-id"
NAME = "machine-id"
_COVERS = ("/etc", PATH)


def of(container_id: str) -> str:
    """32 hexadecimal digits: the first ones of the container's id."""
    digits = container_id[:32]
    if not re.fullmatch("[0-9a-f]{32}", digits):
        digits = hashlib.sha256(container_id.encode()).hexdigest()[:32]
    return digits


def in_image(overlay: Overlay | None) -> bool:
    """Whether the layers below a container have the file; never through a link."""
    for layer in overlay.lower if overlay else ():
        try:
            if not stat.S_ISDIR(os.lstat(f"{layer}/etc").st_mode):
                return False
            return stat.S_ISREG(os.lstat(f"{layer}{PATH}").st_mode)
        except OSError:
            continue
    return False


def with_mount(spec: dict[str, Any], state_dir: str) -> dict[str, Any]:
    """The configuration with the file of the state directory at its place, unless the user has put
    something there."""
    given = spec.get("mounts") or []
    if any(os.path.normpath(mount.get("destination", "")) in _COVERS for mount in given):
        return spec
    mount = {
        "destination": PATH,
        "type": "bind",
        "source": f"{state_dir}/{NAME}",
        "options": ["rbind", "rprivate", "nosuid", "nodev", "noexec"],
    }
    return {**spec, "mounts": [*given, mount]}
