"""Overlays of many layers, on kernels that take them one by one and on those that do not."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.base.errors import KernelFault
from skerry.base.isolation import Overlay
from skerry.kernel import mounts
from skerry.kernel.overlay_options import overlay_fd_by_options

pytestmark = pytest.mark.root

WAYS = [mounts.overlay_fd, overlay_fd_by_options]
Way = Callable[[Overlay], int]


def layers(folder: Path, count: int, name: str = "layer") -> tuple[str, ...]:
    """Layers with one file each, top-most first."""
    made = []
    for number in range(count):
        layer = folder / f"{name}{number}"
        layer.mkdir()
        (layer / f"file{number}").write_text(str(number))
        made.append(str(layer))
    return tuple(made)


def upper(folder: Path) -> tuple[str, str]:
    """An upper folder and its work folder."""
    for name in ("upper", "work"):
        (folder / name).mkdir()
    return str(folder / "upper"), str(folder / "work")


def mounted(folder: Path) -> list[str]:
    """Mounts of this process that lie in the folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


@pytest.mark.parametrize("way", WAYS)
def test_a_hundred_layers_below_a_writable_one(tmp_path: Path, way: Way) -> None:
    overlay = Overlay(layers(tmp_path, 100), *upper(tmp_path))
    root = way(overlay)
    try:
        inside = f"/proc/self/fd/{root}"
        assert len(os.listdir(inside)) == 100
        Path(inside, "new").write_text("new")
        os.unlink(f"{inside}/file7")
        assert (tmp_path / "upper" / "new").read_text() == "new"
        assert stat.S_ISCHR(os.lstat(tmp_path / "upper" / "file7").st_mode)
        assert mounted(tmp_path) == []
    finally:
        os.close(root)


@pytest.mark.parametrize("way", WAYS)
def test_without_upper_it_is_read_only(tmp_path: Path, way: Way) -> None:
    root = way(Overlay(layers(tmp_path, 2)))
    try:
        with pytest.raises(OSError, match="Read-only"):
            Path(f"/proc/self/fd/{root}/new").write_text("x")
    finally:
        os.close(root)


@pytest.mark.parametrize("way", WAYS)
def test_names_that_options_cannot_hold(tmp_path: Path, way: Way) -> None:
    root = way(Overlay(layers(tmp_path, 2, "a:b,c\\d e"), *upper(tmp_path)))
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{root}")) == ["file0", "file1"]
    finally:
        os.close(root)


def test_few_layers_need_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", None)
    monkeypatch.chdir(tmp_path)
    Path("upper").mkdir()
    Path("work").mkdir()
    root = overlay_fd_by_options(Overlay(layers(Path(), 2), "upper", "work"))
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{root}")) == ["file0", "file1"]
        os.close(os.open("new", os.O_CREAT, dir_fd=root))
        assert os.listdir("upper") == ["new"]
    finally:
        os.close(root)


@pytest.mark.parametrize("way", WAYS)
def test_the_first_layer_is_on_top(tmp_path: Path, way: Way) -> None:
    made = layers(tmp_path, 2)
    for place in made:
        Path(place, "same").write_text(place)
    root = way(Overlay(made))
    try:
        assert Path(f"/proc/self/fd/{root}/same").read_text() == made[0]
    finally:
        os.close(root)


def test_attached(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    mounts.mount_overlay(Overlay(layers(tmp_path, 2)), str(target))
    try:
        assert sorted(os.listdir(target)) == ["file0", "file1"]
    finally:
        mounts.umount(str(target))
    assert mounted(tmp_path) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_is_missing(tmp_path: Path, way: Way) -> None:
    with pytest.raises(KernelFault) as caught:
        way(Overlay((str(tmp_path / "missing"), *layers(tmp_path, 1))))
    assert caught.value.errno == errno.ENOENT


def test_more_layers_than_options_can_name(tmp_path: Path) -> None:
    with pytest.raises(KernelFault, match="300 layers") as caught:
        overlay_fd_by_options(Overlay(layers(tmp_path, 300)))
    assert caught.value.errno == errno.E2BIG


def test_a_writable_layer_on_an_overlay_is_refused_with_a_remedy(tmp_path: Path) -> None:
    target = tmp_path / "outer"
    target.mkdir()
    mounts.mount_overlay(Overlay(layers(tmp_path, 1), *upper(tmp_path)), str(target))
    try:
        (target / "inner").mkdir()
        other = layers(tmp_path, 1, "other")
        with pytest.raises(KernelFault) as caught:
            os.close(mounts.overlay_fd(Overlay(other, *upper(target / "inner"))))
        assert caught.value.errno == errno.EINVAL
        # Older kernels take all at once, and do not say that it was the upper one.
        one_by_one = caught.value.action.startswith("use ")
        assert "move --root" in caught.value.hint or not one_by_one
    finally:
        mounts.umount(str(target))
