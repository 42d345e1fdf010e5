"""How long one container, one exec, one command takes."""

import os
from collections.abc import Callable

from bench import wire
from bench.daemons import DOCKER, RUNTIME, SKERRY, Daemon
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.world import World

RUN_TRUE = ("run", "--rm", "--network", "none", "busybox", "true")

DOCKERD_RUN = "docker run, dockerd"
OURS_API = "API, skerry"


def api_cycle(world: World, runs: int) -> Outcome:
    """Create, start, wait, delete through the API of a warm engine."""
    return interleave(
        "api_cycle",
        [
            Case(OURS_API, _cycle(lambda: world.skerry)),
            Case(DOCKERD_RUN, _docker(lambda: world.dockerd, RUN_TRUE)),
            Case("API, dockerd", _cycle(lambda: world.dockerd)),
            Case("runc run", _runtime(world, world.runc)),
        ],
        [Target(OURS_API, DOCKERD_RUN, 0.10), Target(OURS_API, "runc run", 1.0)],
        runs=runs,
        warm=3,
    )


def docker_cli(world: World, runs: int) -> Outcome:
    """`docker run --rm` by the same docker command, against both engines."""
    return interleave(
        "docker_cli",
        [
            Case("docker run, skerry", _docker(lambda: world.skerry, RUN_TRUE)),
            Case(DOCKERD_RUN, _docker(lambda: world.dockerd, RUN_TRUE)),
        ],
        [Target("docker run, skerry", DOCKERD_RUN, 0.25)],
        runs=runs,
    )


def skerry_cli(world: World, runs: int) -> Outcome:
    """`skerry run --rm` as a whole process against `docker run` on dockerd."""
    return interleave(
        "skerry_cli",
        [
            Case("skerry run", _skerry(world, RUN_TRUE)),
            Case(DOCKERD_RUN, _docker(lambda: world.dockerd, RUN_TRUE)),
        ],
        [Target("skerry run", DOCKERD_RUN, 0.35)],
        runs=runs,
    )


def runtime_run(world: World, runs: int) -> Outcome:
    """`skerry-runtime run` against `runc run`, whole processes, the same bundle."""
    return interleave(
        "runtime_run",
        [
            Case("skerry-runtime run", _runtime(world, lambda: str(RUNTIME))),
            Case("runc run", _runtime(world, world.runc)),
        ],
        [Target("skerry-runtime run", "runc run", 2.0)],
        runs=runs,
    )


def exec_true(world: World, runs: int) -> Outcome:
    """Exec of `true` in a running container."""
    peer = "docker exec, dockerd"
    words = ("exec", "bench-exec", "true")
    cases = [
        Case("skerry exec", _skerry(world, words)),
        Case("docker exec, skerry", _docker(lambda: world.skerry, words)),
        Case("API exec, skerry", lambda: wire.exec_true(world.skerry.socket, "bench-exec")),
        Case(peer, _docker(lambda: world.dockerd, words)),
        Case("API exec, dockerd", lambda: wire.exec_true(world.dockerd.socket, "bench-exec")),
    ]
    ready = [daemon for daemon in _available(world) if _sleeper(daemon)]
    try:
        return interleave(
            "exec",
            cases,
            [
                Target("skerry exec", peer, 0.25),
                Target("docker exec, skerry", peer, 0.25),
                Target("API exec, skerry", peer, 0.25),
            ],
            runs=runs,
        )
    finally:
        for daemon in ready:
            daemon.docker("rm", "-f", "bench-exec", check=False)


def _available(world: World) -> list[Daemon]:
    found: list[Daemon] = []
    for get in (lambda: world.skerry, lambda: world.dockerd):
        try:
            found.append(get())
        except RuntimeError:
            continue
    return found


def _sleeper(daemon: Daemon) -> bool:
    words = ("run", "-d", "--network", "none", "--name", "bench-exec", "busybox")
    return daemon.docker(*words, "sleep", "100000", check=False).returncode == 0


def _cycle(daemon: Callable[[], Daemon]) -> Callable[[], None]:
    """One life through the API; the connection stays open from one to the next."""
    kept: list[wire.Connection] = []

    def once() -> None:
        if not kept:
            kept.append(wire.Connection(daemon().socket))
        wire.cycle(kept[0])

    return once


def _docker(daemon: Callable[[], Daemon], words: tuple[str, ...]) -> Callable[[], None]:
    def once() -> None:
        running = daemon()
        spawn([DOCKER, "-H", running.host, *words], running.environment())

    return once


def _skerry(world: World, words: tuple[str, ...]) -> Callable[[], None]:
    def once() -> None:
        spawn([str(SKERRY), *words], world.skerry.environment())

    return once


def _runtime(world: World, program: Callable[[], str]) -> Callable[[], None]:
    """One `run` of the common bundle by an OCI runtime's command line."""

    def once() -> None:
        bundle = world.bundle()
        name = f"bench-{os.getpid()}"
        root = str(world.home / "runtime")
        spawn([program(), "--root", root, "run", "--bundle", str(bundle), name], dict(os.environ))

    return once
