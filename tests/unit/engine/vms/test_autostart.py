"""Who starts with the host: in order, once a boot, whatever happens to the engine meanwhile."""

import asyncio
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, InvalidInput, NotModified
from skerry.base.settings import Settings
from skerry.engine.events import Events
from skerry.engine.vms import autostart
from skerry.engine.vms.autostart import Autostart, Turns
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full.spec import Hardware
from skerry.store.records import Records


class Lives(Life):
    """Writes down whom it starts; `bad` cannot be, `on` is already."""

    started: list[str]

    async def start(self, live: Live) -> None:
        self.started.append(live.record.name)
        if live.record.name == "bad":
            raise Conflict("port 80 is taken", hint="choose another")
        if live.record.name == "on":
            raise NotModified("it runs")


def machine(shelf: Shelf, at: int, name: str, order: int = 0, *, wanted: bool = True) -> Live:
    record = Machine(f"{at:064}", name, 0, at, Hardware(uuid="u"), autostart=wanted)
    record.autostart_order = order
    return shelf.add(record)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(str(tmp_path / "root"), str(tmp_path / "run"), "unix:///none")


@pytest.fixture
def shelf(settings: Settings, tmp_path: Path) -> Shelf:
    return Shelf(settings, Records(str(tmp_path / "db")))


async def run(settings: Settings, shelf: Shelf) -> list[str]:
    """One engine's whole autostart: the names in the order of their start."""
    life = Lives("root", shelf, Events())
    life.started = []
    service = Autostart(settings, shelf, life)
    service.begin()
    if service._task is not None:
        await service._task
    await service.end()
    return life.started


async def test_by_order_then_age_and_once_a_boot(settings: Settings, shelf: Shelf) -> None:
    machine(shelf, 1, "late", 5)
    machine(shelf, 2, "never", wanted=False)
    bad = machine(shelf, 3, "bad", -1)
    machine(shelf, 4, "older")
    machine(shelf, 5, "on")
    machine(shelf, 6, "runs").process = (1, 1)  # type: ignore[assignment]
    assert await run(settings, shelf) == ["bad", "older", "on", "late"]
    assert bad.record.cause == "autostart failed: port 80 is taken"
    assert await run(settings, shelf) == []


async def test_the_next_engine_goes_on(settings: Settings, shelf: Shelf, tmp_path: Path) -> None:
    for at, name in enumerate(("first", "second", "third")):
        machine(shelf, at, name)
    (tmp_path / "run/vms").mkdir(parents=True)
    path = str(tmp_path / "run/vms/autostarted")
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    Turns(path, boot).take(f"{0:064}")
    assert await run(settings, shelf) == ["second", "third"]
    Turns(path, "another boot").finish()
    assert await run(settings, shelf) == ["first", "second", "third"]
    Path(path).write_text("[1")
    assert await run(settings, shelf) == ["first", "second", "third"]


async def test_an_engine_that_ends_starts_no_more(settings: Settings, shelf: Shelf) -> None:
    machine(shelf, 1, "waits").record.autostart_delay = 3000
    life = Lives("root", shelf, Events())
    life.started = []
    service = Autostart(settings, shelf, life)
    service.begin()
    await asyncio.sleep(0)
    await service.end()
    assert life.started == []
    shelf.get("waits").record.autostart_delay = 0
    assert await run(settings, shelf) == ["waits"]


@pytest.mark.parametrize(("order", "delay"), [(0, -1), (0, 3601), (1_000_001, 0)])
def test_what_is_no_order_or_delay(order: int, delay: int) -> None:
    record = Machine("a", "box", 0, 0, Hardware(uuid="u"))
    record.autostart_order, record.autostart_delay = order, delay
    with pytest.raises(InvalidInput, match="autostart"):
        autostart.check(record)
