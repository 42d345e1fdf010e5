"""`doctor`: what this host can and cannot do for containers."""

from __future__ import annotations

from skerry.cli.context import Context, out, terminal
from skerry.cli.options import Command, Parsed, text
from skerry.cli.progress import clean
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MARKS = {"ok": ("ok", "32"), "warn": ("warn", "33"), "fail": ("FAIL", "31")}


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
    colours = terminal(1)
    rows = [_row(check) for check in answer or ()]
    width = max((len(name) for _, name, _, _ in rows), default=0)
    for state, name, detail, remedy in rows:
        mark, colour = _MARKS[state]
        shown = f"\x1b[{colour}m{mark:4}\x1b[0m" if colours else f"{mark:4}"
        out(f"{shown}  {name:{width}}  {detail}".rstrip())
        if remedy and state != "ok":
            out(f"      {'':{width}}  -> {remedy}")
    return int(any(state == "fail" for state, *_ in rows))


def _row(check: dict[str, Any]) -> tuple[str, str, str, str]:
    state = str(check.get("status"))
    detail, remedy = str(check.get("detail") or ""), str(check.get("remedy") or "")
    return (
        state if state in _MARKS else "warn",
        clean(str(check.get("name"))),
        clean(detail),
        clean(remedy),
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
