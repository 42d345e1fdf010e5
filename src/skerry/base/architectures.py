"""Machines in Go's words, which OCI and Docker use, for the words of Linux and of distributions."""

import os

from skerry.base.light import Final

MACHINES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
"""GOARCH and variant by `uname -m` or a distribution's word."""


def go(machine: str) -> str:
    """The architecture without its variant; a word that is not known stays."""
    return MACHINES.get(machine, (machine, ""))[0]


def architecture() -> str:
    """This machine's."""
    return go(os.uname().machine)
