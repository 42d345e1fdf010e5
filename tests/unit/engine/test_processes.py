"""The host's processor time, read once for many."""

import pytest

from skerry.engine import processes
from skerry.engine.processes import CpuTime, HostClock


def test_readers_at_the_same_time_share_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    taken: list[CpuTime] = []

    def take() -> CpuTime:
        taken.append(CpuTime(len(taken), 2))
        return taken[-1]

    monkeypatch.setattr(processes, "host_cpu", take)
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    clock = HostClock()
    assert clock.now() is clock.now()
    now[0] += processes.SHARED * 2
    assert clock.now() == CpuTime(1, 2)
    assert len(taken) == 2


def test_the_host_has_processors() -> None:
    found = processes.host_cpu()
    assert found.total_ns > 0
    assert found.online >= 1
