"""Flags of inodes."""

import subprocess
from pathlib import Path

import pytest

from skerry.kernel.inodes import spread_subdirectories


def test_spreading_is_asked_for_once_and_never_fails(tmp_path: Path) -> None:
    spread_subdirectories(str(tmp_path))
    spread_subdirectories(str(tmp_path))
    (tmp_path / "a").mkdir()
    shown = subprocess.run(
        ["lsattr", "-d", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if shown.returncode or not shown.stdout:
        pytest.skip("this file system keeps no flags")
    assert "T" in shown.stdout.split()[0]


def test_file_systems_without_flags_are_left_alone() -> None:
    spread_subdirectories("/proc/self")
