"""Taking times so that noise falls on all sides alike, and saying what came out."""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.daemons import MissingPiece
from bench.wire import WireError

EXPECTED = (MissingPiece, WireError, OSError)
"""What a missing or half-built piece raises; it ends one case, never the whole run."""


class Case(NamedTuple):
    """One side of a comparison; `once` does the work one time and raises when it fails.

    `once` may return a number of its own (a rate, bytes); else its duration in ms is taken.
    """

    label: str
    once: Callable[[], float | None]


class Target(NamedTuple):
    """What was promised: `ours` against `peer`, both labels of cases."""

    ours: str
    peer: str
    ratio: float
    """Of the medians. A duration or size has to be at most that, a rate at least."""


class Series(NamedTuple):
    """The figures of one case."""

    label: str
    values: list[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        """The 95th percentile, nearest rank."""
        return sorted(self.values)[math.ceil(0.95 * len(self.values)) - 1]


class Outcome(NamedTuple):
    """All that one benchmark found."""

    name: str
    unit: str
    larger_is_better: bool
    series: dict[str, Series]
    targets: list[Target]
    missing: dict[str, str]
    """Label to the reason why there are no figures."""

    def ratio(self, target: Target) -> float | None:
        """Ours to peer, None when one side has no figures."""
        ours, peer = self.series.get(target.ours), self.series.get(target.peer)
        return ours.median / peer.median if ours and peer else None

    def met(self, target: Target) -> bool:
        """Whether the promise is kept; without figures it is not."""
        ratio = self.ratio(target)
        if ratio is None:
            return False
        return ratio >= target.ratio if self.larger_is_better else ratio <= target.ratio

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "cases": {
                label: {
                    "median": round(one.median, 3),
                    "p95": round(one.p95, 3),
                    "values": [round(value, 3) for value in one.values],
                }
                for label, one in self.series.items()
            },
            "targets": [
                {
                    "ours": target.ours,
                    "peer": target.peer,
                    "wanted": target.ratio,
                    "ratio": ratio if (ratio := self.ratio(target)) is None else round(ratio, 3),
                    "met": self.met(target),
                }
                for target in self.targets
            ],
            "missing": self.missing,
        }


def interleave(
    name: str,
    cases: Sequence[Case],
    targets: Sequence[Target],
    *,
    runs: int,
    warm: int = 2,
    unit: str = "ms",
    larger_is_better: bool = False,
) -> Outcome:
    """Run the cases in turn, A B C A B C, `warm` rounds unrecorded and `runs` recorded."""
    values: dict[str, list[float]] = {case.label: [] for case in cases}
    missing: dict[str, str] = {}
    for turn in range(warm + runs):
        for label, once in cases:
            if label in missing:
                continue
            try:
                value = timed(once)
            except EXPECTED as failure:
                missing[label] = str(failure).strip() or type(failure).__name__
                values.pop(label)
                continue
            if turn >= warm:
                values[label].append(value)
    series = {label: Series(label, taken) for label, taken in values.items() if taken}
    return Outcome(name, unit, larger_is_better, series, list(targets), missing)


def timed(once: Callable[[], float | None]) -> float:
    """What `once` returned, else how long it took in ms."""
    begin = time.perf_counter_ns()
    value = once()
    took = (time.perf_counter_ns() - begin) / 1e6
    return took if value is None else value


def spawn(command: Sequence[str], env: dict[str, str]) -> None:
    """Run a program to its end with the least cost of our own; MissingPiece unless it gave 0."""
    complaints = os.memfd_create("stderr")
    try:
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, complaints, 2),
        ]
        try:
            pid = os.posix_spawn(command[0], list(command), env, file_actions=actions)
        except FileNotFoundError as absent:
            raise MissingPiece(f"{command[0]} is not there") from absent
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0:
            said = os.pread(complaints, 4096, 0).decode(errors="replace").strip()
            raise MissingPiece(f"`{' '.join(command)}` ended with {code}: {said}")
    finally:
        os.close(complaints)


def say(text: str) -> None:
    """A line of progress on stderr: the table on stdout stays clean."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
