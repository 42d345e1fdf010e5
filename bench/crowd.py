"""Many containers that run at once: how long their list takes, and what watching them costs.

They take a minute to start on dockerd, so both rows share them: `Crowd` is entered by the first and
left after the last.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import footprint, images, wire
from bench.daemons import DOCKER, Daemon
from bench.measure import Case, Outcome, Target, interleave, say, spawn
from bench.rate import together
from bench.world import World

MANY = 500
WATCHED = 200
WATCH_SECONDS = 8.0
WATCH_LEAD = 3.0
FEW = 3
_IMAGE = "bench-same"


class Crowd:
    """`MANY` containers that sleep on each engine, without a network."""

    def __init__(self, world: World) -> None:
        self.engines: dict[str, Daemon] = {"skerry": world.skerry, "dockerd": world.dockerd}
        self.ids: dict[str, list[str]] = {}
        """By engine, in no order."""
        self._tar = world.home / "same.tar"
        self._tar.write_bytes(images.tar_of(world.rootfs))

    def __enter__(self) -> "Crowd":
        for label, daemon in self.engines.items():
            # An image without labels, of the same files on each engine: a list's length counts.
            daemon.docker("import", str(self._tar), _IMAGE)
            begin = time.monotonic()
            self.ids[label] = []
            try:
                _each(daemon, [partial(_start, self.ids[label])] * MANY)
            except BaseException:
                self.__exit__()
                raise
            say(f"{label}: {MANY} containers started in {time.monotonic() - begin:.0f} s")
        return self

    def __exit__(self, *exc: object) -> None:
        for label, ids in self.ids.items():
            begin = time.monotonic()
            _each(self.engines[label], [partial(_remove, one) for one in ids])
            say(f"{label}: removed in {time.monotonic() - begin:.0f} s")


def _each(daemon: Daemon, work: Sequence[Callable[[wire.Connection], None]]) -> None:
    """Do it all, eight requests at a time."""
    waiting = list(work)

    def client() -> None:
        with wire.Connection(daemon.socket) as connection:
            while waiting:
                with contextlib.suppress(IndexError):
                    waiting.pop()(connection)

    together(client)


def _start(made: list[str], connection: wire.Connection) -> None:
    body = {
        "Image": _IMAGE,
        "Cmd": ["sleep", "100000"],
        "HostConfig": {"NetworkMode": "none"},
    }
    made_id = connection.call("POST", "/v1.41/containers/create", body)["Id"]
    made.append(made_id)
    connection.call("POST", f"/v1.41/containers/{made_id}/start")


def _remove(container: str, connection: wire.Connection) -> None:
    connection.call("DELETE", f"/v1.41/containers/{container}?force=1&v=1")


def ps500(world: World, runs: int) -> Outcome:
    """`docker ps` with 500 containers that run the same image."""
    crowd = world.lasting(Crowd)
    cases = [
        Case(label, partial(spawn, [DOCKER, "-H", each.host, "ps"], each.environment()))
        for label, each in crowd.engines.items()
    ]
    return interleave("ps500", cases, [Target("skerry", "dockerd", 0.5)], runs=runs)


def streams200(world: World, runs: int) -> Outcome:
    """Processor time in ms per second while the stats of 200 containers and all events are watched:
    of all processes of an engine, since dockerd has its readings made by the shims, and of the
    main process alone."""
    crowd = world.lasting(Crowd)
    whole = {"skerry": "engine and keepers", "dockerd": "dockerd, containerd, shims"}
    cases = []
    for label, each in crowd.engines.items():
        programs = footprint.processes(each.folders)
        pids = [pid for pid, name in programs.items() if not name.startswith("sleep")]
        watched = crowd.ids[label][:WATCHED]
        seen: list[float] = []
        cases.append(Case(whole[label], partial(_watching, each, watched, pids, seen)))
        cases.append(Case(f"{label}'s main process", seen.pop))
    return interleave(
        "streams200",
        cases,
        [
            Target(whole["skerry"], whole["dockerd"], 0.5),
            Target("skerry's main process", "dockerd's main process", 0.5),
        ],
        runs=min(runs, FEW),
        warm=0,
        unit="ms/s",
    )


def _watching(daemon: Daemon, ids: list[str], pids: list[int], main: list[float]) -> float:
    """What all `pids` used; what the main process did is added to `main`."""
    with contextlib.ExitStack() as stack:
        for words in (("stats", "--no-trunc", *ids), ("events",)):
            process = stack.enter_context(
                subprocess.Popen(
                    [DOCKER, "-H", daemon.host, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=daemon.environment(),
                )
            )
            stack.callback(process.kill)
        # The first readings are of clients that have only just come.
        time.sleep(WATCH_LEAD)
        before = {pid: _processor_seconds(pid) for pid in pids}
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WATCH_SECONDS)
        used = {pid: _processor_seconds(pid) - before[pid] for pid in pids}
    main.append(used[daemon.pid] * 1000 / WATCH_SECONDS)
    return sum(used.values()) * 1000 / WATCH_SECONDS


def _processor_seconds(pid: int) -> float:
    """User and system time of one process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ROWS = (ps500, streams200)
"""Those that leave the containers for one another."""
