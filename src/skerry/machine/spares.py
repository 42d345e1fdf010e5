"""Which spare machines there are to be: the engine's side of `spare`.

`plan` decides and is pure. A machine of a template was asked for: for a while one spare of it is
kept, of the few templates that were asked for last. None is made while a machine starts or right
after, when memory is short, or again and again when that fails.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from skerry.base.errors import SkerryError
from skerry.kernel import processes
from skerry.machine import rehearsal, remembered
from skerry.machine.conf import Conf, bare, pack
from skerry.machine.disks import Disks
from skerry.machine.shape import Shape
from skerry.machine.spare import DISK, EXPORT
from skerry.machine.template import Frozen
from skerry.runtime import rundir, wire
from skerry.runtime.driver import leftovers
from skerry.runtime.driver.link import Link

KEEP_SECONDS = 300.0
"""Without a start of its template a spare goes after that."""
LAST_SECONDS = 1800.0
"""The same of the template that was asked for last: it stands still and costs memory alone."""
QUIET_SECONDS = 0.5
"""After the last start, before a spare is made beside whatever runs now."""
MAKE_SECONDS = 180.0
TAKE_SECONDS = 5.0
"""Within which a spare must have read the request that it was sent."""
AGAIN_SECONDS = 60.0
"""After a spare that could not be made."""
CLEAR_SECONDS, GIVEN_SECONDS = 5.0, 30.0
"""Within which one that is not wanted has put its own folder away, and one that has a container."""
_TURN = 0.3
_POLL = 0.02
_SPARE_PART, _LEAST_MEMORY = 10, 256 << 20
"""Memory is short when less than a tenth, or so many bytes, are to be had."""
_LIMITS = {"cpu": {"shares": 2}}
"""OCI `linux.resources` of a spare: the least claim on processors that there is."""

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any], bytes, tuple[int, ...]], None]


class Kept(NamedTuple):
    """A spare, as `plan` sees it. Times are seconds of the monotonic clock."""

    id: str
    key: str
    """Of its template."""
    ready: bool
    since: float
    shares: bool = False
    """Whether a container with volumes can have it."""


class Plan(NamedTuple):
    """What is to be done now."""

    drop: list[str]
    """Ids."""
    make: str
    """A template's key; empty for none."""
    shares: bool = False
    """Whether with a memory of its own, for volumes."""


class Asked(NamedTuple):
    """When machines of a template were asked for last: seconds of the monotonic clock."""

    at: float
    shares: float = -KEEP_SECONDS
    """With volumes."""
    missed: float = -KEEP_SECONDS
    """When there was none, though one had been asked for not long before."""


def plan(
    now: float,
    most: int,
    asked: Mapping[str, Asked],
    failed: Mapping[str, float],
    kept: list[Kept],
    *,
    starting: bool,
    short: bool,
) -> Plan:
    """`failed` says when a spare of a template could not be made; `starting`: a machine starts
    right now; `short`: of memory."""
    places = wanted(now, 0 if short else most, asked)
    drop = []
    making = False
    for each in kept:
        stuck = not each.ready and now - each.since > MAKE_SECONDS
        of_use = each.shares or not _has_shares(now, asked.get(each.key))
        if each.key not in places or not of_use or stuck:
            drop.append(each.id)
        else:
            places.remove(each.key)
            making = making or not each.ready
    lacking = [key for key in places if now - failed.get(key, -AGAIN_SECONDS) >= AGAIN_SECONDS]
    quiet = all(now - each.at >= QUIET_SECONDS for each in asked.values())
    if not lacking or not quiet or starting or making:
        return Plan(drop, "")
    return Plan(drop, lacking[0], _has_shares(now, asked[lacking[0]]))


def wanted(now: float, most: int, asked: Mapping[str, Asked]) -> list[str]:
    """The templates of the spares that there are to be, the most urgent first: one of each that was
    asked for of late, then a second of those that come in bursts."""
    recent = list(of_late(now, asked))
    bursts = [key for key in recent if now - asked[key].missed < KEEP_SECONDS]
    return [*recent, *bursts][:most]


def of_late(now: float, asked: Mapping[str, Asked]) -> dict[str, Asked]:
    """What has been asked for of late, last first."""
    ordered = sorted(asked.items(), key=lambda each: -each[1].at)
    most = [LAST_SECONDS, *[KEEP_SECONDS] * len(ordered)]
    return {
        key: each
        for (key, each), seconds in zip(ordered, most, strict=False)
        if now - each.at < seconds
    }


def _has_shares(now: float, asked: Asked | None) -> bool:
    return asked is not None and now - asked.shares < KEEP_SECONDS


class Pattern(NamedTuple):
    """What spares of a template are made from."""

    frozen: Frozen
    shape: Shape
    accel: tuple[str, str, int]
    spec: dict[str, Any]
    """Of a container that asked; see `rehearsal.spec_for`."""
    folder: str
    """Where run directories are made."""
    shares: bool
    """Whether it had volumes."""
    kernel: str = ""
    """The user's own; empty for the distribution's."""


class Spare:
    """A spare of this engine. `ram` is a descriptor of its template's memory, closed when the spare
    has mapped it; `ended` is set when it has gone or has read a request."""

    def __init__(
        self, kept: Kept, shape: Shape, run_dir: str, ram: int, sock: socket.socket
    ) -> None:
        self.kept = kept
        self.shape = shape
        self.run_dir = run_dir
        self._ram = ram
        self.qemu = 0
        self.failed = False
        self.given = False
        """It has a request, or will have."""
        self.ended = asyncio.Event()
        self._link = Link(sock, self._heard, self._end)

    def _heard(self, message: wire.Message) -> None:
        for fd in message.fds:
            os.close(fd)
        match message.head.get("event"):
            case "ready":
                self.kept = self.kept._replace(ready=True)
                self.qemu = int(message.head["qemu"])
                self._close_ram()
            case "failed":
                self.failed = not self.kept.ready
                why = wire.error_from_wire(message.head["error"])
                log.warning("no spare machine: %s", why)

    def give(self, head: dict[str, Any], body: bytes, fds: tuple[int, ...]) -> None:
        """Send it a start's request; takes over `fds`. One that has gone closes them."""
        self._link.send(head, body, fds)

    def _end(self) -> None:
        self._close_ram()
        self.ended.set()

    def _close_ram(self) -> None:
        ram, self._ram = self._ram, -1
        if ram >= 0:
            os.close(ram)

    def hang_up(self) -> None:
        """Have it go, unless it has read a request."""
        self.given = False
        self._link.close()
        self._end()

    def kill(self) -> None:
        """End one that does not even look at its request; blocks until it has gone."""
        with suppress(SkerryError):
            leftovers.kill_keeper(self.run_dir)
        self.given = False

    def row(self) -> dict[str, Any]:
        """Plain facts; see `Spares.rows`."""
        return {
            "id": self.kept.id,
            "template": self.kept.key,
            "memory": self.shape.memory,
            "cpus": self.shape.cpus,
            "ready": self.kept.ready,
            "pid": self.qemu,
            "shares": self.kept.shares,
            "own_memory": processes.own_memory(self.qemu) if self.qemu else 0,
        }


class Spares:
    """The spares of one engine. `busy` says whether a machine starts right now."""

    def __init__(
        self, disks: Disks, send: Send, cgroup_parent: str, most: int, busy: Callable[[], bool]
    ) -> None:
        self._disks = disks
        self._send = send
        self._parent = cgroup_parent
        self._most = most
        self._busy = busy
        self._asked: dict[str, Asked] = {}
        self._failed: dict[str, float] = {}
        self._patterns: dict[str, Pattern] = {}
        self._spares: dict[str, Spare] = {}
        """Those that nobody has yet, by their ids."""
        self._turning: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._news = False
        """Whether there is something to remember."""

    def asked(self, pattern: Pattern, *, missed: bool) -> None:
        """A machine of a template was started, `missed` without a spare."""
        if not self._most:
            return
        key, now = pattern.frozen.key, time.monotonic()
        before = self._asked.get(key)
        found = (before or Asked(now))._replace(at=now)
        if pattern.shares:
            found = found._replace(shares=now)
        if missed and before:
            found = found._replace(missed=now)
        self._await(pattern, found)
        self._news = True

    def expect(self, pattern: Pattern) -> None:
        """Such a machine was asked for before this engine was there."""
        now = time.monotonic()
        shares = {"shares": now} if pattern.shares else {}
        self._await(pattern, Asked(now, **shares))

    def last_kinds(self) -> list[remembered.Kind]:
        """The kinds that the last engine was asked for, as many as can have a spare. Blocks."""
        return remembered.read(self._disks.folder, time.time())[: self._most]

    def _await(self, pattern: Pattern, asked: Asked) -> None:
        self._asked[pattern.frozen.key] = asked
        self._patterns[pattern.frozen.key] = pattern
        if self._turning is None or self._turning.done():
            self._turning = asyncio.get_running_loop().create_task(self._turn())

    def take(self, key: str, *, shares: bool) -> Spare | None:
        """A spare of this template that is ready, from now on nobody else's; `shares`: for a
        container with volumes."""
        for spare in self._spares.values():
            kept = spare.kept
            fits = kept.key == key and (kept.shares or not shares)
            if fits and kept.ready and not spare.ended.is_set():
                spare.given = True
                return self._spares.pop(spare.kept.id)
        return None

    def rows(self) -> list[dict[str, Any]]:
        """What there is: `id`, `template`, `memory` and `cpus` of the machine, `ready`, `shares`,
        `pid` of its QEMU (0 while it is made), and `own_memory`, bytes shared with nobody."""
        return [spare.row() for spare in self._spares.values()]

    def forget(self, keys: set[str]) -> None:
        """Templates go: their spares with them."""
        for key in keys:
            self._asked.pop(key, None)
            self._patterns.pop(key, None)
        for spare in list(self._spares.values()):
            if spare.kept.key in keys:
                self._drop(spare)

    async def close(self) -> None:
        """End all that nobody has, and wait until nothing of them is left."""
        if self._turning is not None:
            self._turning.cancel()
            with suppress(asyncio.CancelledError):
                await self._turning
        for spare in list(self._spares.values()):
            self._drop(spare)
        if self._watching:
            await asyncio.wait(list(self._watching), timeout=GIVEN_SECONDS)

    async def _turn(self) -> None:
        while self._asked or self._spares:
            await asyncio.sleep(_TURN)
            now = time.monotonic()
            found = plan(
                now, self._most, self._asked, self._failed,
                [spare.kept for spare in self._spares.values()],
                starting=self._busy(), short=memory_is_short(),
            )  # fmt: skip

            for id_ in found.drop:
                self._drop(self._spares[id_])
            if found.make:
                await self._make(found.make, shares=found.shares)
            if self._news:
                self._news = False
                await asyncio.to_thread(self._remember, self._kinds(now))
            self._asked = of_late(now, self._asked)

    def _kinds(self, now: float) -> list[remembered.Kind]:
        """What was asked for of late, last first."""
        since = time.time() - now
        latest = list(of_late(now, self._asked))
        return [
            remembered.Kind(
                pattern.shape, pattern.kernel, _has_shares(now, self._asked[key]),
                since + self._asked[key].at, rehearsal.spec_for(pattern.spec),
            )
            for key in latest[: self._most]
            for pattern in (self._patterns[key],)
        ]  # fmt: skip

    def _remember(self, kinds: list[remembered.Kind]) -> None:
        try:
            remembered.write(self._disks.folder, kinds)
        except SkerryError as error:
            log.warning("cannot remember which machines were asked for: %s", error)

    async def _make(self, key: str, *, shares: bool) -> None:
        pattern = self._patterns[key]
        id_ = secrets.token_hex(32)
        run_dir = os.path.join(pattern.folder, id_)
        ram = os.dup(pattern.frozen.ram)  # The template may be let go of meanwhile.
        try:
            conf, steps = await asyncio.to_thread(self._prepare, id_, run_dir, pattern, ram, shares)
            head = {
                "op": "spare",
                "version": wire.VERSION,
                "run_dir": run_dir,
                "cgroup": self._group(id_),
                "limits": _LIMITS,
            }
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept = Kept(id_, key, False, time.monotonic(), shares)
            self._spares[id_] = spare = Spare(kept, pattern.shape, run_dir, ram, mine)
            ram = -1
            watching = asyncio.get_running_loop().create_task(self._watch(spare))
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)
            self._send(head, pack(conf, steps), (theirs.detach(),))
            if key not in self._asked:  # Its template went meanwhile.
                self._drop(spare)
        except (SkerryError, OSError) as error:
            log.warning("cannot make a spare machine: %s", error)
            self._failed[key] = time.monotonic()
            await asyncio.to_thread(self._sweep, id_, run_dir)
        finally:
            if ram >= 0:
                os.close(ram)

    def _prepare(
        self, id_: str, run_dir: str, pattern: Pattern, ram: int, shares: bool
    ) -> tuple[Conf, bytes]:
        self._disks.prepare()
        os.makedirs(run_dir, 0o700)
        writable = Path(run_dir, DISK)
        self._disks.writable(writable)
        conf = bare(
            id_, run_dir, pattern.frozen.state, f"/proc/{os.getpid()}/fd/{ram}",
            shape=pattern.shape, accel=pattern.accel, layers=str(self._disks.rehearsal()),
            writable=str(writable), below=[], blank=str(self._disks.blank),
        )  # fmt: skip
        if shares:
            folder = os.path.join(run_dir, EXPORT)
            os.mkdir(folder, 0o700)
            conf = conf._replace(shares=[(folder, True)])
        return conf, rehearsal.plan_for(pattern.spec)

    def _group(self, id_: str) -> str:
        return f"{self._parent}/{id_}"

    def _drop(self, spare: Spare) -> None:
        self._spares.pop(spare.kept.id, None)
        spare.hang_up()

    async def _watch(self, spare: Spare) -> None:
        """Until it has gone or has a container, and has put its own things away; whoever was
        killed before that is swept up behind."""
        await spare.ended.wait()
        self._spares.pop(spare.kept.id, None)
        if spare.failed:
            self._failed[spare.kept.key] = time.monotonic()
        deadline = time.monotonic() + (GIVEN_SECONDS if spare.given else CLEAR_SECONDS)
        while os.path.exists(spare.run_dir) and time.monotonic() < deadline:
            if not spare.given and rundir.keeper_of(spare.run_dir) is None:
                break
            await asyncio.sleep(_POLL)
        await asyncio.to_thread(self._sweep, spare.kept.id, spare.run_dir)

    def _sweep(self, id_: str, run_dir: str) -> None:
        if not os.path.exists(run_dir):
            return
        with suppress(SkerryError):
            leftovers.end(run_dir, {"cgroup": self._group(id_)})
            leftovers.remove_files(run_dir, run_dir)


def memory_is_short() -> bool:
    """Whether a spare would be at the expense of others."""
    total, available = processes.meminfo("MemTotal"), processes.meminfo("MemAvailable")
    return available < max(total // _SPARE_PART, _LEAST_MEMORY)
