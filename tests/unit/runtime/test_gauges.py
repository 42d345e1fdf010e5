"""Files of containers' statistics, open while somebody watches."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.kernel import cgroups_files
from skerry.runtime.driver import gauges
from skerry.runtime.driver.gauges import Gauges

PATIENCE = 30


async def test_files_are_closed_when_nobody_reads_any_more(
    tmp_path: Path, open_descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "IDLE", 0.01)
    (tmp_path / "usage").write_text("1")
    before = open_descriptors()
    watched = Gauges()
    assert watched.of("one")(str(tmp_path / "usage"), str) == "1"
    assert open_descriptors() == before + 1
    async with asyncio.timeout(PATIENCE):
        while open_descriptors() > before:
            await asyncio.sleep(0.01)
    assert watched.of("one")(str(tmp_path / "usage"), str) == "1", "and are opened again"
    watched.close()
    assert open_descriptors() == before


async def test_the_end_of_a_container_closes_its_files(
    tmp_path: Path, open_descriptors: Callable[[], int]
) -> None:
    (tmp_path / "usage").write_text("1")
    before = open_descriptors()
    watched = Gauges()
    for name in ("one", "two"):
        watched.of(name)(str(tmp_path / "usage"), str)
    watched.forget("one")
    watched.forget("one")
    assert open_descriptors() == before + 1
    watched.close()
    assert open_descriptors() == before


async def test_descriptors_are_left_for_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 64))
    watched = Gauges()
    first, second, third = (watched.of(name) for name in ("one", "two", "three"))
    assert first != cgroups_files.parsed
    assert second != cgroups_files.parsed
    assert third == cgroups_files.parsed
    watched.close()
