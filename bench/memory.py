"""What an engine takes to hold a hundred sleeping containers."""

import os
from collections.abc import Callable
from pathlib import Path

from bench import footprint, wire
from bench.daemons import Daemon, MissingPiece
from bench.measure import Case, Outcome, Target, interleave
from bench.world import World

CONTAINERS = 100


def memory100(world: World, runs: int) -> Outcome:
    """PSS of all of an engine's processes, the programs in the containers left out, in MB.

    `runs` is not used: the figure hardly varies and a round takes long.
    """
    return interleave(
        "memory100",
        [
            Case("skerry", _held(lambda: world.skerry)),
            Case("dockerd", _held(lambda: world.dockerd)),
        ],
        [Target("skerry", "dockerd", 0.4)],
        runs=1,
        warm=0,
        unit="MB",
    )


def _held(daemon: Callable[[], Daemon]) -> Callable[[], float]:
    def once() -> float:
        running = daemon()
        body = wire.true_container() | {"Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL"}
        made: list[str] = []
        with wire.Connection(running.socket) as api:
            try:
                for _ in range(CONTAINERS):
                    made.append(api.call("POST", "/containers/create", body)["Id"])
                    api.call("POST", f"/containers/{made[-1]}/start")
                return pss_megabytes(running.folders)
            finally:
                for one in made:
                    api.request("DELETE", f"/containers/{one}?force=1")

    return once


def pss_megabytes(folders: list[Path]) -> float:
    """Proportional set size of the engine in `folders`: what is shared counts by its share.

    Programs in containers are told by their pid namespace.
    """
    host = os.readlink("/proc/self/ns/pid")
    total = 0
    for pid in footprint.processes(folders):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") != host:
                continue
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
        )
    if not total:
        raise MissingPiece(f"no process of the engine in {folders[0]} was found")
    return total / 1024
