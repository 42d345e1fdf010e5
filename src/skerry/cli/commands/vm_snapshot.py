"""`vm snapshot`: points in a machine's life to go back to."""

from __future__ import annotations

from skerry.cli.commands.vm import path
from skerry.cli.context import Context, each, err, out
from skerry.cli.human import ago, size_binary
from skerry.cli.options import Command, Option, Parsed, switch, text
from skerry.cli.table import Listing
from skerry.sdk import wire
from skerry.sdk.client import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LISTING = Listing(
    {
        "ID": "SNAPSHOT ID",
        "Name": "NAME",
        "Kind": "KIND",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "Parent": "PARENT",
        "Current": "CURRENT",
        "Comment": "COMMENT",
    },
    "ID Name Kind Size CreatedSince Parent Current",
    "ID",
)


def _all(context: Context, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = context.client.get(path(name, "/snapshots"))
    return found


def create(context: Context, parsed: Parsed) -> int:
    """The new snapshot's name."""
    words = parsed.arguments
    name = parsed.text("name") or (words[1] if len(words) > 1 else "")
    body = {"name": name, "comment": parsed.text("comment"), "disk_only": parsed.on("disk-only")}
    out(context.client.post(path(words[0], "/snapshots"), body)["Name"])
    return 0


def ls(context: Context, parsed: Parsed) -> int:
    """All of a machine's."""
    found = _all(context, parsed.arguments[0])
    names = {item["id"]: item["name"] for item in found}
    rows = [
        {
            "ID": item["id"][:12],
            "Name": item["name"],
            "Kind": "full" if item["full"] else "disk",
            "Size": size_binary(item["bytes"]),
            "CreatedSince": ago(item["created_at"] / 1e9),
            "Parent": names.get(item["parent"], "-"),
            "Current": "*" if item["current"] else "",
            "Comment": item["comment"],
        }
        for item in found
    ]
    LISTING.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def tree(context: Context, parsed: Parsed) -> int:
    """Which was made from which."""
    out(draw(_all(context, parsed.arguments[0])), end="")
    return 0


def draw(snapshots: list[dict[str, Any]]) -> str:
    """The tree; the present hangs below the snapshot that it descends from."""
    children: dict[str, list[dict[str, Any]]] = {}
    for each_ in snapshots:
        children.setdefault(each_["parent"], []).append(each_)
    lines: list[str] = []

    def branch(parent: str, indent: str, here: bool) -> None:
        below = children.get(parent, [])
        labels = [
            (f"{item['name']} ({'full' if item['full'] else 'disk'})", item) for item in below
        ]
        total = len(labels) + here
        for at, (label, item) in enumerate(labels):
            last = at + 1 == total
            lines.append(f"{indent}{'└─ ' if last else '├─ '}{label}")
            branch(item["id"], indent + ("   " if last else "│  "), item["current"])
        if here:
            lines.append(f"{indent}└─ (now)")

    branch("", "", not any(item["current"] for item in snapshots))
    return "".join(f"{line}\n" for line in lines)


def inspect(context: Context, parsed: Parsed) -> int:
    """Everything about some, or about all of a machine's."""
    machine, *wanted = parsed.arguments
    every = context.client.get(path(machine, "/json"))["snapshots"]
    missing = [key for key in wanted if not any(_is(item, key) for item in every)]
    out(
        wire.pretty([item for item in every if not wanted or any(_is(item, key) for key in wanted)])
    )
    for key in missing:
        err(f"skerry: machine {machine} has no snapshot {key!r:.100}")
    return 1 if missing else 0


def _is(item: dict[str, Any], key: str) -> bool:
    return bool(key == item["name"] or (len(key) >= 4 and item["id"].startswith(key)))


def restore(context: Context, parsed: Parsed) -> int:
    """Go back to one."""
    machine, name = parsed.arguments
    context.client.post(path(machine, f"/snapshots/{quote(name)}/restore"))
    out(name)
    return 0


def rm(context: Context, parsed: Parsed) -> int:
    """Forget some."""
    name, *keys = parsed.arguments
    return each(
        context, keys, lambda key: context.client.delete(path(name, f"/snapshots/{quote(key)}"))
    )


def _command(
    run: Callable[[Context, Parsed], int],
    summary: str,
    *options: Option,
    more: str = "",
    least: int = 1,
    most: int | None = 1,
) -> Command:
    """A command on a machine, and on `more`."""
    synopsis = f"MACHINE {more}".rstrip()
    return Command(
        run, summary, synopsis, options, least=least, most=most, complete="machines none"
    )


COMMANDS = {
    "vm snapshot create": _command(
        create,
        "Keep a machine's present state",
        text("name", "Its name, as well as the argument", "NAME"),
        text("comment", "What it is", "TEXT"),
        switch("disk-only", "Leave memory and devices out"),
        more="[NAME]",
        most=2,
    ),
    "vm snapshot ls": _command(
        ls,
        "List a machine's snapshots",
        text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
        switch("quiet", "Ids only", "q"),
    ),
    "vm snapshot tree": _command(tree, "Show which snapshot was made from which"),
    "vm snapshot inspect": _command(
        inspect, "Show everything about snapshots", more="[SNAPSHOT...]", most=None
    ),
    "vm snapshot restore": _command(
        restore, "Go back to a snapshot", more="SNAPSHOT", least=2, most=2
    ),
    "vm snapshot rm": _command(
        rm,
        "Remove snapshots; those made from them stay",
        more="SNAPSHOT [SNAPSHOT...]",
        least=2,
        most=None,
    ),
}
