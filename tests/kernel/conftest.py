"""Fixtures for tests of the runtime on a real kernel."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kernel.machines.fixtures import lan, medium, vm
from tests.kernel.oci import Runtime

__all__ = ["lan", "medium", "runtime", "vm"]


@pytest.fixture
def runtime(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Runtime]:
    """`skerry-runtime` with its own state folder; containers are deleted afterwards."""
    made = Runtime(tmp_path, busybox_rootfs)
    yield made
    made.close()
