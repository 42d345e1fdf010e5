"""Fixtures of the machines' tests."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import footprint
from bench.daemons import Skerry
from tests.kernel.machines import media
from tests.kernel.machines.commands import Machines


@pytest.fixture(scope="session")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc (and disk) with the tiny guest."""
    try:
        return media.hybrid(tmp_path_factory.mktemp("medium"))
    except (RuntimeError, FileNotFoundError) as error:
        pytest.skip(str(error))


def remains(machines: Machines, before: footprint.Footprint) -> list[str]:
    """What is there now and was not before, the engine itself apart: it may be a later one."""
    engine = machines.engine
    deadline = time.monotonic() + 10
    while True:
        now = footprint.take(engine.folders, [engine.run_root])
        left = [
            line
            for line in now.beyond(before)
            if "autostarted" not in line and " -m skerry engine" not in line
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


@pytest.fixture
def vm(own_engine: Skerry) -> Iterator[Machines]:
    """An engine's machines; nothing of them is left afterwards."""
    before = footprint.take(own_engine.folders, [own_engine.run_root])
    machines = Machines(own_engine)
    yield machines
    names = machines("ls", "--format", "{{.Name}}").split()
    if names:
        machines("rm", "-f", *names)
    left = remains(machines, before)
    assert not left, "left behind:\n" + "\n".join(left)
    assert os.listdir(own_engine.root / "vms") == []
