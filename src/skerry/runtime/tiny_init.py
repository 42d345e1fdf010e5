"""`--init`: a small init in front of the program, which reaps zombies and forwards signals.

It is the host's `tini` (or a program that takes the same arguments), bind-mounted read-only where
Docker puts its own. A process of ours in that place would keep an interpreter and its memory inside
every such container for as long as it lives; tini is a static program of 24 KB that the
distribution keeps up to date.
"""

import os
import struct

from skerry.base.errors import Unsupported
from skerry.base.light import Any

TARGET = "/sbin/docker-init"
"""Where Docker's users expect it."""
CANDIDATES = (
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/local/bin/docker-init",
    "/sbin/tini-static",
    "/sbin/tini",
    "/usr/bin/tini",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
)
# elf.h
_PT_INTERP = 3
_ELF64 = struct.Struct("<4sBB10xHHIQQQIHHH")


def find_init(candidates: tuple[str, ...] = CANDIDATES) -> str:
    """The first static init program of this host; Unsupported when there is none.

    A dynamic one would look for its libraries in the image.
    """
    for path in candidates:
        if os.access(path, os.X_OK) and _is_static(path):
            return os.path.realpath(path)
    raise Unsupported(
        "cannot put an init in front of the program: this host has no static tini",
        hint="install the package tini (apt-get install tini), or leave out --init",
    )


def with_init(spec: dict[str, Any], init: str) -> dict[str, Any]:
    """The configuration with `init` mounted in the container and in front of the program."""
    process = dict(spec.get("process", {}))
    process["args"] = [TARGET, "--", *process.get("args", ())]
    mount = {"destination": TARGET, "type": "bind", "source": init, "options": ["bind", "ro"]}
    return {**spec, "process": process, "mounts": [*spec.get("mounts", ()), mount]}


def _is_static(path: str) -> bool:
    """Whether a 64-bit ELF file names no interpreter (program header PT_INTERP)."""
    try:
        with open(path, "rb") as file:
            head = _ELF64.unpack(file.read(_ELF64.size))
            magic, bits, table, size, count = head[0], head[1], head[7], head[11], head[12]
            if magic != b"\x7fELF" or bits != 2:
                return False
            file.seek(table)
            headers = file.read(size * count)
    except (OSError, struct.error):
        return False
    kinds = [
        struct.unpack_from("<I", headers, at)[0] for at in range(0, len(headers) - 3, size or 56)
    ]
    return bool(kinds) and _PT_INTERP not in kinds
