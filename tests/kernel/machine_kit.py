"""Kits for tests: the distribution's kernel comes from the tests' own cache, downloaded once."""

import os
from pathlib import Path

import pytest

from skerry.base.errors import Unavailable
from skerry.machine import linux

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "skerry-tests")


def provide(root: Path) -> None:
    """Put the kernel's package where an engine of `root` looks for it; skips without one."""
    try:
        linux.fetch(CACHE)
    except Unavailable as error:
        pytest.skip(str(error))
    (root / "kit").mkdir(parents=True, exist_ok=True)
    for package in CACHE.glob("linux-image-*"):
        (root / "kit" / package.name).symlink_to(package)
