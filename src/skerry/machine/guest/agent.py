"""The agent: process 1 of the guest. It runs the container by the same `runtime` code as the host.

Theory. `/init` (serve.c) mounts, loads the module of the port, says `ready`, and becomes the agent
with the first message that it cannot serve itself; without a compiled one the agent does all that.
It does what the warden on the other side asks for, one message after the other; what takes long
(a program, a stream of files) goes on beside, on one epoll loop. A template is frozen between two
messages, so everything a clone needs anew (seed, clock, disks, addresses) comes with `start`.
While its line is held, `serving` waits in its place, and may have served a copy's first message.

Messages from the host carry `op` and `seq`; answers `reply` with the same number and perhaps
`error`. Unasked it says `{"event": "exit", ...}`, once the program's output has been sent.

It trusts the host, which sees all of its memory anyway. The container does not reach the agent: it
has namespaces of its own, and the port's node is not in its /dev.
"""

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from skerry.base.errors import Conflict, InvalidInput
from skerry.machine import tasks
from skerry.machine.channel import MOST_FROM_HOST, Line, Message, ProtocolFault, pack_message
from skerry.machine.guest import identity, system
from skerry.machine.guest.dns import Resolver
from skerry.runtime import wire
from skerry.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.machine.guest.programs import Program, Programs
    from skerry.machine.guest.serving import Server

_MOST_QUERIES = 256
_NOBODY = "(none)"
"""The kernel's hostname before anybody gave one."""
_RARELY = 20_000
"""Objects made between two collections, of which a start makes some thousands."""
_SOON = (
    "skerry.kernel.cgroups_v2",
    "skerry.kernel.bpf_devices",
    "skerry.kernel.overlay_options",
    "skerry.runtime.null_device",
    "skerry.runtime.init.process",
    "skerry.runtime.init.mounting",
    "skerry.runtime.init.root",
)
"""Modules that a start would load; the template has them already."""


class Agent:
    """State of the agent; `main` runs it."""

    def __init__(self, port: int) -> None:
        self._loop = Loop()
        self._programs: Programs | None = None
        self._told = -1
        """The folder of `identity.tell`."""
        self._fresh = -1
        """What it will tell by."""
        self._cards: dict[str, dict[str, Any]] = {}
        """What each network card was told last, by the address that it booted with."""
        self._number = 0
        self._queries: dict[int, Callable[[bytes], None]] = {}
        self._resolver = Resolver(self._loop, self._ask_host)
        self._line = Line(self._loop, port, self._take, self._lost, most_message=MOST_FROM_HOST)
        self._server: Server | None = None
        self._holding: bytes | None = None
        """While `_server` can wait: what is still to be said."""
        self._served = False
        """It has served what is read next."""

    def run(self, read: bytes | None) -> None:
        """For ever. `read` was read of the line already; None: nobody has said `ready`."""
        if read is None:
            self._line.say({"event": "ready"})
        else:
            self._line.feed(read)
        while True:
            if self._holding is None:
                self._loop.turn(None)
            else:
                self._stand_still(self._holding)

    def _lost(self, reason: str) -> None:
        raise SystemExit(f"the line to the host is lost: {reason}")

    def _take(self, message: Message) -> None:
        answer: dict[str, Any] = {"reply": message.head.get("seq", 0)}
        try:
            answer.update(self._answer(message.head, message.body))
        except Exception as error:
            # Whatever it was, the host hears of it; an agent that ends takes the machine along.
            answer["error"] = wire.error_to_wire(error)
        if self._served:
            self._served = False
        elif message.head.get("op") == "hold":
            self._begin_to_hold(answer)
        else:
            self._say(answer)

    def _say(self, answer: dict[str, Any]) -> None:
        rows = answer.pop("body", b"")
        try:
            self._line.say(answer, rows)
        except ProtocolFault as fault:
            self._line.say({"reply": answer["reply"], "error": wire.error_to_wire(fault)})

    def _answer(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        match head.get("op"):
            case "modules":
                system.load_modules(head["names"])
                return {}
            case "prepare":
                return self._prepare(head)
            case "identity":
                return self._identity(head)
            case "start":
                return self._start(head, body)
            case "exec":
                return self._all_programs().exec(head, body)
            case "signal":
                self._all_programs().signal(str(head["id"]), int(head["signal"]))
                return {}
            case "resize":
                size = int(head["rows"]), int(head["columns"])
                self._all_programs().resize(str(head["id"]), *size)
                return {}
            case "stats":
                return self._all_programs().stats()
            case "starved":
                return self._all_programs().starved()
            case "update":
                self._all_programs().update(head["writes"])
                return {}
            case "dns":
                if taker := self._queries.pop(int(head["number"]), None):
                    taker(body)
                return {}
            case "files":
                system.write_files(head["files"])
                return {}
            case "network":
                self._follow(head["cards"])
                system.write_files(head["files"])
                return {}
            case "processors":
                system.use_processors(int(head["count"]))
                return {}
            case "attach" | "detach" | "pack" | "unpack" | "processes":
                return self._all_programs().about_files(head)
            case "sync":
                os.sync()
                return {}
            case "hold":
                return self._hold(head)
            case "go":
                self._line.release()
                self._all_programs().go_on()
                return {}
            case "clock":
                system.set_clock(int(head["time_ns"]))
                return {}
            case "wake":
                return self._wake(head)
            case "rest":
                return self._rest(head)
        raise InvalidInput(f"the agent cannot {head.get('op')!r}")

    def _ask_host(self, query: bytes, tcp: bool, answer: Callable[[bytes], None]) -> None:
        """Pass a query of the container's on; unanswered ones are forgotten, oldest first."""
        self._number += 1
        while len(self._queries) >= _MOST_QUERIES:
            del self._queries[next(iter(self._queries))]
        self._queries[self._number] = answer
        self._line.say({"event": "dns", "number": self._number, "tcp": tcp}, query)

    # Coming to life

    def _prepare(self, head: dict[str, Any]) -> dict[str, Any]:
        """The rest of the boot, before the template is frozen."""
        system.mount_rest()
        system.loopback()
        system.take_memory()
        system.set_limits(head.get("limits", []))
        system.get_ready()
        self._resolver.start()
        programs = self._all_programs()
        for name in _SOON:
            importlib.import_module(name)
        self._server = importlib.import_module("skerry.machine.guest.serving").load()
        for rules in head.get("filters", ()):
            importlib.import_module("skerry.kernel.bpf_devices").keep_filter(str(rules))
        gc.set_threshold(_RARELY)
        gc.collect()
        gc.freeze()
        return {"layout": programs.layout}

    def _all_programs(self) -> "Programs":
        """Loaded when it is first asked for: the agent answers sooner without."""
        if self._programs is None:
            from skerry.machine.guest.programs import Programs

            self._programs = Programs(self._loop, self._line)
        return self._programs

    def _running(self) -> "Program":
        main = self._all_programs().main
        if main is None:
            raise Conflict("the container is not running")
        return main

    def _identity(self, head: dict[str, Any]) -> dict[str, Any]:
        """What no two clones may share. The clock comes along."""
        system.reseed(bytes.fromhex(head["seed"]))
        system.set_clock(int(head["time_ns"]))
        if head.get("hostname"):
            socket.sethostname(str(head["hostname"]))
        return {}

    def _follow(self, cards: list[dict[str, Any]], *, anew: bool = False) -> None:
        """Let the network cards be these, and no others lead anywhere; with `anew` those that have
        not changed forget their connections too."""
        names = {card["slot"]: card["name"] for card in cards}
        for slot, known in self._cards.items():
            if known.get("mac") and known["name"] != names.get(slot):
                self._cards[slot] = {"name": system.idle(known["name"], slot)}
        for card in cards:
            known = self._cards.get(card["slot"], {})
            ways = {key: card.get(key) for key in ("gateway", "gateway6")}
            if not known:
                system.configure_network(card)
            elif anew or {**known, **ways} != card:
                system.reconfigure_network(card, known["name"])
            else:
                system.change_gateways(card, known)
            self._cards[card["slot"]] = card

    def _start(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        programs = self._all_programs()
        if programs.main is not None:
            raise Conflict("the container runs already")
        self._identity(head["identity"])
        system.attach_disks(str(head["layers"]), str(head["writable"]))
        if head.get("disk"):
            system.limit_disk(str(head["writable"]), int(head["disk"]))
        system.write_files(head["files"])
        if head["shares"]:
            system.attach_shares()
        self._follow(head["cards"])
        return programs.start(head, body)

    def _rest(self, head: dict[str, Any]) -> dict[str, Any]:
        """After a container that was run for practice alone: as if there had been none."""
        if self._all_programs().main is not None:
            raise Conflict("the container runs")
        for card in head["cards"]:
            system.forget_network(card)
        self._cards.clear()
        socket.sethostname(_NOBODY)
        if head.get("shares"):
            system.detach_shares()
        system.let_go_of_disks()
        self._all_programs().expect()
        gc.collect()
        gc.freeze()
        return {}

    # Being frozen and copied

    def _hold(self, head: dict[str, Any]) -> dict[str, Any]:
        """Before the machine is saved: after the answer nothing is on the way in either direction,
        with `freeze` the container stands still, and with `shares` the host's folders are out of it
        as well.

        Tells which files a copy needs to have of its own, and how long the container has stood.
        """
        main = self._running()
        if self._told < 0:
            self._told = identity.prepare(main.pid)
            identity.share_hostname(main.pid)
        if self._told >= 0 and self._fresh < 0:
            with suppress(OSError):  # The container may have filled its tmpfs.
                self._fresh = identity.make_fresh(self._told)
        found = identity.found(main.pid)
        if head.get("freeze"):
            shares = bool(head.get("shares"))
            found["frozen_us"] = self._all_programs().stand_still(shares=shares)
        return found

    def _begin_to_hold(self, answer: dict[str, Any]) -> None:
        """Answer `hold`, and then say nothing more. With nothing on the way `_server` can wait."""
        main = self._programs.main if self._programs else None
        kept = main.streams if main else set()
        if self._server is None or "error" in answer or not self._line.at_rest(kept):
            self._line.say(answer)
            self._line.hold()
        else:
            self._line.hold()
            self._holding = pack_message(answer)

    def _stand_still(self, said: bytes) -> None:
        """Let `_server` wait until there is something to do here."""
        from skerry.machine.guest import serving

        assert self._server is not None
        links = [card for card in self._cards.values() if card.get("mac")]
        outcome, read = self._server.stand(
            self._line.fd, self._loop.fileno(),
            serving.May(self._told, self._fresh, tasks.known(links), self._all_programs().freezer),
            said, random=system.random_device(), files=serving.open_files(),
        )  # fmt: skip
        # Whatever it was, what is read or written now is the agent's to keep account of.
        self._holding = None
        self._served = outcome == serving.SERVED
        if read:
            self._line.feed(read)

    def _wake(self, head: dict[str, Any]) -> dict[str, Any]:
        """In a copy of the machine, whose warden knows the main program's streams only.

        Further programs go on without their clients, as those of a client that has left.
        """
        main = self._running()
        kept = main.streams
        waiting = self._line.begin_anew(kept)
        if self._served:
            self._fresh = -1
            self._cards.update((card["slot"], card) for card in head["cards"])
        else:
            self._renew(main, head)
        self._all_programs().go_on()
        self._line.release()
        return {"waiting": waiting}

    def _renew(self, main: "Program", head: dict[str, Any]) -> None:
        """What `serving` does for a copy whenever it can (`tasks.wake`)."""
        self._identity(head["identity"])
        system.write_files(head["files"])
        self._follow(head["cards"], anew=True)
        identity.renew(main.pid, dict(head["renew"]))
        if self._told >= 0:
            with suppress(OSError):
                fresh, self._fresh = self._fresh, -1
                identity.tell(self._told, fresh, str(head["generation"]))


def main() -> None:
    """The guest's init, or what it becomes: then the arguments are the descriptors of the port and
    of a file with what was read of it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.clear()
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        if len(sys.argv) > 2:
            port, rest = (int(number) for number in sys.argv[1:3])
            os.set_inheritable(port, False)
            with open(rest, "rb") as file:
                read = file.read()
            Agent(port).run(read)
        system.mount_basics()
        with open("/modules/early") as file:
            system.load_modules(file.read().split())
        Agent(system.open_port()).run(None)
    except BaseException as error:
        import traceback

        with open("/dev/kmsg", "w") as log:
            for line in traceback.format_exception(error):
                log.write(f"<0>skerry agent: {line}")
                log.flush()
        # Rather than leave, which would have the kernel print a panic over these words.
        system.power_off()
