"""`--storage-opt size=…`: how much a container may write beside its volumes.

A machine's disk is held to it by the guest's file system. For a container the file system of the
host would have to (project quotas on every upper and work folder): it is refused, as docker does
where it has none.
"""

from collections.abc import Mapping
from typing import Any, Final

from skerry.base.errors import InvalidInput
from skerry.engine.log_options import parse_size
from skerry.engine.walls import VM, wall_of

_LEAST: Final = 16 << 20
_MOST: Final = 64 << 30
"""A machine's disk has no more."""


def check(host: Mapping[str, Any]) -> None:
    """InvalidInput for what cannot be had, in Docker's words where it has some."""
    if not host.get("StorageOpt"):
        return
    if wall_of(host) != VM:
        raise InvalidInput(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
            hint="a machine's disk can have a size: --isolation vm",
        )
    disk_size(host)


def disk_size(host: Mapping[str, Any]) -> int:
    """Bytes that a machine may have on its disk, 0 for as many as it has. Pure."""
    size = 0
    for name, text in (host.get("StorageOpt") or {}).items():
        if name.lower() != "size":
            raise InvalidInput(f"Unknown option {name:.60}")
        size = parse_size(text)
        if not _LEAST <= size <= _MOST:
            raise InvalidInput(
                f"invalid storage option size={text:.40}: from {_LEAST >> 20} MB to "
                f"{_MOST >> 30} GB"
            )
    return size
