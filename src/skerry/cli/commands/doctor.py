"""`doctor`: what this host can and cannot do for containers."""

from __future__ import annotations

import os
import sys

from skerry.base.errors import Unavailable
from skerry.cli.context import Context, out, report, terminal, visible
from skerry.cli.options import Command, Parsed, text
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MARKS = {"ok": ("ok", "32"), "warn": ("warn", "33"), "fail": ("FAIL", "31")}


def doctor(context: Context, parsed: Parsed) -> int:
    """A line for each check with what to do; 1 when a necessary thing is missing."""
    try:
        answer = context.client.get("/skerry/doctor")
    except Unavailable as error:
        if context.named:
            raise
        report(error)
        answer = _without_engine(context.root)
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


def _without_engine(root: str) -> Any:
    """The same report by a process of its own."""
    read, write = os.pipe()
    words = [sys.executable, "-m", "skerry", "host-report", root]
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=actions)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise Unavailable("the host cannot be examined either")
    return wire.loads(data)


def _row(check: dict[str, Any]) -> tuple[str, str, str, str]:
    state = str(check.get("status"))
    detail, remedy = str(check.get("detail") or ""), str(check.get("remedy") or "")
    return (
        state if state in _MARKS else "warn",
        visible(str(check.get("name"))),
        visible(detail),
        visible(remedy),
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
