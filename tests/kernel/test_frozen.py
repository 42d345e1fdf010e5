"""Frozen layers, their differences and commits under real overlay mounts."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skerry.base.errors import NotFound
from skerry.base.isolation import Overlay
from skerry.kernel import mounts
from skerry.store import Store, open_store
from skerry.store.changes import ADDED, DELETED, MODIFIED, Change
from skerry.store.difference import Difference, difference

pytestmark = pytest.mark.root

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        image = tmp_path / "image"
        (image / "etc").mkdir(parents=True)
        (image / "etc/conf").write_text("image")
        (image / "old").mkdir()
        (image / "old/file").write_text("0123456789")
        shutil.make_archive(str(tmp_path / "image"), "tar", image)
        with open(tmp_path / "image.tar", "rb") as stream:
            opened.images.import_rootfs(stream, {}, tags=["base:1"])
        yield opened


def image_id(store: Store) -> str:
    return store.images.get("base:1").id


@contextmanager
def mounted(overlay: Overlay, target: Path) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    mounts.mount_overlay(overlay, str(target))
    try:
        yield target
    finally:
        mounts.umount(str(target))


def tree(store: Store, id_: str, at: Path) -> dict[str, str]:
    with mounted(store.snapshots.overlay(id_), at) as root:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path.relative_to(root)): path.read_text() for path in files}


def change(store: Store, id_: str, at: Path) -> None:
    """Something of each kind."""
    with mounted(store.snapshots.overlay(id_), at) as root:
        (root / "new").write_text("new")
        os.link(root / "new", root / "same")
        (root / "etc/conf").write_text("changed")
        shutil.rmtree(root / "old")
        (root / "old").mkdir()
        (root / "old/fresh").write_text("fresh")
        os.symlink("new", root / "link")
        os.mkfifo(root / "pipe")
        os.setxattr(root / "new", "user.mark", b"x")
        os.chown(root / "new", 7, 8)


@pytest.mark.parametrize("in_use", [False, True])
def test_a_frozen_layer_is_what_the_container_was(
    store: Store, tmp_path: Path, in_use: bool
) -> None:
    store.snapshots.prepare("box", image_id(store))
    change(store, "box", tmp_path / "m")
    before = tree(store, "box", tmp_path / "m")
    with store.snapshots.frozen.hold(ONE):
        store.snapshots.freeze("box", ONE, in_use=in_use)
    assert tree(store, "box", tmp_path / "m") == before
    assert store.snapshots.base("box") == ("" if in_use else ONE)
    with mounted(store.snapshots.overlay("box"), tmp_path / "m") as root:
        (root / "later").write_text("later")
    store.snapshots.prepare("fork", image_id(store), ONE)
    assert tree(store, "fork", tmp_path / "m") == before
    with mounted(store.snapshots.overlay("fork"), tmp_path / "m") as root:
        status = os.stat(root / "new")
        assert (status.st_uid, status.st_gid, status.st_nlink) == (7, 8, 2)
        assert os.getxattr(root / "new", "user.mark") == b"x"
        assert stat.S_ISFIFO(os.stat(root / "pipe").st_mode)
        assert os.readlink(root / "link") == "new"
        assert os.listdir(root / "old") == ["fresh"]
    store.snapshots.reset("box", ONE, "node")
    assert tree(store, "box", tmp_path / "m") == before
    assert store.snapshots.node("box") == "node"


def test_a_chain_and_its_depth(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.store.snapshots.DEEPEST", 2)
    store.snapshots.prepare("box", image_id(store))
    for number, id_ in enumerate((ONE, TWO, THREE)):
        with mounted(store.snapshots.overlay("box"), tmp_path / "m") as root:
            (root / f"file{number}").write_text(str(number))
            (root / "all").write_text(str(number))
            if number == 1:
                (root / "file0").unlink()
                shutil.rmtree(root / "old")
            if number == 2:
                (root / "old").mkdir()
        store.snapshots.freeze("box", id_, in_use=False)
    assert store.snapshots.frozen.chain(TWO) == [TWO, ONE]
    assert store.snapshots.frozen.chain(THREE) == [THREE]
    whole = {"etc/conf": "image", "file1": "1", "file2": "2", "all": "2"}
    assert tree(store, "box", tmp_path / "m") == whole
    store.snapshots.reset("box", THREE)
    assert tree(store, "box", tmp_path / "m") == whole


def test_what_is_needed_stays(store: Store, tmp_path: Path) -> None:
    store.snapshots.prepare("box", image_id(store))
    store.snapshots.freeze("box", ONE, in_use=False)
    store.snapshots.freeze("box", TWO, in_use=False)
    store.snapshots.freeze("box", THREE, in_use=True)
    assert store.snapshots.frozen.list() == [ONE, TWO, THREE]
    assert store.snapshots.sweep_frozen([]) == 1
    assert store.snapshots.frozen.list() == [ONE, TWO]
    store.images.remove("base:1", force=True)
    store.snapshots.remove("box")
    store.gc.collect()
    with mounted(store.snapshots.frozen_overlay(TWO), tmp_path / "m") as root:
        assert (root / "etc/conf").read_text() == "image"
    assert store.snapshots.sweep_frozen([ONE]) == 1
    assert store.snapshots.sweep_frozen([]) == 1
    with pytest.raises(NotFound):
        store.snapshots.frozen.chain(ONE)
    usage = store.gc.usage()
    assert usage.categories["snapshots"].items == 0
    assert usage.total == sum(each.bytes for each in usage.categories.values())


def test_differences(store: Store, tmp_path: Path) -> None:
    store.snapshots.prepare("box", image_id(store))
    with mounted(store.snapshots.overlay("box"), tmp_path / "m") as root:
        (root / "shared").write_text("shared")
    store.snapshots.freeze("box", ONE, in_use=False)
    store.snapshots.prepare("fork", image_id(store), ONE)
    change(store, "box", tmp_path / "m")
    with mounted(store.snapshots.overlay("fork"), tmp_path / "m") as root:
        (root / "etc/conf").write_text("changed")
        (root / "shared").unlink()
    one, other = store.snapshots.overlay("fork"), store.snapshots.overlay("box")
    found = difference(one, other)
    assert found == [
        Difference(ADDED, "/link", 0, 0),
        Difference(ADDED, "/new", 0, 3),
        Difference(DELETED, "/old/file", 10, 0),
        Difference(ADDED, "/old/fresh", 0, 5),
        Difference(ADDED, "/pipe", 0, 0),
        Difference(ADDED, "/same", 0, 3),
        Difference(ADDED, "/shared", 0, 6),
    ]
    swapped = {ADDED: DELETED, DELETED: ADDED, MODIFIED: MODIFIED}
    assert difference(other, one) == [
        Difference(swapped[each.kind], each.path, each.after, each.before) for each in found
    ]
    assert difference(one, one) == []


def test_a_folder_in_place_of_a_link(store: Store, tmp_path: Path) -> None:
    store.snapshots.prepare("one", image_id(store))
    store.snapshots.prepare("two", image_id(store))
    with mounted(store.snapshots.overlay("one"), tmp_path / "m") as root:
        os.symlink("etc", root / "place")
    with mounted(store.snapshots.overlay("two"), tmp_path / "m") as root:
        (root / "place").mkdir()
        (root / "place/conf").write_text("own")
    assert difference(store.snapshots.overlay("one"), store.snapshots.overlay("two")) == [
        Difference(MODIFIED, "/place", 0, 0),
        Difference(ADDED, "/place/conf", 0, 3),
    ]


def test_dockers_diff_and_commit_see_through_frozen_layers(store: Store, tmp_path: Path) -> None:
    for id_ in ("plain", "stacked"):
        store.snapshots.prepare(id_, image_id(store))
        change(store, id_, tmp_path / "m")
    store.snapshots.freeze("stacked", ONE, in_use=False)
    for id_ in ("plain", "stacked"):
        with mounted(store.snapshots.overlay(id_), tmp_path / "m") as root:
            (root / "etc/more").write_text("more")
            (root / "pipe").unlink()
    changes = store.snapshots.changes("stacked")
    assert changes == store.snapshots.changes("plain")
    assert Change(DELETED, "/old/file") in changes
    trees = []
    for id_ in ("plain", "stacked"):
        image = store.images.commit(image_id(store), id_, {}, tags=[f"{id_}:1"])
        store.snapshots.prepare(f"of-{id_}", image.id)
        trees.append(tree(store, f"of-{id_}", tmp_path / "m"))
    assert trees[0] == trees[1] == tree(store, "plain", tmp_path / "m")
    assert len(store.images.get("stacked:1").layers) == len(store.images.get("plain:1").layers) + 1
