"""What is shown of a build, from its events."""

import os
from typing import Any

import pytest

from skerry.base.errors import InvalidInput
from skerry.cli import build_progress
from skerry.cli.build_view import View, seconds
from skerry.cli.commands.build import found_step
from skerry.sdk import wire

STEPS = [
    {"step": "0.0", "stage": "one", "text": "FROM busybox AS one", "line": 1},
    {"step": "0.1", "stage": "one", "text": "RUN make", "line": 2},
    {"step": "1.0", "stage": "1", "text": "FROM scratch", "line": 3},
    {"step": "1.1", "stage": "1", "text": "ENV A=1", "line": 4},
    {"step": "1.2", "stage": "1", "text": "COPY --from=one /a /", "line": 5},
]
EVENTS: list[dict[str, Any]] = [
    {"kind": "plan", "steps": STEPS, "target": 1, "time": 10.0},
    {"kind": "done", "step": "0.0", "time": 10.0, "seconds": 0, "empty": True},
    {"kind": "started", "step": "0.1", "time": 10.0},
    {"kind": "running", "step": "0.1", "why": "app.c changed", "time": 10.0},
    {"kind": "log", "step": "0.1", "stream": 1, "data": "cc -c a\x1b[31mpp.c\npart", "time": 10.5},
    {"kind": "log", "step": "0.1", "stream": 1, "data": "ly\n", "time": 11.0},
    {"kind": "done", "step": "0.1", "seconds": 1.5, "key": "abcdef123456", "time": 11.5},
    {"kind": "done", "step": "1.0", "seconds": 0, "time": 11.5},
    {"kind": "done", "step": "1.1", "seconds": 0, "time": 11.5},
    {"kind": "done", "step": "1.2", "cached": True, "key": "fedcba987654", "time": 11.6},
    {"kind": "result", "image": "sha256:1", "tags": [], "seconds": 1.6, "time": 11.6},
]
FAILED = [
    *EVENTS[:6],
    {"kind": "failed", "step": "0.1", "error": "no", "time": 12.0},
    {"kind": "cancelled", "step": "1.2", "time": 12.0},
    {"kind": "error", "message": "no", "hint": "", "code": 3, "step": "0.1", "time": 12.0},
]


def shown(kind: str, events: list[dict[str, Any]]) -> list[str]:
    read, write = os.pipe()
    one = build_progress.make(kind, write)
    for event in events:
        one.take(event)
    one.close()
    os.close(write)
    with open(read, "rb") as file:
        return file.read().decode().splitlines()


def test_plain() -> None:
    assert shown("plain", EVENTS) == [
        "[one 1/2] FROM busybox AS one",
        "[one 2/2] RUN make",
        "[one 2/2] not cached: app.c changed",
        "[one 2/2] 0.50 cc -c a\\x1b[31mpp.c",
        "[one 2/2] 1.00 partly",
        "[one 2/2] DONE 1.5s abcdef123456",
        "[1 1/3] FROM scratch",
        "[1 2/3] ENV A=1",
        "[1 3/3] COPY --from=one /a / CACHED",
    ]


def test_plain_failure() -> None:
    assert shown("plain", FAILED)[-2:] == ["[one 2/2] FAILED", "[1 3/3] CANCELLED"]


def test_json_is_what_came() -> None:
    assert [wire.loads(line) for line in shown("json", EVENTS)] == EVENTS


def test_quiet() -> None:
    assert shown("quiet", EVENTS) == []


def test_unknown_kinds() -> None:
    with pytest.raises(InvalidInput, match="unknown progress"):
        build_progress.make("loud", 2)


def view(events: list[dict[str, Any]]) -> View:
    made = View()
    for event in events:
        step = made.take(event)
        if step is not None and event["kind"] == "log":
            step.feed(event["data"])
    return made


def test_tree_while_it_runs() -> None:
    assert build_progress.tree_lines(view(EVENTS[:6]), 12.0) == [
        "build 2.0s, 1 of 5 steps, 0 cached",
        "├─ one",
        "│  ✓ FROM busybox AS one",
        "│  • RUN make  2.0s  (app.c changed)",
        "│        cc -c a\\x1b[31mpp.c",
        "│        partly",
        "└─ 1",
        "     FROM scratch",
        "     ENV A=1",
        "     COPY --from=one /a /",
    ]


def test_tree_at_the_end_and_folded() -> None:
    done = view(EVENTS)
    assert build_progress.tree_lines(done, 12.0)[-1] == "   ✓ COPY --from=one /a /  cached"
    assert build_progress.tree_lines(done, 12.0, closed=True) == [
        "build 2.0s, 5 of 5 steps, 1 cached",
        "├─ ✓ one: 2 steps, 1.5s",
        "└─ ✓ 1: 3 steps, 0.0s",
    ]


@pytest.mark.parametrize("rows", range(1, 12))
def test_it_fits_the_terminal(rows: int) -> None:
    running = view(EVENTS[:6])
    lines = build_progress.tree_lines(running, 12.0)
    fitted = build_progress.fitted(running, 12.0, lines, rows)
    assert 1 <= len(fitted) <= rows
    if rows > 1:
        assert any("RUN make" in line for line in fitted)


def test_triggers_come_in_their_place() -> None:
    made = view(EVENTS[:1])
    made.take({"kind": "added", "step": "0.0.1", "text": "RUN trigger"})
    assert [step.text for step in made.stages["0"]] == [
        "FROM busybox AS one", "RUN trigger", "RUN make",
    ]  # fmt: skip
    assert made.steps["0.1"].label == "[one 3/3] RUN make"


def test_steps_by_name_line_and_key() -> None:
    done = view(EVENTS)
    for wanted in ("0.1", "2", "abcdef"):
        assert found_step(done, wanted).name == "0.1"
    with pytest.raises(InvalidInput, match="no such step"):
        found_step(done, "9.9")
    with pytest.raises(InvalidInput, match="no step of stage 1 up to"):
        found_step(done, "1.1")
    done.steps["0.1"].state = "missing"
    with pytest.raises(InvalidInput, match=r"step 0\.1 is not in the cache: build it first"):
        found_step(done, "0.1")


def test_unknown_events_are_passed_over() -> None:
    made = view([{"kind": "later", "time": 1}, {"kind": "done", "step": "7.7", "time": 2}])
    assert made.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (10, "10s"), (125.4, "2m05s")]
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text
