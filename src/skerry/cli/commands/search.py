"""`search`: repositories of a registry by a word."""

from __future__ import annotations

from skerry.cli.context import Context
from skerry.cli.options import Command, Parsed, many, number, switch, text
from skerry.cli.registry_auth import headers_for
from skerry.cli.table import Listing, ellipsis
from skerry.cli.values import parse_filters
from skerry.sdk.client import query

_WIDTH = 45
LISTING = Listing(
    {
        "Name": "NAME",
        "Description": "DESCRIPTION",
        "StarCount": "STARS",
        "IsOfficial": "OFFICIAL",
        "IsAutomated": "AUTOMATED",
    },
    "Name Description StarCount IsOfficial",
    "Name",
)


def search(context: Context, parsed: Parsed) -> int:
    """`term` on Docker Hub, `registry/term` elsewhere."""
    term = parsed.arguments[0]
    target = "/images/search" + query(
        term=term,
        limit=parsed.number("limit", 25),
        filters=parse_filters(parsed.many("filter")) or None,
    )
    response = context.client.open("GET", target, None, _headers(term))
    try:
        from skerry.sdk import wire

        found = wire.loads(response.read())
    finally:
        response.connection.close()
    rows = []
    for each in found:
        description = " ".join(str(each.get("description") or "").split())
        if not parsed.on("no-trunc"):
            description = ellipsis(description, _WIDTH)
        rows.append(
            {
                "Name": str(each.get("name") or ""),
                "Description": description,
                "StarCount": str(each.get("star_count") or 0),
                "IsOfficial": "[OK]" if each.get("is_official") else "",
                "IsAutomated": "[OK]" if each.get("is_automated") else "",
            }
        )
    LISTING.show(rows, form=parsed.text("format"))
    return 0


def _headers(term: str) -> dict[str, str]:
    head, slash, _ = term.partition("/")
    elsewhere = slash and ("." in head or ":" in head or head == "localhost")
    return headers_for(f"{head}/x" if elsewhere else "x")


COMMANDS = {
    "search": Command(
        search,
        "Search a registry for images",
        "[REGISTRY/]TERM",
        (
            many("filter", "Only those that match: stars=3, is-official=true", "FILTER", "f"),
            number("limit", "At most so many results", "N"),
            text("format", "A Go template, or json", "TEMPLATE"),
            switch("no-trunc", "Show whole descriptions"),
        ),
        least=1,
        most=1,
    )
}
