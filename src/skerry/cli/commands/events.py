"""`events`: what happens in the engine, as it happens."""

from __future__ import annotations

from skerry.cli.context import Context, out, visible
from skerry.cli.human import rfc3339
from skerry.cli.options import Command, Parsed, many, text
from skerry.cli.values import parse_filters, parse_time
from skerry.sdk import wire
from skerry.sdk.client import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def events(context: Context, parsed: Parsed) -> int:
    """Print until interrupted or --until."""
    form = parsed.text("format")
    template = None
    if form and form != "json":
        from skerry.cli import template as templates

        template = templates.parse(form)
    target = "/events" + query(
        since=parse_time(parsed.text("since")),
        until=parse_time(parsed.text("until")),
        filters=parse_filters(parsed.many("filter")) or None,
    )
    response = context.client.open("GET", target)
    try:
        for event in response.json_lines():
            if template:
                out(template.render(event))
            else:
                out(wire.dumps(event) if form == "json" else visible(line(event)))
    finally:
        response.connection.close()
    return 0


def line(event: dict[str, Any]) -> str:
    """`2026-01-02T03:04:05.000000006+01:00 container start ID (image=busybox, name=x)`."""
    moment = event.get("timeNano") or int(event.get("time") or 0) * 10**9
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    text_ = f"{rfc3339(moment)} {event.get('Type')} {event.get('Action')} {actor.get('ID')}"
    if attributes:
        text_ += " (" + ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes)) + ")"
    return text_


COMMANDS = {
    "events": Command(
        events,
        "Show what happens in the engine, as it happens",
        "",
        (
            many("filter", "Show only what matches: container=x, event=die", "NAME=VALUE", "f"),
            text("format", "'json' or a Go template", "FORMAT"),
            text("since", "Events from then on as well: 10m", "TIME"),
            text("until", "End then", "TIME"),
        ),
        most=0,
    )
}
