"""A machine's network cards, and the interfaces of its container's namespace that they are joined
to. Whoever makes taps is in that namespace for good."""

import os
import socket

from skerry.base.errors import Conflict
from skerry.base.light import Any
from skerry.kernel import namespaces
from skerry.machine import hypervisor, qemu, splice
from skerry.machine.tap import open_tap

SHARES_PORT = f"port{qemu.PORTS - 1}"
_PORTS, _FUNCTIONS = qemu.PORTS - 2, 8
"""The last two ports are those of memory (`room`) and shares."""
LATER_CARDS = 1 + _PORTS
"""How many there can be, one after the other: the first is in no port."""
MOST_CARDS = 1 + _PORTS * _FUNCTIONS
"""How many there can be at once, as functions of the devices in the ports: each further port takes
a template's boot a thirtieth longer under TCG."""


class Cards:
    """Which card leads where. `told` is what the guest is told of them."""

    def __init__(
        self, machine: hypervisor.Hypervisor, cards: list[dict[str, Any]], plugged: int
    ) -> None:
        """`cards` are joined in their order; `plugged` is how many the machine has."""
        self.told = cards
        self._machine = machine
        self._plugged = max(plugged, len(cards))
        self._joined = {at: index_of(card) for at, card in enumerate(cards)}
        """Which interface each card is joined to."""

    def rewire(self) -> list[dict[str, Any]]:
        """Join cards to the interfaces that the container has by now, and return those cards. One
        whose interface has gone stays, for the next: those of a machine are its first ports."""
        found = {index_of(card): card for card in splice.cards()}
        self._joined = {at: index for at, index in self._joined.items() if index in found}
        for index in found.keys() - self._joined.values():
            at = next(at for at in range(len(self._joined) + 1) if at not in self._joined)
            if at >= (most := max(LATER_CARDS, self._plugged)):
                raise Conflict(
                    f"a machine that was started with fewer has at most {most} networks",
                    hint=f"stop it first: from its start it can have {MOST_CARDS}",
                )
            if at >= self._plugged:
                plug_cards(self._machine, range(self._plugged, at + 1))
                self._plugged = at + 1
            splice.part(tap_of(at))
            splice.join(found[index]["name"], tap_of(at))
            self._joined[at] = index
        self.told = [
            {**found[index], "slot": slot_of(at)} for at, index in sorted(self._joined.items())
        ]
        return self.told


def enter_network(path: str) -> None:
    """Join the container's network namespace for good, or make an empty one: taps are made there,
    and the resolver is asked there."""
    if path:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.FLAGS["network"], path)
        os.close(fd)
    else:
        namespaces.unshare(namespaces.FLAGS["network"])


def cards_here() -> list[dict[str, Any]]:
    """The cards for the network namespace that the caller is in, with their slots."""
    found = [{**card, "slot": slot_of(at)} for at, card in enumerate(splice.cards())]
    if len(found) > MOST_CARDS:
        raise Conflict(f"a machine has at most {MOST_CARDS} networks, not {len(found)}")
    return found


def join_cards(machine: hypervisor.Hypervisor, cards: list[dict[str, Any]], *, first: int) -> None:
    """Plug in the cards from number `first` on, and join all with the taps."""
    plug_cards(machine, range(first, len(cards)))
    for number, card in enumerate(cards):
        splice.join(card["name"], tap_of(number))


def plug_cards(machine: hypervisor.Hypervisor, numbers: range) -> None:
    """Plug in cards beside the first, which the template has.

    The guest looks at a port when function 0 comes, which is the last of a device."""
    for at in reversed(numbers):
        port, function = place_of(at)
        several = function == 0 and at + _PORTS in numbers
        tap = tap_of(at)
        fd = open_tap(tap)
        machine.monitor.give_fd(tap, fd)
        os.close(fd)
        machine.monitor.execute("netdev_add", type="tap", id=f"net{at}", fd=tap)
        machine.monitor.execute(
            "device_add", driver="virtio-net-pci", id=f"card{at}", netdev=f"net{at}",
            mac=slot_of(at), romfile="",
            bus=f"port{port}", addr=f"0.{function}", multifunction=several,
        )  # fmt: skip


def place_of(number: int) -> tuple[int, int]:
    """The port of a card but the first, and its function there."""
    function, port = divmod(number - 1, _PORTS)
    return port, function


def index_of(card: dict[str, Any]) -> int:
    """The interface of this namespace that it is the card for."""
    return socket.if_nametoindex(card["name"])


def tap_of(number: int) -> str:
    """The name of a card's far end."""
    return f"skerry-tap{number}"


def slot_of(number: int) -> str:
    """The address that a card boots with, by which the guest finds it."""
    return f"{qemu.SLOT_MAC[:-2]}{0x56 + number:02x}"
