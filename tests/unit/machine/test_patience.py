"""A busy host is no guest's fault."""

import os
from pathlib import Path

from skerry.machine.patience import Patience, waited


class Host:
    """A clock, and what a guest's threads have waited for a processor."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waited = {"1": 7.0}
        self.asked = 0

    def look(self) -> dict[str, float]:
        self.asked += 1
        return dict(self.waited)


def test_an_idle_host_gives_no_more_time() -> None:
    host = Host()
    patience = Patience(10, 60, host.look, lambda: host.now)
    host.now += 9.9
    assert not patience.over()
    assert host.asked == 1  # Nobody looks before it matters.
    host.now += 0.1
    assert patience.over()


def test_what_the_host_took_is_added_up_to_the_most() -> None:
    host = Host()
    patience = Patience(10, 60, host.look, lambda: host.now)
    host.now += 10
    host.waited = {"1": 15.0, "2": 3.0}
    assert not patience.over()
    host.now += 7.9
    assert not patience.over()
    host.waited = {"2": 12.0}  # The other has ended: what it waited is forgotten.
    host.now += 0.2
    assert not patience.over()
    host.waited = {"1": 1000.0}
    host.now += 30
    assert not patience.over()
    host.now += 12
    assert patience.over()


def test_a_guest_that_runs_and_says_nothing_has_its_own_time_only() -> None:
    host = Host()
    patience = Patience(10, 60, host.look, lambda: host.now)
    for _ in range(99):
        host.now += 0.1
        assert not patience.over()
    host.waited["1"] += 0.05
    host.now += 0.2
    assert patience.over()


def test_the_kernels_table_is_read(tmp_path: Path) -> None:
    assert set(waited(os.getpid())) >= {str(os.getpid())} or not waited(os.getpid())
    for number, text in {"11": "5 2500000000 9\n", "12": "", "13": "1 x 2\n"}.items():
        folder = tmp_path / "7" / "task" / number
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(text)
    assert waited(7, str(tmp_path)) == {"11": 2.5}
    assert waited(8, str(tmp_path)) == {}
