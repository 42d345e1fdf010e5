"""What people wait for: lists, logs, copies, compose; and what watching costs."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.daemons import DOCKER, Daemon
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.network import both_on_islands
from bench.world import World

MANY = 500
LOG_BYTES = 1 << 30
COPY_BYTES = 500 << 20
SERVICES = 8
WATCHED = 200
WATCH_SECONDS = 10.0
FEW = 3
"""Rounds of what takes seconds."""
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
) -> Outcome:
    return interleave(
        name,
        [Case(label, once) for label, once in cases.items()],
        [Target("skerry", "dockerd", ratio)],
        runs=runs,
        warm=1,
        unit=unit,
    )


def ps500(world: World, runs: int) -> Outcome:
    """`docker ps -a` with 500 containers."""
    pair = _pair(world)
    try:
        for daemon in pair.values():
            for _ in range(MANY):
                daemon.docker("create", *_IDLE)
        cases = {label: _docker(each, "ps", "-a") for label, each in pair.items()}
        return _beside("ps500", cases, 0.5, runs)
    finally:
        for daemon in pair.values():
            daemon.remove_containers()


def logs_1g(world: World, runs: int) -> Outcome:
    """`docker logs` of the same json-file of 1 GB, put in the place of a container's own."""
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
        return _beside("logs_1g", cases, 0.5, min(runs, FEW))
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


def streams200(world: World, runs: int) -> Outcome:
    """Processor time of the engine, in ms per second, while the stats of 200 containers and all
    events are watched."""
    pair = _pair(world)
    try:
        for daemon in pair.values():
            for _ in range(WATCHED):
                daemon.docker("run", "-d", *_IDLE)
        cases = {label: _watching(each) for label, each in pair.items()}
        return _beside("streams200", cases, 0.5, min(runs, FEW), "ms/s")
    finally:
        for daemon in pair.values():
            daemon.remove_containers()


def _watching(daemon: Daemon) -> Callable[[], float]:
    def once() -> float:
        with contextlib.ExitStack() as stack:
            for words in (("stats", "--no-trunc"), ("events",)):
                process = stack.enter_context(
                    subprocess.Popen(
                        [DOCKER, "-H", daemon.host, *words],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        env=daemon.environment(),
                    )
                )
                stack.callback(process.send_signal, signal.SIGTERM)
            before = _processor_seconds(daemon.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WATCH_SECONDS)
            return (_processor_seconds(daemon.pid) - before) * 1000 / WATCH_SECONDS

    return once


def _processor_seconds(pid: int) -> float:
    """User and system time of one process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
