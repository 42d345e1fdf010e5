"""What people wait for: logs, copies, compose."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.daemons import DOCKER, Daemon
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.network import both_on_islands
from bench.world import World

LOG_BYTES = 1 << 30
COPY_BYTES = 500 << 20
SERVICES = 8
FEW = 3
"""Rounds of what takes seconds."""
TWICE = 2
"""Rounds of what takes a minute."""
_IDLE = ("--network", "none", "busybox", "sleep", "100000")


def _docker(daemon: Daemon, *words: str) -> Callable[[], None]:
    return lambda: spawn([DOCKER, "-H", daemon.host, *words], daemon.environment())


def _pair(world: World) -> dict[str, Daemon]:
    return {"skerry": world.skerry, "dockerd": world.dockerd}


def _beside(
    name: str,
    cases: Mapping[str, Callable[[], float | None]],
    ratio: float,
    runs: int,
    unit: str = "ms",
    warm: int = 1,
) -> Outcome:
    return interleave(
        name,
        [Case(label, once) for label, once in cases.items()],
        [Target("skerry", "dockerd", ratio)],
        runs=runs,
        warm=warm,
        unit=unit,
    )


def logs_1g(world: World, runs: int) -> Outcome:
    """`docker logs` of the same json-file of 1 GB, put in the place of a container's own.

    No round warms up: the file has just been written, and dockerd takes most of a minute.
    """
    line = (
        b'{"log":"'
        + b"x" * 119
        + b'\\n","stream":"stdout","time":"2024-05-01T00:00:00.123456789Z"}\n'
    )
    pair = _pair(world)
    block = line * 4096
    try:
        for daemon in pair.values():
            daemon.docker("run", "--name", "bench-logs", "--network", "none", "busybox", "true")
            path = daemon.docker("inspect", "-f", "{{.LogPath}}", "bench-logs").stdout.strip()
            with Path(path).open("wb") as file:
                for _ in range(LOG_BYTES // len(block)):
                    file.write(block)
        cases = {label: _docker(each, "logs", "bench-logs") for label, each in pair.items()}
        return _beside("logs_1g", cases, 0.5, min(runs, TWICE), warm=0)
    finally:
        for daemon in pair.values():
            daemon.docker("rm", "-f", "bench-logs", check=False)


def copy_500m(world: World, runs: int) -> Outcome:
    """`docker cp` of a file of 500 MB into a stopped container."""
    pair = _pair(world)
    source = world.home / "copied"
    with source.open("wb") as file:
        for _ in range(COPY_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    try:
        for daemon in pair.values():
            daemon.docker("create", "--name", "bench-copy", *_IDLE)
        cases = {
            label: _docker(each, "cp", str(source), "bench-copy:/copied")
            for label, each in pair.items()
        }
        return _beside("copy_500m", cases, 1.0, min(runs, FEW))
    finally:
        source.unlink()
        for daemon in pair.values():
            daemon.docker("rm", "-f", "bench-copy", check=False)


def compose8(world: World, runs: int) -> Outcome:
    """`docker-compose up -d` and `down` of eight services on a network of their own."""
    folder = world.home / "compose"
    folder.mkdir(exist_ok=True)
    service = "    {image: busybox, init: true, command: sleep 100000}\n"
    services = "".join(f"  s{number}:\n{service}" for number in range(SERVICES))
    (folder / "docker-compose.yml").write_text(f'version: "2.4"\nservices:\n{services}')

    def cycle(daemon: Daemon) -> Callable[[], None]:
        def once() -> None:
            for words in (["up", "-d"], ["down", "-t", "5"]):
                subprocess.run(
                    ["docker-compose", "-p", "bench", *words],
                    cwd=folder,
                    env=daemon.environment(),
                    check=True,
                    capture_output=True,
                )

        return once

    with both_on_islands(world) as pair:
        cases = {label: cycle(daemon) for label, (daemon, _) in pair.items()}
        return _beside("compose8", cases, 0.4, min(runs, FEW))
