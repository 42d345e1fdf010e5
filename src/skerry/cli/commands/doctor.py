"""`doctor`: what this host can and cannot do for containers."""

from __future__ import annotations

from skerry.cli.context import Context, out, terminal
from skerry.cli.options import Command, Parsed, text
from skerry.cli.progress import clean
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MARKS = {"ok": ("ok", "32"), "warning": ("warn", "33"), "failed": ("FAIL", "31")}
_SAME = {"warn": "warning", "fail": "failed", "error": "failed", "no": "failed", "yes": "ok",
         "true": "ok", "false": "failed", "missing": "failed", "good": "ok"}  # fmt: skip


def doctor(context: Context, parsed: Parsed) -> int:
    """A line for each check with what to do; 1 when a necessary thing is missing."""
    answer = context.client.get("/skerry/doctor")
    if parsed.text("format") == "json":
        out(wire.dumps(answer))
        return 0
    if parsed.text("format"):
        from skerry.cli import template

        out(template.parse(parsed.text("format")).render(answer))
        return 0
    checks = answer["checks"] if isinstance(answer, dict) else answer or []
    colours = terminal(1)
    rows = [_row(check) for check in checks]
    width = max((len(name) for _, name, _, _ in rows), default=0)
    for state, name, detail, remedy in rows:
        mark, colour = _MARKS[state]
        shown = f"\x1b[{colour}m{mark:4}\x1b[0m" if colours else f"{mark:4}"
        out(f"{shown}  {name:{width}}  {detail}".rstrip())
        if remedy and state != "ok":
            out(f"      {'':{width}}  -> {remedy}")
    return int(any(state == "failed" for state, *_ in rows))


def _row(check: dict[str, Any]) -> tuple[str, str, str, str]:
    facts = {str(key).lower(): value for key, value in check.items()}
    state = str(facts.get("status", facts.get("state", facts.get("ok", "")))).lower()
    state = _SAME.get(state, state)
    detail = facts.get("detail") or facts.get("found") or facts.get("message") or ""
    remedy = facts.get("remedy") or facts.get("hint") or ""
    return (
        state if state in _MARKS else "warning",
        clean(str(facts.get("name") or facts.get("what") or "")),
        clean(str(detail)),
        clean(str(remedy)),
    )


COMMANDS = {
    "doctor": Command(
        doctor,
        "Show what this host can and cannot do, each with the remedy",
        "",
        (text("format", "'json' or a Go template", "FORMAT", "f"),),
        most=0,
    )
}
