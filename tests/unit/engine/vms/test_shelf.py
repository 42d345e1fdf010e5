"""Layers of disks: what stands on what, and what nobody needs any more."""

import os
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, NotFound
from skerry.base.settings import Settings
from skerry.engine.vms.record import Live, Machine, Snapshot, from_plain
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full.spec import Disk, Hardware
from skerry.store.records import Records


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    records = Records(str(tmp_path / "db"))
    settings = Settings(str(tmp_path / "root"), str(tmp_path / "run"), "unix:///none")
    return Shelf(settings, records)


def machine(shelf: Shelf, letter: str, parent: str = "") -> Live:
    """A machine with one disk, whose layer's file exists."""
    record = Machine(
        id=letter * 64,
        name=f"m{letter}",
        uid=0,
        created_at=ord(letter),
        hardware=Hardware(uuid="u"),
    )
    shelf.make_folders(record)
    layer(shelf, record, parent)
    return shelf.add(record)


def layer(shelf: Shelf, record: Machine, parent: str = "") -> str:
    """A fresh layer on top of `parent`, which becomes the machine's disk."""
    with shelf.making(record):
        made = shelf.new_layer(record, parent)
        Path(shelf.path(made)).touch()
    record.hardware = Hardware(uuid="u", disks=(Disk("disk0", made, 1 << 20),))
    return made


def files(shelf: Shelf) -> set[str]:
    """Layers whose files exist."""
    root = Path(shelf.path("x/y")).parents[2]
    return {f"{path.parts[-3]}/{path.stem}" for path in root.glob("*/disks/*.qcow2")}


def test_sweep_keeps_what_is_stood_on(shelf: Shelf) -> None:
    first = machine(shelf, "a")
    (base,) = first.record.hardware.layers()
    top = layer(shelf, first.record, base)
    dropped = layer(shelf, first.record, top)
    first.record.hardware = Hardware(uuid="u", disks=(Disk("disk0", top, 1 << 20),))
    second = machine(shelf, "b", base)
    (linked,) = second.record.hardware.layers()
    shelf.sweep()
    assert files(shelf) == {base, top, linked}
    assert dropped not in files(shelf)
    assert shelf.line(linked) == [linked, base]

    shelf.forget(first)
    shelf.sweep()
    assert files(shelf) == {base, linked}
    folder = Path(shelf.path(base)).parents[1]
    assert os.listdir(folder) == ["disks"]

    shelf.forget(second)
    shelf.sweep()
    assert not folder.exists()
    assert files(shelf) == set()


def test_sweep_spares_what_is_being_made(shelf: Shelf) -> None:
    record = machine(shelf, "a").record
    with shelf.making(record):
        fresh = shelf.new_layer(record)
        Path(shelf.path(fresh)).touch()
        shelf.sweep()
        assert fresh in files(shelf)
    shelf.sweep()
    assert fresh not in files(shelf)


def test_snapshots_keep_their_layers(shelf: Shelf) -> None:
    live = machine(shelf, "a")
    (base,) = live.record.hardware.layers()
    live.record.snapshots.append(Snapshot("s" * 64, "one", "", 1, live.record.hardware, False))
    layer(shelf, live.record)
    shelf.sweep()
    assert base in files(shelf)
    live.record.snapshots.clear()
    shelf.sweep()
    assert base not in files(shelf)


def test_machines_are_found_by_name_and_id(shelf: Shelf) -> None:
    live = machine(shelf, "a")
    for key in ("ma", "a" * 64, "aaaa"):
        assert shelf.get(key) is live
    with pytest.raises(NotFound):
        shelf.get("nobody")
    machine(shelf, "c").record.id = "ab" + "c" * 62
    with pytest.raises(Conflict, match="already in use"):
        shelf.save(
            Machine(id="d" * 64, name="ma", uid=0, created_at=1, hardware=Hardware(uuid="u"))
        )


def test_records_survive_and_damaged_ones_are_told(shelf: Shelf, tmp_path: Path) -> None:
    live = machine(shelf, "a")
    live.record.snapshots.append(Snapshot("s" * 64, "one", "", 1, live.record.hardware, True))
    shelf.save(live.record)
    records = shelf._records
    records.put("vm", "broken", {"version": 1, "name": "broken"})
    records.put("vm", "newer", {"version": 99, "name": "newer"})
    again = Shelf(Settings(str(tmp_path / "root"), str(tmp_path / "run"), "unix:///n"), records)
    complaints = again.load()
    assert len(complaints) == 2
    assert again.get("ma").record == live.record
    assert (
        from_plain(records.get("vm", live.record.id)).snapshot("ssss") == (live.record.snapshots[0])
    )


def test_tidy_removes_what_killed_verbs_left(shelf: Shelf) -> None:
    live = machine(shelf, "a")
    places = shelf.places(live.record)
    for name in ("saved.state.part", "states/nobody", "console.log"):
        Path(places.state, name).touch()
    Path(places.state, "export-x").mkdir()
    shelf.tidy()
    assert set(os.listdir(places.state)) == {"disks", "states", "console.log"}
    assert os.listdir(places.states) == []
