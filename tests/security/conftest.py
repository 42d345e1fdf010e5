"""Fixtures of the escape attempts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import images
from tests.security.sandbox import Sandbox


@pytest.fixture
def rootfs(busybox_rootfs: Path, tmp_path: Path) -> Path:
    """A root file system of the test's own, with the links that Debian's programs need."""
    root = images.clone_rootfs(busybox_rootfs, tmp_path / "rootfs")
    for name in ("lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return root


@pytest.fixture
def sandbox(tmp_path: Path, rootfs: Path) -> Iterator[Sandbox]:
    """Makes and runs containers over `rootfs`."""
    made = Sandbox(tmp_path, rootfs)
    yield made
    made.close()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file on the host that no container may read or change."""
    file = tmp_path / "host-secret"
    file.write_text("untouched")
    yield file
    assert file.read_text() == "untouched"
