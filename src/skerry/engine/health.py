"""Health checks: a command in the container at intervals, and what its results add up to.

Docker's rules (HEALTHCHECK in the Dockerfile reference): `starting` until the first success or
until `Retries` failures after the start period; then `healthy` or `unhealthy`.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.base.errors import GuestFault, SkerryError

if TYPE_CHECKING:
    from skerry.engine.container import Container
    from skerry.engine.lifecycle import Lifecycle

OUTPUT_LIMIT = 4096
LOG_LENGTH = 5
_SECOND = 10**9


class Check(NamedTuple):
    """A health check; times in seconds."""

    command: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    start_interval: float = 5.0
    retries: int = 3


class Result(NamedTuple):
    """One probe; times in nanoseconds since the epoch."""

    start: int
    end: int
    code: int
    output: str


def parse(config: dict[str, Any]) -> Check | None:
    """The check of a container's configuration, None when there is none."""
    raw = config.get("Healthcheck") or {}
    test = raw.get("Test") or []
    if not test or test[0] == "NONE" or len(test) < 2:
        return None
    command = tuple(test[1:])
    if test[0] == "CMD-SHELL":
        command = (*(config.get("Shell") or ("/bin/sh", "-c")), *test[1:2])
    default = Check(command)
    return Check(
        command,
        raw.get("Interval", 0) / _SECOND or default.interval,
        raw.get("Timeout", 0) / _SECOND or default.timeout,
        raw.get("StartPeriod", 0) / _SECOND,
        raw.get("StartInterval", 0) / _SECOND or default.start_interval,
        raw.get("Retries", 0) or default.retries,
    )


class Health:
    """The state of one container's health."""

    def __init__(self, check: Check, started_at: float) -> None:
        self.check = check
        self.status = "starting"
        self.failing = 0
        self.log: list[Result] = []
        self.task: asyncio.Task[None] | None = None
        self._started_at = started_at

    def add(self, result: Result) -> bool:
        """Count a result; whether the status changed."""
        self.log = [*self.log, result][-LOG_LENGTH:]
        before = self.status
        if result.code == 0:
            self.failing = 0
            self.status = "healthy"
        else:
            in_start = (
                before == "starting"
                and result.start / 1e9 - self._started_at < self.check.start_period
            )
            if not in_start:
                self.failing += 1
                if self.failing >= self.check.retries:
                    self.status = "unhealthy"
        return self.status != before

    def next_pause(self, now: float) -> float:
        """Seconds until the next probe."""
        if self.status == "starting" and now - self._started_at < self.check.start_period:
            return self.check.start_interval
        return self.check.interval


def begin(container: "Container", lifecycle: "Lifecycle") -> None:
    """Start to probe a container that has just started, when it has a check."""
    check = parse(container.record.config)
    if check is None:
        return
    end(container)
    container.health = Health(check, container.state.started_at / 1e9)
    container.health.task = asyncio.get_running_loop().create_task(
        _probe_forever(container, container.health, lifecycle)
    )


def end(container: "Container") -> None:
    """Stop to probe."""
    if container.health is not None and container.health.task is not None:
        container.health.task.cancel()
        container.health.task = None


async def _probe_forever(container: "Container", health: Health, lifecycle: "Lifecycle") -> None:
    while True:
        await asyncio.sleep(health.next_pause(time.time()))
        if container.state.status != "running":
            continue
        start = time.time_ns()
        try:
            code, output = await lifecycle.health_probe(
                container, list(health.check.command), health.check.timeout
            )
        except TimeoutError:
            code = -1
            output = f"Health check exceeded timeout ({health.check.timeout:g}s)"
        except (SkerryError, GuestFault) as error:
            code, output = -1, error.message
        if container.health is not health or not container.running:
            return
        if health.add(Result(start, time.time_ns(), code, output[:OUTPUT_LIMIT])):
            lifecycle.emit(container, f"health_status: {health.status}")
