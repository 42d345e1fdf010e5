"""Writable layers, as far as no mount is needed."""

import subprocess

import pytest

from skerry.store import Store


def test_whole_trees_are_made_apart_from_those_that_others_delete(store: Store) -> None:
    folders = [f"{store.root}/{name}" for name in ("tmp", "snapshots")]
    shown = subprocess.run(["lsattr", "-d", *folders], capture_output=True, text=True, check=False)
    if shown.returncode or not shown.stdout:
        pytest.skip("this file system keeps no flags")
    assert ["T" in line.split()[0] for line in shown.stdout.splitlines()] == [True, True]
