"""What a build has done so far: its stages and steps, out of its events. Pure."""

from __future__ import annotations

from skerry.cli.context import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAITING, STARTED, RUNNING, DONE, CACHED = "waiting", "started", "running", "done", "cached"
FAILED, CANCELLED, MISSING = "failed", "cancelled", "missing"
ENDED = frozenset((DONE, CACHED, FAILED, CANCELLED, MISSING))
LOG_LINES = 30
"""Lines of a step's output that are kept to be shown when it fails."""
_LONGEST = 4096


class Step:
    """One instruction. `number` and `of` count within its stage, from 1."""

    def __init__(self, name: str, stage: str, text: str, line: int) -> None:
        self.name = name
        """Its place: stage and instruction, `1.3`."""
        self.stage = stage
        self.text = " ".join(visible(text.replace("\n", " ")).split())
        self.line = line
        self.number = self.of = 1
        self.state = WAITING
        self.why = ""
        self.key = ""
        self.error = ""
        self.begun = 0.0
        self.seconds = 0.0
        self.log: list[str] = []
        self._rest = ""

    @property
    def label(self) -> str:
        """`[build 2/4] RUN make`."""
        return f"[{self.stage} {self.number}/{self.of}] {self.text}"

    def feed(self, data: str) -> list[str]:
        """Output; the lines that it completed."""
        *lines, self._rest = (self._rest + data).split("\n")
        if len(self._rest) > _LONGEST:
            lines.append(self._rest)
            self._rest = ""
        return self._keep(lines)

    def flush(self) -> list[str]:
        """A last line without its end."""
        lines, self._rest = [self._rest] if self._rest else [], ""
        return self._keep(lines)

    def _keep(self, lines: list[str]) -> list[str]:
        # A carriage return draws over the line: what it drew last counts.
        shown = [visible(line.rstrip("\r").rpartition("\r")[2].expandtabs(8)) for line in lines]
        self.log = (self.log + shown)[-LOG_LINES:]
        return shown


class View:
    """Takes events (docs/build.md) in order. Unknown ones are passed over."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.stages: dict[str, list[Step]] = {}
        self.pulls: dict[str, str] = {}
        """Image to the last line of its pull."""
        self.warnings: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.begun = 0.0
        self.now = 0.0

    def take(self, event: dict[str, Any]) -> Step | None:
        """The step that it is about, if any."""
        kind = event.get("kind")
        self.now = float(event.get("time") or self.now)
        self.begun = self.begun or self.now
        if kind == "plan":
            for each in event["steps"]:
                self._add(each["step"], each["stage"], each["text"], int(each.get("line") or 0))
        elif kind == "added":
            self._added(event)
        elif kind in ("pull", "push"):
            self._transfer(event)
        elif kind == "warning":
            self.warnings.append(event)
        elif kind == "result":
            self.result = event
        elif kind == "error":
            self.error = event
        step = self.steps.get(str(event.get("step") or ""))
        if step is not None and kind not in ("error", "added"):
            self._step(step, str(kind), event)
        return step

    def _add(self, name: str, stage: str, text: str, line: int) -> Step:
        step = self.steps[name] = Step(name, visible(stage), text, line)
        # Two stages may have one name; the number in a step's name tells them apart.
        self.stages.setdefault(name.partition(".")[0], []).append(step)
        self._count(name)
        return step

    def _count(self, name: str) -> None:
        steps = self.stages[name.partition(".")[0]]
        for at, step in enumerate(steps, 1):
            step.number, step.of = at, len(steps)

    def _added(self, event: dict[str, Any]) -> None:
        name = str(event["step"])
        stage = name.partition(".")[0]
        shown = self.stages[stage][0].stage if self.stages.get(stage) else stage
        step = self._add(name, shown, str(event.get("text") or ""), 0)
        steps = self.stages[stage]
        steps.remove(step)
        mine = place_of(name)
        at = sum(1 for each in steps if place_of(each.name) < mine)
        steps.insert(at, step)
        self._count(name)

    def _transfer(self, event: dict[str, Any]) -> None:
        message = event.get("message") or {}
        if isinstance(message, dict):
            about = " ".join(
                str(part) for part in (message.get("id"), message.get("status")) if part
            )
            self.pulls[visible(str(event.get("image")))] = visible(about)

    def _step(self, step: Step, kind: str, event: dict[str, Any]) -> None:
        if kind in (STARTED, RUNNING):
            step.begun = step.begun if step.state == RUNNING else self.now
            step.state = kind
            step.why = visible(str(event.get("why") or step.why))
        elif kind == "done":
            step.state = CACHED if event.get("cached") else DONE
            step.seconds = float(event.get("seconds") or 0)
            step.key = str(event.get("key") or "")
        elif kind in (FAILED, CANCELLED, MISSING):
            step.state = kind
            step.error = str(event.get("error") or "")
            step.seconds = max(0.0, self.now - step.begun) if step.begun else 0.0

    def counts(self) -> tuple[int, int, int]:
        """Steps that ended, all, and those that were cached."""
        ended = sum(step.state in ENDED for step in self.steps.values())
        cached = sum(step.state == CACHED for step in self.steps.values())
        return ended, len(self.steps), cached


def place_of(name: str) -> tuple[int, ...]:
    """A step's place in the order of the file: `1.10` comes after `1.9`."""
    return tuple(int(part) if part.isdigit() else 0 for part in name.split("."))


def seconds(value: float) -> str:
    """`0.4s`, `12s`, `2m05s`."""
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02}s"
