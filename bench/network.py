"""Containers with networks: how long they take, and how much goes through.

Both engines have a network namespace of their own here, with a second one beside it that stands for
the world outside: nothing of the host's network is touched, and neither engine sees the other's
rules.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.daemons import DOCKER, Daemon, Dockerd, MissingPiece, Skerry
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.world import World

RUN = ("run", "--rm", "busybox", "true")
RUN_PORTS = ("run", "--rm", "-p", "80", "-p", "443", "busybox", "true")
SECONDS = 2
"""One measurement of throughput."""
_PORT = 5201
_OURS, _PEER = "skerry", "dockerd"


class Island:
    """A network namespace `inside` for an engine, and `outside` that reaches it by a veth pair."""

    def __init__(self, name: str) -> None:
        self.inside = f"sb-{os.getpid()}-{name}"
        self.outside = f"{self.inside}-out"

    def __enter__(self) -> "Island":
        try:
            for name in (self.inside, self.outside):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            peer = ("peer", "name", "up0", "netns", self.outside)
            _ip("-n", self.inside, "link", "add", "up0", "type", "veth", *peer)
            for name, address in ((self.inside, "1"), (self.outside, "2")):
                _ip("-n", name, "address", "add", f"10.99.0.{address}/24", "dev", "up0")
                _ip("-n", name, "link", "set", "up0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in (self.inside, self.outside):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def enter(self, *, outside: bool = False) -> list[str]:
        """The beginning of a command line that runs inside or outside."""
        return ["nsenter", f"--net=/run/netns/{self.outside if outside else self.inside}"]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingPiece(f"ip {' '.join(words)}: {done.stderr.strip()}")


class IslandSkerry(Skerry):
    """Our engine on an island."""

    def __init__(self, island: Island) -> None:
        super().__init__()
        self._island = island

    def command(self) -> list[str]:
        return [*self._island.enter(), *super().command()]


class IslandDockerd(Dockerd):
    """dockerd with its own bridge and rules, on an island."""

    def __init__(self, island: Island, **more: Any) -> None:
        super().__init__(**more)
        self._island = island

    def command(self) -> list[str]:
        words = super().command()
        at = words.index("--bridge")
        return [*self._island.enter(), *words[:at], *words[at + 4 :], *self.extra]


@contextlib.contextmanager
def both_on_islands(world: World) -> Iterator[dict[str, tuple[Daemon, Island]]]:
    """Each engine on its island; one that does not start is left out."""
    from bench import images

    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[Daemon, Island]] = {}
        tar = world.home / "busybox.tar"
        tar.write_bytes(images.tar_of(world.rootfs))
        ours = stack.enter_context(Island("a"))
        peer = stack.enter_context(Island("b"))
        found[_OURS] = stack.enter_context(IslandSkerry(ours)), ours
        with contextlib.suppress(MissingPiece):
            found[_PEER] = stack.enter_context(IslandDockerd(peer, busybox=tar)), peer
        yield found


def _runs(name: str, words: tuple[str, ...], ratio: float, world: World, runs: int) -> Outcome:
    with both_on_islands(world) as engines:

        def case(label: str) -> Case:
            def once() -> None:
                if label not in engines:
                    raise MissingPiece(f"{label} does not start with a network")
                daemon, _ = engines[label]
                spawn([DOCKER, "-H", daemon.host, *words], daemon.environment())

            return Case(f"docker run, {label}", once)

        ours, peer = case(_OURS), case(_PEER)
        return interleave(name, [ours, peer], [Target(ours.label, peer.label, ratio)], runs=runs)


def net_run(world: World, runs: int) -> Outcome:
    """`docker run --rm busybox true` on the default bridge, the same command on both."""
    return _runs("net_run", RUN, 0.25, world, runs)


def net_ports(world: World, runs: int) -> Outcome:
    """The same with two published ports."""
    return _runs("net_ports", RUN_PORTS, 0.3, world, runs)


def net_throughput(world: World, runs: int) -> Outcome:
    """iperf3 from outside to a published port, and between two containers of one network."""
    with both_on_islands(world) as engines, contextlib.ExitStack() as stack:
        cases = []
        for label, (daemon, island) in engines.items():
            server, client = _pair(daemon, stack)
            address = _address(daemon, server)
            cases.append(
                Case(f"published port, {label}", _iperf(island.enter(outside=True), "10.99.0.1"))
            )
            cases.append(
                Case(f"container to container, {label}", _iperf(_inside(daemon, client), address))
            )
        cases.sort(key=lambda case: case.label, reverse=True)
        targets = [
            Target(f"{what}, {_OURS}", f"{what}, {_PEER}", 1.0)
            for what in ("published port", "container to container")
        ]
        return interleave(
            "net_throughput",
            cases,
            targets,
            runs=max(6, runs // 3),
            warm=1,
            unit="Gbit/s",
            larger_is_better=True,
        )


def _pair(daemon: Daemon, stack: contextlib.ExitStack) -> tuple[str, str]:
    """A container with an iperf3 server on a published port, and another one beside it.

    The program is the host's, put into the container's network namespace: what is measured is the
    way there.
    """
    daemon.docker("network", "create", "bench")
    sleep = ("busybox", "sleep", "100000")
    common = ("run", "-d", "--network", "bench", "--name")
    daemon.docker(*common, "server", "-p", f"{_PORT}:{_PORT}", *sleep)
    daemon.docker(*common, "client", *sleep)
    command = [*_inside(daemon, "server"), "iperf3", "-s", "-p", str(_PORT)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    deadline = time.monotonic() + 10
    probe = [*_inside(daemon, "server"), "ss", "-Hltn", f"sport = :{_PORT}"]
    while not subprocess.run(probe, capture_output=True, check=False).stdout:
        if time.monotonic() > deadline:
            raise MissingPiece("iperf3 does not listen")
        time.sleep(0.05)
    return "server", "client"


def _inside(daemon: Daemon, name: str) -> list[str]:
    pid = daemon.docker("inspect", "--format", "{{.State.Pid}}", name).stdout.strip()
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


def _address(daemon: Daemon, name: str) -> str:
    form = "{{.NetworkSettings.Networks.bench.IPAddress}}"
    return daemon.docker("inspect", "--format", form, name).stdout.strip()


def _iperf(enter: list[str], address: str) -> Callable[[], float]:
    command = [*enter, "iperf3", "-c", address, "-p", str(_PORT), "-t", str(SECONDS), "-J"]

    def once() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        try:
            result: dict[str, Any] = json.loads(done.stdout)
            return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
        except (ValueError, KeyError):
            raise MissingPiece(f"iperf3: {done.stdout[-300:] or done.stderr}") from None

    return once
