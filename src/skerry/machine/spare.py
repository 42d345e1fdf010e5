"""A spare machine: a clone that has rehearsed a start and stands still until a container gets it.

Theory. Two processes and QEMU, all children of one another, as of a container that runs:

    spare      a keeper to be, forked by the spawner when the engine asks for a spare
      │
    warden     clones the template, rehearses (`rehearsal`), stops the machine, waits
      │
    QEMU       does nothing: its processors stand

To give it a container the engine sends the spare the very request that the spawner would get. The
spare has the machine go on; if its agent answers soon, the spare becomes the container's keeper and
its starter hands streams and plan to the warden, which takes the machine over: control group,
network, disks. Else the warden is killed, and the keeper starts a machine as ever.

Nothing outlives its purpose: the warden is killed with the spare and QEMU with the warden; the
spare goes when its engine's end of the socket closes, and takes folder and control group along.
While it waits it holds the lock of a run directory of its own, by which the next engine finds what
a spare that was killed has left. Once it has a request that lock is free, or the engine that swept
the directory would kill a container's keeper.

A spare is used once. Its seed is fresh from the host when it rehearses and again when it is given
away, so what two of them draw differs (`identity`).

One for containers with volumes runs on its own copy of the memory, which a virtiofsd can map, and
has rehearsed with a folder plugged in. Any container can have it.

Its control group has next to no claim on the processors, so that it is made beside other work.
"""

import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import NamedTuple

from skerry.base.errors import SkerryError, Unavailable
from skerry.kernel import cgroups, netlink
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.namespaces import FLAGS, open_namespace
from skerry.kernel.syscalls import libc
from skerry.machine import (
    cabling,
    daemon,
    hypervisor,
    orderly,
    qemu,
    rehearsal,
    shares,
    template,
    warden,
)
from skerry.machine.channel import wait_readable
from skerry.machine.clone import Cloned, clone, identity, open_disks
from skerry.machine.conf import Conf, unpack
from skerry.runtime import rundir, wire
from skerry.runtime.starter import Ends

DISK, JAIL, EXPORT = "disk.qcow2", "jail", "export"
WAKE_SECONDS = 3.0
"""Within which a spare's agent has to answer before another machine is started."""
GIVEN_BACK = b"~"
"""What a warden reports that cannot use its machine, before its guest was asked for anything."""
_MARK = "-0"
"""Of nodes that come in the place of the rehearsal's."""
_FIRST_SET = 50
"""Numbers of sets of descriptors that neither a clone's start (from 1) nor a saving takes."""
_LOST = 255
# linux/prctl.h
_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1
# linux/rtnetlink.h, linux/if_link.h
_RTM_NEWLINK, _IFLA_NET_NS_FD = 16, 28


class Spare(NamedTuple):
    """A waiting warden, and what is to be removed once it has a container."""

    pid: int
    sock: socket.socket
    run_dir: str
    group: Cgroup

    def adopt(self, body: bytes, ends: Ends) -> int:
        """Hand over a container (`conf.pack`); where the warden reports, as to
        `warden.keep`."""
        listening, telling = os.pipe2(os.O_CLOEXEC)
        try:
            given = [fd for fd in ends if fd >= 0]
            wire.send(self.sock, {"ends": [fd >= 0 for fd in ends]}, body, (telling, *given))
        except OSError:
            os.close(listening)
            raise Unavailable("the spare machine's warden has gone") from None
        finally:
            os.close(telling)
        return listening

    def clear(self) -> None:
        """Remove what was the spare's own; whoever is still in its group has no container."""
        self.sock.close()
        _clear(self.run_dir, self.group)

    def kill(self) -> None:
        """End the warden, and the machine with it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        # A keeper to be is given its children's children: QEMU, which dies with the warden.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _clear(run_dir: str, group: Cgroup) -> None:
    with suppress(SkerryError):
        if group.exists():
            group.kill_all()
            group.remove()
    for folder in (JAIL, EXPORT, shares.ROOT):
        with suppress(OSError):
            os.rmdir(os.path.join(run_dir, folder))
    with suppress(SkerryError, OSError):
        rundir.remove(run_dir, DISK, rundir.PID)
        os.rmdir(run_dir)


def stand_by(
    datagram: bytes, fds: tuple[int, ...], layout: Layout
) -> tuple[Spare | None, bytes, tuple[int, ...]] | None:
    """The spare's life until it has a container's request, which is returned with the machine, if
    that answers. None when there is nothing to keep: the engine has gone, or the machine has.

    `datagram` asks for it: `run_dir`, `cgroup`, `limits`; the body is `conf.pack`'s, of the
    rehearsal.
    """
    libc.prctl(_PR_SET_NAME, b"skerry-spare", 0, 0, 0)
    engine = socket.socket(fileno=os.dup(fds[0]))
    message = wire.unpack(datagram, list(fds))
    for fd in message.fds:
        os.close(fd)
    head, run_dir = message.head, str(message.head["run_dir"])
    lock = -1
    group = Cgroup(str(head["cgroup"]), layout)
    spare: Spare | None = None
    given: tuple[bytes, list[int]] = (b"", [])
    try:
        if head.get("version") != wire.VERSION:
            raise Unavailable("skerry was replaced while the engine ran")
        lock = rundir.take_lock(run_dir, os.getpid())
        group.create(cgroups.plan(group.path, head["limits"], layout, devices=False))
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                _wait_for_container(message.body, theirs, group, os.getppid())
            finally:
                os._exit(_LOST)
        theirs.close()
        spare = Spare(pid, mine, run_dir, group)
        given = _await_request(engine, mine)
    except SkerryError as error:
        with suppress(OSError):
            wire.send(engine, {"event": "failed", "error": wire.error_to_wire(error)})
    if lock >= 0:
        os.close(lock)
    engine.close()
    datagram, received = given
    if not datagram or spare is None:
        if spare is not None:
            spare.kill()
            spare.clear()
        else:
            _clear(run_dir, group)
        return None
    if not _answers(spare):
        spare.kill()
        spare.clear()
        spare = None
    return spare, datagram, tuple(received)


def _await_request(engine: socket.socket, warden_: socket.socket) -> tuple[bytes, list[int]]:
    """Tell the engine how the warden gets on, until it sends a request; empty when it has gone.
    Unavailable when the warden has."""
    poll = select.poll()
    for sock in (engine, warden_):
        poll.register(sock, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if warden_.fileno() in ready:
            said, _ = wire.receive_datagram(warden_)
            if not said:
                raise Unavailable("the spare machine has ended")
            with suppress(OSError):
                engine.send(said, socket.MSG_NOSIGNAL)
        if engine.fileno() in ready:
            try:
                return wire.receive_datagram(engine)
            except OSError:
                return b"", []


def _answers(spare: Spare) -> bool:
    """Have the machine go on; whether its agent says something soon."""
    with suppress(OSError, SkerryError):
        wire.send(spare.sock, {"op": "wake"})
        if wait_readable(spare.sock.fileno(), WAKE_SECONDS):
            message = wire.receive(spare.sock)
            return message is not None and message.head.get("event") == "awake"
    return False


# The warden


def _wait_for_container(body: bytes, sock: socket.socket, group: Cgroup, parent: int) -> None:
    """Its process, from its fork to its end; never returns."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    # The descriptors below are those that it keeps from others.
    high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
    sock.close()
    sock = socket.socket(fileno=high)
    none = Ends(-1, -1, -1, -1)
    daemon.become_daemon(none, high)
    conf, plan = unpack(body)
    try:
        group.join_self()
        cabling.enter_network("")
        machine = clone(conf, [])
        try:
            talk = template.Talk(machine.machine)
            rehearsal.rehearse(talk, plan, identity(""), shares=bool(conf.shares))
            talk.close()
            if machine.sharer >= 0:
                shares.unplug(machine.machine.monitor, machine.sharer)
                machine = machine._replace(sharer=-1)
            machine.machine.monitor.execute("stop")
        except BaseException:
            machine.machine.end()
            raise
        _leave_no_files(conf)
    except BaseException as error:
        wire.send(sock, {"event": "failed", "error": wire.error_to_wire(error)})
        return
    wire.send(sock, {"event": "ready", "qemu": machine.machine.pid})
    while (message := _next(sock, machine.machine)) is not None:
        if message.head.get("op") == "wake":
            _wake(machine.machine)
            wire.send(sock, {"event": "awake"})
            continue
        telling, *fds = message.fds
        rest = iter(fds)
        ends = Ends(*(next(rest) if there else -1 for there in message.head["ends"]))
        sock.close()
        _take_over(message.body, ends, telling, machine, group.layout)
    machine.machine.end()


def _next(sock: socket.socket, machine: hypervisor.Hypervisor) -> wire.Message | None:
    """What the spare asks for; None when that has gone, or QEMU has."""
    poll = select.poll()
    for fd in (sock.fileno(), machine.pidfd):
        poll.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll()}
    return None if machine.pidfd in ready else wire.receive(sock)


def _leave_no_files(conf: Conf) -> None:
    """QEMU has them open."""
    orderly.close(conf.writable)
    with suppress(OSError):
        os.unlink(conf.writable)
        os.rmdir(conf.jail)


def _wake(machine: hypervisor.Hypervisor) -> None:
    machine.monitor.execute("cont", seconds=WAKE_SECONDS)
    talk = template.Talk(machine)
    talk.ask("clock", seconds=WAKE_SECONDS, time_ns=time.time_ns())
    talk.close()


def _take_over(body: bytes, ends: Ends, report: int, cloned: Cloned, layout: Layout) -> None:
    """Make the machine a container's, and live with it."""
    conf, plan = unpack(body)
    machine = cloned.machine
    try:
        group = Cgroup(conf.cgroup, layout)
        group.join(machine.pid)
        group.join_self()
        _enter_network(conf.network)
        cards = cabling.cards_here()
        cabling.join_cards(machine, cards, first=1)
        disk = _exchange_disks(machine, conf)
        if conf.shares:
            sharer = shares.plug(machine.monitor, conf.shares, conf.run_dir, cabling.SHARES_PORT)
            cloned = cloned._replace(sharer=sharer)
        made = warden.Warden(conf, cloned, cards, disk)
    except BaseException:
        machine.end()
        os.write(report, GIVEN_BACK)
        os._exit(_LOST)
    libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    warden.live(made, plan, ends, report)


def _enter_network(path: str) -> None:
    """Join a namespace for good, and take the first card's tap along."""
    if not path:
        return
    there = open_namespace(path, FLAGS["network"])
    try:
        tap = socket.if_nametoindex(cabling.tap_of(0))
        body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, tap, 0, 0)
        body += netlink.attribute(_IFLA_NET_NS_FD, struct.pack("=I", there))
        with netlink.Netlink(netlink.NETLINK_ROUTE) as route:
            route.request([netlink.Message(_RTM_NEWLINK, 0, body, "move a machine's tap")])
        cabling.enter_network(path)
    finally:
        os.close(there)


def _exchange_disks(machine: hypervisor.Hypervisor, conf: Conf) -> str:
    """Put a container's disks in the place of the rehearsal's; the node of the writable one."""
    monitor = machine.monitor
    opened: list[int] = []
    sets = itertools.count(_FIRST_SET)

    def file(fd: int, read_only: bool) -> dict[str, object]:
        number = next(sets)
        monitor.give_fd_set(number, fd)
        return qemu.of_set(number, read_only=read_only)

    try:
        found = open_disks(conf, opened)
        wanted = qemu.nodes(found, file, _MARK)
        for serial, node in wanted.items():
            monitor.exchange(serial, node)
    finally:
        for fd in opened:
            os.close(fd)
    return str(wanted[qemu.WRITABLE_SERIAL]["node-name"])
