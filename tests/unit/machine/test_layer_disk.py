"""Layers' disks: the same bytes for the same layers, and something for every tree."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from skerry.base.errors import SystemFault
from skerry.machine import layer_disk

pytestmark = pytest.mark.skipif(
    not (shutil.which("mkfs.erofs") and shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")),
    reason="needs erofs-utils and e2fsprogs",
)
EROFS, EXT4 = (1024, 0xE0F5E1E2, "<I"), (1024 + 0x38, 0xEF53, "<H")
"""Where each has its magic number, and which."""
LONG = "n" * 255


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    made = tmp_path / "tree"
    made.mkdir()
    (made / "file").write_bytes(b"contents")
    for name, when in (("old", -86400), ("far", 1 << 33)):
        (made / name).touch()
        os.utime(made / name, (when, when))
    return made


def has(path: Path, magic: tuple[int, int, str]) -> bool:
    at, number, form = magic
    with path.open("rb") as file:
        file.seek(at)
        (found,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return bool(found == number)


def debugfs(disk: Path, request: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", request, disk], capture_output=True, text=True, check=True
    ).stdout


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    layer_disk.make(str(one), str(tree))
    layer_disk.make(str(other), str(tree))
    assert has(one, EROFS)
    assert one.read_bytes() == other.read_bytes()
    # mkfs.erofs keeps times in 64 bits, and clamps none.
    assert all(struct.pack("<q", when) in one.read_bytes() for when in (-86400, 1 << 33))


def test_what_erofs_cannot_hold_is_an_ext4(tree: Path, tmp_path: Path) -> None:
    (tree / LONG).write_bytes(b"long")
    (tree / LONG[:-1]).write_bytes(b"not as long")
    disk = tmp_path / "disk"
    layer_disk.make(str(disk), str(tree))
    assert has(disk, EXT4)
    assert debugfs(disk, f"cat {LONG}") == "long"
    assert debugfs(disk, f"cat {LONG[:-1]}") == "not as long"
    assert "lost+found" not in debugfs(disk, "ls -p /")


def test_holes_are_not_written_out(tree: Path, tmp_path: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tree / "lost+found").mkdir()
    (tree / "lost+found/own").write_bytes(b"of the image")
    disk = tmp_path / "disk"
    assert layer_disk.survey(str(tree)) == (6, 1 << 30, 10)
    layer_disk.make(str(disk), str(tree))
    assert has(disk, EXT4)
    assert disk.stat().st_blocks * 512 < 64 << 20
    assert debugfs(disk, "cat lost+found/own") == "of the image"


def test_what_went_wrong_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemFault, match=r"mkfs\.erofs failed: (?s:.*)/proc/none: "):
        layer_disk.make("/proc/none", str(tree))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemFault, match=r"cannot run mkfs\.erofs"):
        layer_disk.make("/proc/none", str(tree))
