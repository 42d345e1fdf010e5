"""Which platforms' images a machine runs, and which it would rather have."""

import os
from typing import Final

from skerry.base.architectures import MACHINES
from skerry.base.oci_image import Platform

_ARM_VARIANTS: Final = ("v8", "v7", "v6", "v5")


def this_platform() -> Platform:
    """This machine's, in Go's words."""
    machine = os.uname().machine
    architecture, variant = MACHINES.get(machine, (machine, ""))
    return Platform(architecture, "linux", variant=variant)


def rank(has: Platform, wanted: Platform) -> int | None:
    """How well an image's platform suits, the lowest first: the exact variant, then one that the
    machine runs as well (arm), then one without. None when it does not."""
    if (has.os, has.architecture) != (wanted.os, wanted.architecture):
        return None
    if has.variant == wanted.variant:
        return 0
    if wanted.architecture == "arm64" and {has.variant, wanted.variant} == {"", "v8"}:
        return 1
    if wanted.architecture == "arm" and has.variant in _ARM_VARIANTS:
        top = wanted.variant if wanted.variant in _ARM_VARIANTS else "v7"
        lower = _ARM_VARIANTS.index(has.variant) - _ARM_VARIANTS.index(top)
        return 10 + lower if lower >= 0 else None
    return 20 if not has.variant else None


def suits(has: Platform, wanted: Platform) -> bool:
    """Whether it does at all."""
    return rank(has, wanted) is not None
