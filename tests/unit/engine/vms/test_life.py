"""States of a machine whose record cannot be written: nothing has happened. What is told of an
end."""

import os
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import SystemFault
from skerry.base.settings import Settings
from skerry.engine.events import Events
from skerry.engine.vms import life as module
from skerry.engine.vms.life import Life, last_complaint
from skerry.engine.vms.record import PAUSED, RUNNING, Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full.spec import Hardware
from skerry.store.records import Records


class Monitor:
    """QEMU whose guest is held or goes on."""

    def __init__(self) -> None:
        self.goes_on = True

    async def execute(self, command: str, **_: Any) -> Any:
        self.goes_on = {"stop": False, "cont": True}[command]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    async def write_state(_: Monitor, path: str) -> None:
        Path(path).touch()

    monkeypatch.setattr(module, "write_state", write_state)
    settings = Settings(str(tmp_path / "root"), str(tmp_path / "run"), "unix:///none")
    return Shelf(settings, Records(str(tmp_path / "db")))


@pytest.mark.parametrize(
    ("verb", "status"), [("pause", RUNNING), ("resume", PAUSED), ("save", RUNNING)]
)
async def test_a_full_disk_leaves_it_as_it_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, verb: str, status: str
) -> None:
    record = Machine("a" * 64, "box", 0, 1, Hardware(uuid="u"), status=status)
    places = shelf.make_folders(record)
    live: Live = shelf.add(record)
    live.process = (1, 1)
    live.monitor = monitor = Monitor()  # type: ignore[assignment]
    monitor.goes_on = status == RUNNING

    def full(_: Machine) -> None:
        raise SystemFault("no space left on device")

    monkeypatch.setattr(shelf, "save", full)
    life = Life("root", shelf, Events())
    with pytest.raises(SystemFault):
        await getattr(life, verb)(live)
    assert (record.status, record.saved) == (status, "")
    assert monitor.goes_on == (status == RUNNING)
    assert sorted(os.listdir(places.state)) == ["disks", "states"]


WARNED = "2026-11-29T15:52:15.1Z qemu-system-x86_64: warning: TCG doesn't support this\n"
ENDED = "2026-11-29T15:52:15.7Z qemu-system-x86_64: -device ide-cd: no room\n"
HELPER = "fuse: unknown option\nvirtio_loop: Exit\n"


def test_qemu_itself_is_heard_before_its_helpers() -> None:
    assert last_complaint(HELPER + ENDED + WARNED + HELPER) == (
        "qemu-system-x86_64: -device ide-cd: no room"
    )
    assert last_complaint(WARNED + HELPER) == "virtio_loop: Exit"
    assert last_complaint(WARNED) == last_complaint("") == "it said nothing"
