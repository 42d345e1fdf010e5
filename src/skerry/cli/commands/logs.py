"""`logs`: what a container has written."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.cli.context import Context, write
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.values import parse_time
from skerry.sdk.client import query, quote
from skerry.sdk.frames import STDERR, Demultiplexer


def logs(context: Context, parsed: Parsed) -> int:
    """Print the log, and go on with --follow."""
    name, tail = parsed.arguments[0], parsed.text("tail", "all")
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise InvalidInput(f"invalid --tail: {tail!r}", hint="give a number of lines, or all")
    state = context.client.get(f"/containers/{quote(name)}/json")
    target = f"/containers/{quote(state['Id'])}/logs" + query(
        stdout=True,
        stderr=True,
        follow=True if parsed.on("follow") else None,
        since=parse_time(parsed.text("since")),
        until=parse_time(parsed.text("until")),
        timestamps=True if parsed.on("timestamps") else None,
        details=True if parsed.on("details") else None,
        tail=tail,
    )
    response = context.client.open("GET", target)
    frames = None if state["Config"].get("Tty") else Demultiplexer()
    try:
        for chunk in response.chunks():
            pieces = frames.feed(chunk) if frames else [(1, chunk)]
            for stream, piece in pieces:
                write(2 if stream == STDERR else 1, piece)
    finally:
        response.connection.close()
    return 0


COMMANDS = {
    "logs": Command(
        logs,
        "Show a container's output",
        "CONTAINER",
        (
            switch("details", "Show the extra attributes of the log"),
            switch("follow", "Go on as more comes", "f"),
            text("since", "Only from then on: 10m, 2026-01-02T03:04:05", "TIME"),
            text("tail", "The last N lines (default all)", "N", "n"),
            switch("timestamps", "Show the time of each line", "t"),
            text("until", "Only up to then", "TIME"),
        ),
        least=1,
        most=1,
        complete="containers",
    )
}
