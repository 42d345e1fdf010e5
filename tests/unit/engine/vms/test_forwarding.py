"""Ports that a running QEMU takes on and lets go."""

import pytest

from skerry.base.errors import Conflict
from skerry.engine.vms import forwarding
from skerry.engine.vms.forwarding import Rule
from skerry.machine.full.spec import Forward, Hardware, Nic

HARDWARE = Hardware(
    uuid="u",
    nics=(
        Nic("none", "52:54:00:00:00:01"),
        Nic("nat", "52:54:00:00:00:02", forwards=(Forward(80, 80), Forward(8080, 80))),
    ),
)
USERNET = """Hub -1 (n1):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 {0}       10.0.2.15    80     0     0
  UDP[HOST_FORWARD]  13               *    53       10.0.2.15    53     0     0
  TCP[ESTABLISHED]   20       10.0.2.15 41000         1.2.3.4    80     0     0
Hub -1 (n2):
  TCP[HOST_FORWARD]  14       127.0.0.1  9999       10.0.2.15    99     0     0
"""
SIGNS = {"hostfwd_add": "+", "hostfwd_remove": "-"}


class Monitor:
    """QEMU's human monitor; `refuses` is a port that it cannot have."""

    def __init__(self, usernet: str = "", refuses: str = "none") -> None:
        self.done: list[str] = []
        self._usernet, self._refuses = usernet, refuses

    async def human(self, line: str) -> str:
        if line == "info usernet":
            return self._usernet
        word, card, rule = line.split()
        self.done.append(f"{SIGNS[word]}{card} {rule}")
        if word == "hostfwd_add" and self._refuses in rule:
            return f"Could not set up host forwarding rule '{rule}'\r\n"
        return "host forwarding rule for … removed\r\n" if word == "hostfwd_remove" else ""


def rule(port: int) -> Rule:
    return Rule("n1", "tcp", "127.0.0.1", port, 80)


def test_what_qemu_lists_is_read() -> None:
    assert forwarding.present(USERNET.format(25001)) == {
        rule(25001),
        Rule("n1", "udp", "0.0.0.0", 53, 53),
        Rule("n2", "tcp", "127.0.0.1", 9999, 99),
    }
    assert forwarding.present("nonsense [HOST_FORWARD] 1 2 3") == set()


async def test_an_engine_that_was_killed_tells_the_rest() -> None:
    monitor = Monitor(USERNET.format(25001))
    await forwarding.settle(monitor, HARDWARE, detoured=True)  # type: ignore[arg-type]
    strangers = ["-n1 udp:0.0.0.0:53", "-n2 tcp:127.0.0.1:9999"]
    assert monitor.done == [*strangers, "+n1 tcp:127.0.0.1:8080-:80"]
    monitor = Monitor(USERNET.format(8080))
    await forwarding.settle(monitor, HARDWARE, detoured=False)  # type: ignore[arg-type]
    assert monitor.done == [*strangers, "+n1 tcp:127.0.0.1:80-:80"]


async def test_what_qemu_refuses_leaves_all_as_it_was() -> None:
    monitor = Monitor(refuses=":9002")
    with pytest.raises(Conflict, match="refused hostfwd_add n1 tcp:"):
        await forwarding.exchange(
            monitor,  # type: ignore[arg-type]
            [rule(9000)],
            [rule(9001), rule(9002)],
        )
    places = [f"n1 tcp:127.0.0.1:{port}" for port in (9000, 9001, 9002)]
    assert monitor.done == [
        *(f"-{places[0]}", f"+{places[1]}-:80", f"+{places[2]}-:80"),
        *(f"-{places[1]}", f"+{places[0]}-:80"),
    ]


def test_low_ports_need_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding.detours, "first_free", lambda: 1024)
    forwarding.check_reachable([rule(1024)])
    with pytest.raises(Conflict, match="port 1023/tcp is below 1024"):
        forwarding.check_reachable([rule(1023)])
