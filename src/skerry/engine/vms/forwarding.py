"""Forwarded ports of a machine that runs: QEMU's user network takes them on and lets them go.

The record is saved first, then QEMU is told; an engine that was killed in between tells it after
its next start (`settle`). Ports that lead through a detour (`machine.full.detours`) stand in a
packet filter that is made when QEMU starts, so they come and go while the machine is off.

Source: QEMU's hmp-commands.hx, `hostfwd_add`; net/slirp.c, `info usernet`.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from skerry.base.errors import Conflict
from skerry.machine.full import detours
from skerry.machine.full.monitor import Monitor
from skerry.machine.full.spec import Forward, Hardware

_CARD = re.compile(r"\((n[0-9]{1,2})\):")
_RULE = re.compile(
    r"(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+([0-9.*]+)\s+(\d{1,5})\s+[0-9.]+\s+(\d{1,5})\s"
)


class Rule(NamedTuple):
    """A port of the host that a network card of QEMU's listens at."""

    card: str
    protocol: str
    host_ip: str
    host_port: int
    guest_port: int

    def place(self) -> str:
        """As `hostfwd_remove` takes it."""
        return f"{self.card} {self.protocol}:{self.host_ip}:{self.host_port}"


def wanted(hardware: Hardware) -> set[Rule]:
    """All that the hardware says."""
    return {_rule(f"n{at}", each) for at, nic in enumerate(hardware.nics) for each in nic.forwards}


def _rule(card: str, each: Forward) -> Rule:
    return Rule(card, each.protocol, each.host_ip, each.host_port, each.guest_port)


def present(usernet: str) -> set[Rule]:
    """What `info usernet` lists."""
    found, card = set(), ""
    for line in usernet.splitlines():
        if title := _CARD.search(line):
            card = title[1]
        elif rule := _RULE.search(line):
            address = detours.ANY if rule[2] == "*" else rule[2]
            found.add(Rule(card, rule[1].lower(), address, int(rule[3]), int(rule[4])))
    return found


def check_reachable(rules: Iterable[Rule]) -> None:
    """Conflict when one of them needs a detour."""
    limit = detours.first_free()
    for each in rules:
        if each.host_port < limit:
            raise Conflict(
                f"port {each.host_port}/{each.protocol} is below {limit}: forwarding it, or no "
                "more, needs the machine off"
            )


async def exchange(monitor: Monitor, gone: Iterable[Rule], come: Iterable[Rule]) -> None:
    """Let some ports go and take others on; Conflict with QEMU's reason, and all is as before."""
    removed, added = [], []
    try:
        for each in sorted(gone):
            await _tell(monitor, f"hostfwd_remove {each.place()}")
            removed.append(each)
        for each in sorted(come):
            await _tell(monitor, f"hostfwd_add {each.place()}-:{each.guest_port}")
            added.append(each)
    except Conflict:
        for each in added:
            await monitor.human(f"hostfwd_remove {each.place()}")
        for each in removed:
            await monitor.human(f"hostfwd_add {each.place()}-:{each.guest_port}")
        raise


async def _tell(monitor: Monitor, line: str) -> None:
    said = (await monitor.human(line)).strip()
    if said and " removed" not in said:
        raise Conflict(f"QEMU refused {line}: {said:.200}")


async def settle(monitor: Monitor, hardware: Hardware, *, detoured: bool) -> None:
    """Make QEMU's ports those of the hardware. `detoured`: low ones lead through others, which
    look like strangers here."""
    limit = detours.first_free() if detoured else 0
    low = {each for each in wanted(hardware) if each.host_port < limit}
    theirs = {(each.card, each.protocol, each.host_ip, each.guest_port) for each in low}
    have, want = present(await monitor.human("info usernet")), wanted(hardware) - low
    strangers = {
        each
        for each in have - want
        if (each.card, each.protocol, each.host_ip, each.guest_port) not in theirs
    }
    await exchange(monitor, strangers, want - have)
