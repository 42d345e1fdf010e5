"""A pending snapshot after something went wrong: whole or absent."""

from pathlib import Path
from typing import Any

import pytest

from skerry.base.settings import Settings
from skerry.engine.vms.record import RUNNING, Live, Machine, Pending, Snapshot
from skerry.engine.vms.shelf import Shelf
from skerry.engine.vms.snapshots import Snapshots
from skerry.machine.full import argv
from skerry.machine.full.spec import Disk, Hardware
from skerry.store.records import Records


class Monitor:
    """QEMU that writes to one layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    async def execute(self, command: str, **_: Any) -> Any:
        assert command == "query-block"
        return [{"inserted": {"node-name": argv.node(self.layer)}}]


class Life:
    """Of a guest that runs on."""

    async def settle(self, live: Live) -> None:
        assert live.record.status == RUNNING


@pytest.mark.parametrize(
    ("switched", "full", "state", "there"),
    [
        (True, True, True, True),
        (True, True, False, False),
        (True, False, False, True),
        (False, True, True, False),
    ],
)
async def test_a_snapshot_is_whole_or_absent(
    tmp_path: Path, switched: bool, full: bool, state: bool, there: bool
) -> None:
    settings = Settings(str(tmp_path / "root"), str(tmp_path / "run"), "unix:///none")
    shelf = Shelf(settings, Records(str(tmp_path / "db")))
    record = Machine("a" * 64, "box", 0, 1, Hardware(uuid="u"), status=RUNNING, current="before")
    shelf.make_folders(record)
    layers: list[str] = []
    with shelf.making(record):
        for parent in ("", "below"):
            layers.append(shelf.new_layer(record, layers[0] if parent else ""))
            Path(shelf.path(layers[-1])).touch()
    below, above = (Hardware(uuid="u", disks=(Disk("disk0", each, 1 << 20),)) for each in layers)
    record.hardware = below
    snapshot = Snapshot("s" * 64, "one", "before", 1, below, full)
    record.pending = Pending(snapshot, above)
    live = shelf.add(record)
    live.monitor = Monitor(layers[switched])  # type: ignore[assignment]
    snapshots = Snapshots(shelf, Life())  # type: ignore[arg-type]
    if state:
        Path(snapshots.state_file(record, snapshot.id)).touch()
    await snapshots.resolve(live)
    assert record.snapshots == ([snapshot] if there else [])
    assert record.current == (snapshot.id if there else "before")
    assert record.hardware == (above if switched else below)
    # Whoever stands above keeps what is below, snapshot or none.
    shelf.sweep()
    assert Path(shelf.path(layers[0])).exists()
    assert Path(shelf.path(layers[1])).exists() == switched
    assert Path(snapshots.state_file(record, snapshot.id)).exists() == (there and full)
