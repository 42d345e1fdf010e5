"""What people wait for: lists, logs, copies, compose; and what watching costs."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench import footprint, images, wire
from bench.daemons import BUSYBOX_IMAGE, DOCKER, Daemon
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.network import both_on_islands
from bench.rate import together
from bench.world import World

MANY = 500
LOG_BYTES = 1 << 30
COPY_BYTES = 500 << 20
SERVICES = 8
WATCHED = 200
WATCH_SECONDS = 10.0
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


def _same_image(world: World, daemon: Daemon) -> str:
    """An image without labels, made of the same files on each engine: a list's length counts."""
    tar = world.home / "same.tar"
    if not tar.exists():
        tar.write_bytes(images.tar_of(world.rootfs))
    daemon.docker("import", str(tar), "bench-same")
    return "bench-same"


def _each(daemon: Daemon, work: Sequence[Callable[[wire.Connection], None]]) -> None:
    """Do it all, eight requests at a time."""
    waiting = list(work)

    def client() -> None:
        with wire.Connection(daemon.socket) as connection:
            while waiting:
                with contextlib.suppress(IndexError):
                    waiting.pop()(connection)

    together(client)


def _sleeper(image: str) -> Callable[[wire.Connection], None]:
    body = {
        "Image": image,
        "Cmd": ["sleep", "100000"],
        "HostConfig": {"NetworkMode": "none"},
    }

    def start(connection: wire.Connection) -> None:
        made = connection.call("POST", "/v1.41/containers/create", body)["Id"]
        connection.call("POST", f"/v1.41/containers/{made}/start")

    return start


@contextlib.contextmanager
def _sleepers(daemon: Daemon, image: str, count: int) -> Iterator[None]:
    """So many containers that sleep, without a network."""
    try:
        _each(daemon, [_sleeper(image)] * count)
        yield
    finally:
        with wire.Connection(daemon.socket) as connection:
            listed = connection.call("GET", "/v1.41/containers/json?all=1")
        removals = [
            partial(_remove, f"/v1.41/containers/{one['Id']}?force=1&v=1") for one in listed
        ]
        _each(daemon, removals)


def _remove(target: str, connection: wire.Connection) -> None:
    connection.call("DELETE", target)


def ps500(world: World, runs: int) -> Outcome:
    """`docker ps` with 500 containers that run the same image."""
    pair = _pair(world)
    with contextlib.ExitStack() as stack:
        for daemon in pair.values():
            stack.enter_context(_sleepers(daemon, _same_image(world, daemon), MANY))
        cases = {label: _docker(each, "ps") for label, each in pair.items()}
        return _beside("ps500", cases, 0.5, runs)


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


def streams200(world: World, runs: int) -> Outcome:
    """Processor time in ms per second while the stats of 200 containers and all events are watched:
    of all processes of an engine, since dockerd has its readings made by the shims, and of the
    main process alone."""
    pair = _pair(world)
    whole = {"skerry": "engine and keepers", "dockerd": "dockerd, containerd, shims"}
    with contextlib.ExitStack() as stack:
        for daemon in pair.values():
            stack.enter_context(_sleepers(daemon, BUSYBOX_IMAGE, WATCHED))
        cases = []
        for label, each in pair.items():
            programs = footprint.processes(each.folders)
            pids = [pid for pid, name in programs.items() if not name.startswith("sleep")]
            seen: list[float] = []
            cases.append(Case(whole[label], partial(_watching, each, pids, seen)))
            cases.append(Case(f"{label}'s main process", seen.pop))
        return interleave(
            "streams200",
            cases,
            [
                Target(whole["skerry"], whole["dockerd"], 0.5),
                Target("skerry's main process", "dockerd's main process", 0.5),
            ],
            runs=min(runs, FEW),
            warm=1,
            unit="ms/s",
        )


def _watching(daemon: Daemon, pids: list[int], main: list[float]) -> float:
    """What all used; what the main process did is added to `main`."""
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
