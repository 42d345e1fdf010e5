"""Walking, measuring and deleting trees, also deep ones and ones that change."""

import os
import subprocess
from pathlib import Path

import pytest

from skerry.base.errors import Conflict
from skerry.store.trees import DIRECTORY, DiskUsage, remove_tree, walk


def deep(folder: Path, depth: int) -> None:
    here = os.open(folder, DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def open_below(folder: Path) -> list[str]:
    """What this process has open in `folder`: its other descriptors are other tests' affair."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the listing's own
    return [path for path in found if path.startswith(str(folder))]


def names(folder: Path) -> list[str]:
    fd = os.open(folder, DIRECTORY)
    try:
        return [f"{visit.depth}{visit.name}" for visit in walk(fd)]
    finally:
        os.close(fd)


def test_parents_before_children_in_order(tmp_path: Path) -> None:
    for name in ("b/x", "a/z", "a/y/deep", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/link").symlink_to("/etc")
    assert names(tmp_path) == ["1a", "2link", "2y", "3deep", "2z", "1b", "2x", "1c"]


def test_deeper_than_any_path_or_stack(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    deep(tree, 5000)
    assert len(names(tree)) == 5000
    done = subprocess.run(["du", "-s", "-B1", str(tree)], capture_output=True, check=True)
    assert DiskUsage().tree(str(tree)) == int(done.stdout.split()[0])
    remove_tree(str(tree))
    assert not tree.exists()
    assert open_below(tree) == []


def test_a_tree_that_is_moved_away_ends_the_walk(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b/c").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    fd = os.open(tmp_path / "tree", DIRECTORY)
    try:
        with pytest.raises(Conflict, match="moved while"):
            for visit in walk(fd):
                if visit.name == "c":
                    (tmp_path / "tree/a/b").rename(tmp_path / "elsewhere/b")
    finally:
        os.close(fd)


def test_what_vanishes_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    fd = os.open(tmp_path, DIRECTORY)
    seen = []
    try:
        for visit in walk(fd):
            seen.append(visit.name)
            if visit.name == "a":
                remove_tree(str(tmp_path / "b"))
                (tmp_path / "c/f").unlink()
    finally:
        os.close(fd)
    assert seen == ["a", "f", "c"]


def test_links_are_deleted_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/f").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/l").symlink_to(tmp_path / "keep")
    remove_tree(str(tmp_path / "tree"))
    assert (tmp_path / "keep/f").exists()
    (tmp_path / "l").symlink_to(tmp_path / "keep")
    remove_tree(str(tmp_path / "l"))
    remove_tree(str(tmp_path / "l"))
    remove_tree(str(tmp_path / "none/there"))
    assert (tmp_path / "keep/f").exists()
    assert not (tmp_path / "l").is_symlink()
