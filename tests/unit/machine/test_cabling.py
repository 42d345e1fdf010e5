"""Which port a machine's card goes to, and in what order cards are plugged in."""

import os
from typing import Any, cast

import pytest

from skerry.base.errors import Conflict
from skerry.machine import cabling, splice
from skerry.machine.hypervisor import Hypervisor


class FakeMonitor:
    def __init__(self) -> None:
        self.added: list[dict[str, Any]] = []

    def give_fd(self, name: str, fd: int) -> None:
        """Nothing to do."""

    def execute(self, command: str, **arguments: Any) -> None:
        if command == "device_add":
            self.added.append(arguments)


class FakeMachine:
    def __init__(self) -> None:
        self.monitor = FakeMonitor()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setattr(cabling, "open_tap", lambda _: os.open(os.devnull, os.O_RDONLY))
    return FakeMachine()


def plugged(machine: FakeMachine, numbers: range) -> list[tuple[str, str, bool]]:
    cabling.plug_cards(cast(Hypervisor, machine), numbers)
    return [(each["bus"], each["addr"], each["multifunction"]) for each in machine.monitor.added]


def test_few_cards_have_a_port_each(machine: FakeMachine) -> None:
    found = plugged(machine, range(1, cabling.LATER_CARDS))
    assert sorted(found) == [(f"port{port}", "0.0", False) for port in range(4)]


def test_the_first_function_of_a_port_comes_last(machine: FakeMachine) -> None:
    found = plugged(machine, range(1, 7))
    assert len(found) == 6
    assert [each for each in found if each[0] == "port0"] == [
        ("port0", "0.1", False),
        ("port0", "0.0", True),
    ]
    assert ("port2", "0.0", False) in found


def test_every_card_has_a_place_and_an_address_of_its_own(machine: FakeMachine) -> None:
    places = [cabling.place_of(at) for at in range(1, cabling.MOST_CARDS)]
    assert len(set(places)) == cabling.MOST_CARDS - 1
    assert {port for port, _ in places} == set(range(4))
    assert {function for _, function in places} == set(range(8))
    assert len({cabling.slot_of(at) for at in range(cabling.MOST_CARDS)}) == cabling.MOST_CARDS


def test_too_many_are_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "cards", lambda: [{}] * (cabling.MOST_CARDS + 1))
    with pytest.raises(Conflict, match="at most 33 networks, not 34"):
        cabling.cards_here()
