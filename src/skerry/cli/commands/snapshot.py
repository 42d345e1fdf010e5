"""`snapshot …` and `fork`: a container's history and its copies."""

from __future__ import annotations

import os

from skerry.base.errors import Conflict
from skerry.cli.commands.archives import OUTPUT, check_output, save_response, send_file
from skerry.cli.context import Context, each, err, out, terminal, visible, write
from skerry.cli.human import ago, size_decimal
from skerry.cli.options import Command, Parsed, number, switch, text
from skerry.cli.table import Listing
from skerry.sdk import wire
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LISTING = Listing(
    {
        "ID": "SNAPSHOT ID",
        "Name": "NAME",
        "Container": "CONTAINER",
        "Parent": "PARENT",
        "Kind": "KIND",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Comment": "COMMENT",
        "Current": "CURRENT",
    },
    "ID Container Name Parent Kind Size CreatedSince",
    "ID",
)


def create(context: Context, parsed: Parsed) -> int:
    """Print the new snapshot's id."""
    target = "/skerry/snapshots" + query(
        container=parsed.arguments[0], name=parsed.text("name"), comment=parsed.text("comment")
    )
    if parsed.on("disk-only"):
        target += "&disk-only=1"
    out(context.client.post(target)["Id"])
    return 0


def list_all(context: Context, parsed: Parsed) -> int:
    """Oldest first."""
    found = _fetch(context, parsed.arguments)
    names = {snapshot["Id"]: snapshot["Name"] for snapshot in found}
    whole = parsed.on("no-trunc")
    rows = [
        {
            "ID": snapshot["Id"] if whole else snapshot["Id"][:12],
            "Name": snapshot["Name"] + (" *" if snapshot["Current"] else ""),
            "Container": snapshot["ContainerName"],
            "Parent": names.get(snapshot["Parent"], ""),
            "Kind": snapshot["Kind"],
            "Size": size_decimal(snapshot["Size"], 3),
            "CreatedSince": ago(snapshot["Created"]),
            "CreatedAt": snapshot["CreatedAt"],
            "Comment": snapshot["Comment"],
            "Current": str(snapshot["Current"]).lower(),
        }
        for snapshot in found
    ]
    _LISTING.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def _fetch(context: Context, containers: list[str]) -> list[dict[str, Any]]:
    wanted = containers[0] if containers else ""
    found: list[dict[str, Any]] = context.client.get("/skerry/snapshots" + query(container=wanted))
    return found


def tree(context: Context, parsed: Parsed) -> int:
    """Each snapshot below the one it grew from; the star is where the container is."""
    found = _fetch(context, parsed.arguments)
    known = {snapshot["Id"] for snapshot in found}
    below: dict[str, list[dict[str, Any]]] = {}
    for snapshot in found:
        parent = snapshot["Parent"] if snapshot["Parent"] in known else snapshot["ContainerName"]
        below.setdefault(parent, []).append(snapshot)
    for name in dict.fromkeys(snapshot["ContainerName"] for snapshot in found):
        out(visible(name))
        for line in _branches(below, name):
            out(line)
    return 0


def _branches(below: dict[str, list[dict[str, Any]]], root: str) -> Iterator[str]:
    waiting = [("", below.get(root, []), 0)]
    while waiting:
        indent, siblings, at = waiting.pop()
        if at == len(siblings):
            continue
        waiting.append((indent, siblings, at + 1))
        snapshot, last = siblings[at], at == len(siblings) - 1
        about = f"{snapshot['Name']}{' *' if snapshot['Current'] else ''}"
        if snapshot["Kind"] != "disk":
            about += f" ({snapshot['Kind']})"
        if snapshot["Comment"]:
            about += f": {snapshot['Comment']}"
        yield visible(f"{indent}{'└─ ' if last else '├─ '}{about}")
        waiting.append((indent + ("   " if last else "│  "), below.get(snapshot["Id"], []), 0))


def inspect(context: Context, parsed: Parsed) -> int:
    """Everything the engine knows of snapshots."""
    found = [context.client.get(f"/skerry/snapshots/{quote(name)}") for name in parsed.arguments]
    form = parsed.text("format")
    if form in ("", "json"):
        out(wire.pretty(found) if not form else "\n".join(map(wire.dumps, found)))
        return 0
    from skerry.cli import template

    parsed_form = template.parse(form)
    out("\n".join(parsed_form.render(value) for value in found))
    return 0


def restore(context: Context, parsed: Parsed) -> int:
    """Print the snapshot's id; asks before it ends what runs."""
    name = parsed.arguments[0]
    target = f"/skerry/snapshots/{quote(name)}/restore"
    snapshot = context.client.get(f"/skerry/snapshots/{quote(name)}")
    try:
        context.client.post(target + query(force=True if parsed.on("force") else None))
    except Conflict:
        holder = visible(snapshot["ContainerName"])
        if parsed.on("force") or not terminal(0) or not _agreed(holder):
            raise
        context.client.post(target + query(force=True))
    out(snapshot["Id"])
    return 0


def _agreed(container: str) -> bool:
    question = f"{container} runs. Kill its programs and restore? [y/N] "
    write(2, question.encode())
    return os.read(0, 1024).strip().lower() in (b"y", b"yes")


def remove(context: Context, parsed: Parsed) -> int:
    """Forget snapshots; those taken after them stay."""
    return each(
        context,
        parsed.arguments,
        lambda name: context.client.delete(f"/skerry/snapshots/{quote(name)}"),
    )


def export(context: Context, parsed: Parsed) -> int:
    """To a file, or to standard output."""
    check_output(parsed)
    image = query(image=False if parsed.on("no-image") else None)
    target = f"/skerry/snapshots/{quote(parsed.arguments[0])}/export{image}"
    return save_response(context.client.open("GET", target), parsed.text("output"))


def import_(context: Context, parsed: Parsed) -> int:
    """Print the name of the container that was made of the archive."""
    source = parsed.arguments[0]
    target = "/skerry/snapshots/import" + query(name=parsed.text("name"))
    out(send_file(context, "POST", target, source)["ContainerName"])
    return 0


def fork(context: Context, parsed: Parsed) -> int:
    """Print the name of each copy; 1 when one of them failed, or what was to be done in it."""
    count = parsed.number("number", 1)
    target = "/skerry/fork" + query(
        container=parsed.arguments[0],
        count=count,
        name=parsed.text("name"),
        start=parsed.on("start") if "start" in parsed.given else None,
    )
    code = 0
    for made in context.client.post(target):
        if made["Error"]:
            err(f"skerry: {visible(made['Name'])}: {visible(made['Error'])}")
            code = 1
        else:
            out(made["Name"])
            if made["Warning"]:
                err(f"skerry: {visible(made['Name'])}: {visible(made['Warning'])}")
                code = 1
    return code


def promote(context: Context, parsed: Parsed) -> int:
    """Print the new machine's name."""
    target = "/skerry/promote" + query(container=parsed.arguments[0], name=parsed.text("name"))
    out(context.client.post(target)["Name"])
    return 0


COMMANDS = {
    "promote": Command(
        promote,
        "Make a machine with a stopped container's files and options",
        "CONTAINER",
        (text("name", "Name of the machine (default the container's, -vm-1)", "NAME"),),
        least=1,
        most=1,
        complete="stopped",
    ),
    "snapshot create": Command(
        create,
        "Keep a container as it is now",
        "CONTAINER",
        (
            text("name", "Name of the snapshot (default s1, s2, …)", "NAME"),
            text("comment", "What it is for", "TEXT", "m"),
            switch("disk-only", "Of a running machine: not its memory"),
        ),
        least=1,
        most=1,
        complete="containers",
    ),
    "snapshot ls": Command(
        list_all,
        "List snapshots",
        "[CONTAINER]",
        (
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("no-trunc", "Do not shorten ids"),
            switch("quiet", "Ids only", "q"),
        ),
        most=1,
        complete="containers",
    ),
    "snapshot tree": Command(
        tree,
        "Show which snapshot grew from which",
        "[CONTAINER]",
        most=1,
        complete="containers",
    ),
    "snapshot inspect": Command(
        inspect,
        "Show everything about snapshots",
        "SNAPSHOT [SNAPSHOT...]",
        (text("format", "'json' or a Go template", "FORMAT", "f"),),
        least=1,
    ),
    "snapshot restore": Command(
        restore,
        "Take a container back to a snapshot",
        "SNAPSHOT",
        (switch("force", "Also when it runs: its programs are killed", "f"),),
        least=1,
        most=1,
    ),
    "snapshot rm": Command(remove, "Forget snapshots", "SNAPSHOT [SNAPSHOT...]", least=1),
    "snapshot export": Command(
        export,
        "Write a snapshot to a file",
        "SNAPSHOT",
        (
            OUTPUT,
            switch("no-image", "Leave the image out: the importing engine has it"),
        ),
        least=1,
        most=1,
    ),
    "snapshot import": Command(
        import_,
        "Make a container of a snapshot's file",
        "FILE|-",
        (text("name", "Name of the container", "NAME"),),
        least=1,
        most=1,
        complete="files",
    ),
    "fork": Command(
        fork,
        "Copy a container; the copies go on from where it is",
        "CONTAINER",
        (
            number("number", "How many copies", short="n"),
            text("name", "Copies are NAME-1, NAME-2, … (default the container's)", "NAME"),
            switch("start", "Start them (default: when the container runs)"),
        ),
        least=1,
        most=1,
        complete="containers",
    ),
}
