"""What machines have made and nobody uses: found, measured, removed."""

import os
from pathlib import Path

from skerry.base.isolation import Overlay
from skerry.machine import kit
from skerry.machine.disks import Disks, key_of
from skerry.machine.tidying import Unused, usage


def a_kit(folder: Path, name: str, when: int) -> Path:
    (folder / name).mkdir(parents=True)
    manifest = folder / name / kit.MANIFEST
    manifest.write_text("{}")
    os.utime(manifest, (when, when))
    return folder / name


def test_the_kit_that_was_opened_last_stays(tmp_path: Path) -> None:
    assert kit.unused(tmp_path) == []
    (tmp_path / ".lock").touch()
    old, new = a_kit(tmp_path, "b", 1), a_kit(tmp_path, "a", 2)
    half = tmp_path / ".new-x"
    half.mkdir()
    assert set(kit.unused(tmp_path)) == {old, half}
    Unused(kit.unused(tmp_path), [], []).set_aside().remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", new.name]


def test_disks_of_chains_that_are_wanted_stay(tmp_path: Path) -> None:
    layer, gone = tmp_path / "layer", tmp_path / "gone"
    layer.mkdir()
    layers = tmp_path / "machines/layers"
    layers.mkdir(parents=True)
    wanted = Overlay((str(layer),))
    (layers / f"{key_of(wanted)}.erofs").write_bytes(b"x")
    other = layers / "0.erofs"
    other.write_bytes(b"x" * 8192)
    found = Disks(tmp_path / "machines").unused([wanted, Overlay((str(gone),))])
    assert found == [other]
    unused = Unused([], [], found)
    assert unused.usage()["machine disks"] == usage([other]) >= 8192
    aside = unused.set_aside()
    assert not other.exists()
    # Killed in between, it is found again, and only once.
    assert Disks(tmp_path / "machines").unused([wanted]) == aside.disks
    assert aside.set_aside().disks == aside.disks
    assert aside.remove() >= 8192
    assert [path.name for path in layers.iterdir()] == [f"{key_of(wanted)}.erofs"]
