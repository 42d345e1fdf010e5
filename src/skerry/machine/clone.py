"""A clone: QEMU on a template's memory, with a container's disks and cards."""

import os
import secrets
import time

from skerry.base.light import Any, NamedTuple
from skerry.machine import cabling, hypervisor, orderly, qemu, room, shares, template
from skerry.machine.conf import Conf
from skerry.machine.memory import copy_extents
from skerry.machine.qemu import Accel
from skerry.machine.shape import Shape
from skerry.machine.stream import cards as saved_cards
from skerry.machine.stream import read as read_state
from skerry.machine.tap import open_tap


class Cloned(NamedTuple):
    """A machine that runs, its own memory if it has such and with shares its virtiofsd (else -1),
    how many cards it has from the file, and the file of memory that was plugged in (else -1)."""

    machine: hypervisor.Hypervisor
    ram: int
    sharer: int
    cards: int
    more: int = -1


def clone(conf: Conf, cards: list[dict[str, Any]]) -> Cloned:
    """Start QEMU on the template's memory and this container's disks, its cards joined to those of
    the network namespace that the caller is in; the guest runs on return."""
    fds: list[int] = []
    names: list[str] = []
    own, sharer, more = -1, -1, -1

    def give(name: str, fd: int) -> None:
        names.append(name)
        fds.append(fd)

    try:
        ram = os.open(conf.ram, os.O_RDWR | os.O_CLOEXEC)
        is_own = conf.own or bool(conf.shares)
        give("ram", own_memory(ram, conf.shape[0]) if is_own else ram)
        own = os.dup(fds[-1]) if is_own else -1
        give("tap", open_tap(cabling.tap_of(0)))
        give("state", os.open(conf.state, os.O_RDONLY | os.O_CLOEXEC))
        opened: list[int] = []
        try:
            disks = open_disks(conf, opened)
        finally:
            for fd in opened:
                give(f"disk{fd}", fd)
        lines = hypervisor.numbers(names)
        at = lines.more
        found = qemu.Disks(
            at.get(f"disk{disks.layers}", -1),
            at[f"disk{disks.writable}"],
            at.get(f"disk{disks.blank}", -1),
            tuple(at[f"disk{fd}"] for fd in disks.below),
        )
        arguments = [
            *template.devices(
                lines, Shape(*conf.shape), Accel(*conf.accel),
                ram=at["ram"], share=is_own, tap=at["tap"],
                room=room.ROOM,
            ),
            *qemu.disks(found),
            *qemu.INCOMING,
        ]  # fmt: skip
        machine = hypervisor.start(arguments, fds, id_=conf.id, root=conf.jail)
    finally:
        for fd in fds:
            os.close(fd)
    try:
        monitor = machine.monitor
        capabilities = [{"capability": "x-ignore-shared", "state": True}]
        monitor.execute("migrate-set-capabilities", capabilities=capabilities)
        # Nobody knew the addresses that the card was frozen with: it is given others at once.
        monitor.execute("migrate-set-parameters", **{"announce-rounds": 0})
        saved = 0
        if conf.saved:
            with open(conf.state, "rb") as file:
                saved = saved_cards(read_state(file.fileno()), cabling.MOST_CARDS)
            cabling.plug_cards(machine, range(1, saved))
        if conf.more:
            with open(conf.ram, "rb") as file:
                more = room.plug(monitor, file.fileno(), conf.shape[0], conf.more)
        monitor.execute("migrate-incoming", uri=f"fd:{at['state']}")
        template.await_migration(machine)
        cabling.join_cards(machine, cards, first=max(saved, 1))
        if conf.shares:
            sharer = shares.plug(monitor, conf.shares, conf.run_dir, cabling.SHARES_PORT)
        monitor.execute("cont")
    except BaseException:
        machine.end()
        raise
    return Cloned(machine, own, sharer, max(saved, 1), more)


def open_disks(conf: Conf, opened: list[int]) -> qemu.Disks:
    """A container's disks; descriptors are added to `opened` as they come, and the caller's."""

    def take(path: str, flags: int) -> int:
        opened.append(os.open(path, flags | os.O_CLOEXEC))
        return opened[-1]

    writable = take(conf.writable, os.O_RDWR | os.O_NOFOLLOW)
    orderly.mark(writable)
    blank = take(conf.blank, os.O_RDONLY) if conf.blank else -1
    below = tuple(take(path, os.O_RDONLY | os.O_NOFOLLOW) for path in conf.below)
    layers = take(conf.layers, os.O_RDONLY) if conf.layers else -1
    return qemu.Disks(layers, writable, blank, below)


def own_memory(ram: int, size: int) -> int:
    """A copy of the template's memory that can be shared with others; `ram` is closed."""
    copy = os.memfd_create("skerry-ram", os.MFD_CLOEXEC)
    try:
        os.ftruncate(copy, size)
        copy_extents(ram, copy, size)
    finally:
        os.close(ram)
    return copy


def identity(hostname: str) -> dict[str, Any]:
    """What a clone must not share with another; `seed` is 64 bytes of the host's randomness."""
    return {"seed": secrets.token_hex(64), "time_ns": time.time_ns(), "hostname": hostname}
