"""Containers a second with eight clients at once."""

import threading
import time
from collections.abc import Callable

from bench import wire
from bench.daemons import DOCKER, Daemon, MissingPiece
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.speed import RUN_TRUE
from bench.world import World

CLIENTS = 8
PER_CLIENT = 6


def rate8(world: World, runs: int) -> Outcome:
    """Eight clients, each making one container after the other: by API and by docker command."""
    api_ours, api_peer = "8 API clients, skerry", "8 API clients, dockerd"
    cli_ours, cli_peer = "8 docker run, skerry", "8 docker run, dockerd"
    return interleave(
        "rate8",
        [
            Case(api_ours, lambda: _api_rate(world.skerry, PER_CLIENT * 3)),
            Case(api_peer, lambda: _api_rate(world.dockerd, PER_CLIENT)),
            Case(cli_ours, lambda: _cli_rate(world.skerry, PER_CLIENT)),
            Case(cli_peer, lambda: _cli_rate(world.dockerd, PER_CLIENT // 2)),
        ],
        [Target(api_ours, api_peer, 6.0)],
        runs=max(3, runs // 5),
        warm=1,
        unit="/s",
        larger_is_better=True,
    )


def _api_rate(daemon: Daemon, each: int) -> float:
    def client() -> None:
        with wire.Connection(daemon.socket) as connection:
            for _ in range(each):
                wire.cycle(connection)

    return together(client) * each


def _cli_rate(daemon: Daemon, each: int) -> float:
    def client() -> None:
        for _ in range(each):
            spawn([DOCKER, "-H", daemon.host, *RUN_TRUE], daemon.environment())

    return together(client) * each


def together(client: Callable[[], None]) -> float:
    """Run `client` in as many threads as there are clients; clients finished per second."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            client()
        except (MissingPiece, wire.WireError, OSError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded) for _ in range(CLIENTS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    if failures:
        raise MissingPiece(f"{len(failures)} of {CLIENTS} clients failed: {failures[0]}")
    return CLIENTS / took
