"""A build shown while it runs: a tree that redraws on a terminal, lines in a log, JSON, nothing."""

from __future__ import annotations

import time

from skerry.base.errors import InvalidInput
from skerry.cli.build_view import (
    CACHED,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    MISSING,
    RUNNING,
    STARTED,
    WAITING,
    Step,
    View,
    seconds,
)
from skerry.cli.context import terminal, visible, write
from skerry.cli.terminal import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("auto", "plain", "json", "rawjson", "quiet", "tty")
_INTERVAL = 0.1
"""Seconds between two drawings."""
_MARKS = {
    WAITING: " ",
    STARTED: "·",
    RUNNING: "•",
    DONE: "✓",
    CACHED: "✓",
    FAILED: "✗",
    CANCELLED: "-",
    MISSING: "?",
}
_TAIL = 5
"""Lines of output below a step that runs."""


def make(kind: str, fd: int, *, quiet: bool = False) -> Shown:
    """By --progress and --quiet. InvalidInput for another word."""
    if kind not in ("", *KINDS):
        raise InvalidInput(f"unknown progress {kind!r:.40}", hint="known are " + ", ".join(KINDS))
    if quiet or kind == "quiet":
        return Shown(fd)
    if kind in ("json", "rawjson"):
        return Json(fd)
    if kind == "tty" or (kind in ("", "auto") and terminal(fd)):
        return Tree(fd)
    return Plain(fd)


class Shown:
    """Nothing is shown; the view is kept for what comes at the end."""

    tells_errors = False
    """The failed step's output was shown already."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.view = View()

    def take(self, event: dict[str, Any]) -> None:
        """One event."""
        step = self.view.take(event)
        if step is not None and event.get("kind") == "log":
            step.feed(str(event.get("data") or ""))

    def close(self) -> None:
        """Idempotent; the cursor stands on a free line."""

    def _write(self, lines: list[str]) -> None:
        if lines:
            write(self._fd, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


class Json(Shown):
    """The events as they are, one a line."""

    tells_errors = True

    def take(self, event: dict[str, Any]) -> None:
        """One event."""
        from skerry.sdk import wire

        super().take(event)
        self._write([wire.dumps(event)])


class Plain(Shown):
    """Lines that are never taken back, each with its step."""

    tells_errors = True

    def take(self, event: dict[str, Any]) -> None:
        """One event."""
        step = self.view.take(event)
        kind = event.get("kind")
        if step is not None:
            self._write(self._step(step, str(kind), event))
        elif kind in ("pull", "push"):
            message = event.get("message") or {}
            # Bars move hundreds of times; their words once.
            if not message.get("progressDetail"):
                image = visible(str(event.get("image")))
                self._write([f"[{kind} {image}] {self.view.pulls.get(image, '')}"])

    def _step(self, step: Step, kind: str, event: dict[str, Any]) -> list[str]:
        head = f"[{step.stage} {step.number}/{step.of}]"
        if kind == RUNNING:
            return [step.label, *([f"{head} not cached: {step.why}"] if step.why else [])]
        if kind == "log":
            at = f"{max(0.0, self.view.now - step.begun):.2f}"
            return [f"{head} {at} {line}" for line in step.feed(str(event.get("data") or ""))]
        last = [f"{head} {line}" for line in step.flush()]
        if step.state == CACHED and kind == "done":
            return [*last, f"{step.label} CACHED"]
        if step.state == DONE and kind == "done":
            if not step.key:
                return [*last, step.label]
            return [*last, f"{head} DONE {seconds(step.seconds)} {step.key}"]
        if kind == FAILED:
            return [*last, f"{head} FAILED"]
        if kind == CANCELLED:
            return [*last, f"{head} CANCELLED"]
        if kind == MISSING:
            return [f"{step.label} NOT CACHED"]
        return last


class Tree(Shown):
    """Stages with their steps, drawn again and again in place.

    A timer's signal draws between two events, so that times go on; it never draws into a drawing.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._drawn = 0
        self._busy = False
        self._last = 0.0
        self._before: Any = None
        self._start()

    def _start(self) -> None:
        import signal

        self._before = signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, _INTERVAL, _INTERVAL)

    def _tick(self, *_: object) -> None:
        if not self._busy:
            self._draw(time.time())

    def take(self, event: dict[str, Any]) -> None:
        """One event; drawn at once only when the last drawing is long ago."""
        self._busy = True
        try:
            super().take(event)
        finally:
            self._busy = False

    def close(self) -> None:
        """The last drawing has every step."""
        if self._before is None:
            return
        import signal

        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        self._before = None
        self._draw(self.view.now, whole=True)

    def _draw(self, now: float, *, whole: bool = False) -> None:
        rows, columns = size(self._fd)
        lines = tree_lines(self.view, now)
        if not whole:
            lines = fitted(self.view, now, lines, (rows or 24) - 1)
        lines = [line[: (columns or 80) - 1] for line in lines]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J"
        write(self._fd, text.encode("utf-8", "surrogateescape"))
        self._drawn = 0 if whole else len(lines)


def tree_lines(view: View, now: float, *, closed: bool = False) -> list[str]:
    """The whole tree; `closed` folds stages that are done into one line each."""
    ended, count, cached = view.counts()
    spent = seconds(max(0.0, now - view.begun)) if view.begun else "0.0s"
    lines = [f"build {spent}, {ended} of {count} steps, {cached} cached"]
    stages = list(view.stages.values())
    for at, steps in enumerate(stages, 1):
        last = at == len(stages)
        lines += _stage(steps, now, "└─ " if last else "├─ ", "   " if last else "│  ", closed)
    lines += [f"  {image}: {about}" for image, about in view.pulls.items() if _pulling(view)]
    return lines


def _pulling(view: View) -> bool:
    return any(step.state in (STARTED, RUNNING) for step in view.steps.values())


def _stage(steps: list[Step], now: float, head: str, indent: str, closed: bool) -> list[str]:
    done = all(step.state in (DONE, CACHED) for step in steps)
    spent = sum(step.seconds for step in steps)
    if closed and done:
        return [f"{head}✓ {steps[0].stage}: {len(steps)} steps, {seconds(spent)}"]
    lines = [f"{head}{steps[0].stage}"]
    for step in steps:
        lines.append(indent + step_line(step, now))
        if step.state == RUNNING:
            lines += [f"{indent}      {line}" for line in step.log[-_TAIL:]]
    return lines


def step_line(step: Step, now: float) -> str:
    """`✓ RUN make  1.2s`, `• RUN make  3.4s  app.c changed`."""
    parts = [f"{_MARKS[step.state]} {step.text[:100]}"]
    if step.state == CACHED:
        parts.append("cached")
    elif step.state == RUNNING:
        parts.append(seconds(max(0.0, now - step.begun)))
    elif step.state in ENDED and (step.seconds >= 0.05 or step.key):
        parts.append(seconds(step.seconds))
    if step.state in (CANCELLED, MISSING):
        parts.append("not cached" if step.state == MISSING else "cancelled")
    elif step.why and step.state != CACHED:
        parts.append(f"({step.why})")
    return "  ".join(parts)


def fitted(view: View, now: float, lines: list[str], rows: int) -> list[str]:
    """As many lines as the terminal has: finished stages folded, then only what is not done."""
    if len(lines) > rows:
        lines = tree_lines(view, now, closed=True)
    if len(lines) > rows:
        running = [step for step in view.steps.values() if step.state in (STARTED, RUNNING)]
        shown = lines[:1]
        for step in running:
            shown.append(f"  [{step.stage}] {step_line(step, now)}")
        lines = shown
    return lines[: max(1, rows)]
