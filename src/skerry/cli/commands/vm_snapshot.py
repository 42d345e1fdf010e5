"""`vm snapshot`: points in a machine's life to go back to."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.cli.commands.vm import path
from skerry.cli.context import Context, each, out
from skerry.cli.human import ago, size_binary
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.table import Listing
from skerry.sdk import wire
from skerry.sdk.client import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def snapshot(context: Context, parsed: Parsed) -> int:
    """`create`, `ls`, `tree`, `inspect`, `restore`, `rm`: the first argument says which."""
    action, *words = parsed.arguments
    if action not in _ACTIONS:
        raise InvalidInput(
            f"unknown command: skerry vm snapshot {action}", hint=f"choose {', '.join(_ACTIONS)}"
        )
    least, do = _ACTIONS[action]
    if len(words) < least:
        raise InvalidInput(
            f"'skerry vm snapshot {action}' needs a machine{' and a snapshot' * (least > 1)}"
        )
    return do(context, parsed, words)


def _all(context: Context, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = context.client.get(path(name, "/snapshots"))
    return found


def _create(context: Context, parsed: Parsed, words: list[str]) -> int:
    name = parsed.text("name") or (words[1] if len(words) > 1 else "")
    body = {"name": name, "comment": parsed.text("comment"), "disk_only": parsed.on("disk-only")}
    out(context.client.post(path(words[0], "/snapshots"), body)["Name"])
    return 0


def _ls(context: Context, parsed: Parsed, words: list[str]) -> int:
    found = _all(context, words[0])
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


def _tree(context: Context, parsed: Parsed, words: list[str]) -> int:
    out(draw(_all(context, words[0])), end="")
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


def _inspect(context: Context, parsed: Parsed, words: list[str]) -> int:
    record = context.client.get(path(words[0], "/json"))
    wanted = words[1:]
    found = [
        item
        for item in record["snapshots"]
        if not wanted or any(key == item["name"] or item["id"].startswith(key) for key in wanted)
    ]
    out(wire.pretty(found))
    return 0 if found or not wanted else 1


def _restore(context: Context, parsed: Parsed, words: list[str]) -> int:
    context.client.post(path(words[0], f"/snapshots/{quote(words[1])}/restore"))
    out(words[1])
    return 0


def _rm(context: Context, parsed: Parsed, words: list[str]) -> int:
    name, *keys = words
    return each(
        context, keys, lambda key: context.client.delete(path(name, f"/snapshots/{quote(key)}"))
    )


_ACTIONS = {
    "create": (1, _create),
    "ls": (1, _ls),
    "tree": (1, _tree),
    "inspect": (1, _inspect),
    "restore": (2, _restore),
    "rm": (2, _rm),
}
COMMANDS = {
    "vm snapshot": Command(
        snapshot,
        "Make, list, show, restore and remove snapshots of a machine",
        "create|ls|tree|inspect|restore|rm MACHINE [SNAPSHOT...]",
        (
            text("name", "Name of the snapshot to create", "NAME"),
            text("comment", "What the created snapshot is", "TEXT"),
            switch("disk-only", "Leave memory and devices out of the created one"),
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("quiet", "Ids only", "q"),
        ),
        least=1,
        complete="machines",
        text="create MACHINE [NAME]; ls, tree and inspect MACHINE; restore MACHINE SNAPSHOT; "
        "rm MACHINE SNAPSHOT...",
    )
}
