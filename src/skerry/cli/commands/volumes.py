"""`volume create`, `ls`, `rm`, `export`, `import`, `backup`."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.cli.commands.archives import OUTPUT, check_output, read_file, save_response
from skerry.cli.context import Context, each, out
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.table import Listing, label_method, label_text
from skerry.cli.values import key_values, parse_filters
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    {
        "Driver": "DRIVER",
        "Name": "VOLUME NAME",
        "Labels": "LABELS",
        "Mountpoint": "MOUNTPOINT",
        "Scope": "SCOPE",
        "Links": "LINKS",
        "Size": "SIZE",
        "Status": "STATUS",
    },
    "Driver Name",
    "Name",
)


def create(context: Context, parsed: Parsed) -> int:
    """A volume, empty."""
    body = {
        "Name": parsed.arguments[0] if parsed.arguments else "",
        "Driver": parsed.text("driver"),
        "DriverOpts": key_values(parsed.many("opt"), "option"),
        "Labels": key_values(parsed.many("label"), "label"),
    }
    out(context.client.post("/volumes/create", body)["Name"])
    return 0


def list_all(context: Context, parsed: Parsed) -> int:
    """Volumes by name."""
    filters = parse_filters(parsed.many("filter"))
    answer = context.client.get("/volumes" + query(filters=filters or None))
    rows = [_row(volume) for volume in answer.get("Volumes") or ()]
    form, quiet = parsed.text("format"), parsed.on("quiet")
    LISTING.show(rows, form=form, quiet=quiet, methods=label_method)
    return 0


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    labels = volume.get("Labels") or {}
    return {
        **{name: volume.get(name, "") for name in ("Driver", "Name", "Mountpoint", "Scope")},
        "Labels": label_text(labels),
        # What `system df -v` counts.
        **dict.fromkeys(("Links", "Size", "Status"), "N/A"),
        "labels": labels,
    }


def remove(context: Context, parsed: Parsed) -> int:
    """Volumes that no container has."""
    force = query(force=True if parsed.on("force") else None)

    def one(name: str) -> None:
        context.client.delete(f"/volumes/{quote(name)}{force}")

    return each(context, parsed.arguments, one)


def export(context: Context, parsed: Parsed) -> int:
    """What is in a volume."""
    check_output(parsed)
    return _save(context, parsed.arguments[0], parsed.text("output"))


def _save(context: Context, name: str, path: str) -> int:
    response = context.client.open("GET", f"/skerry/volumes/{quote(name)}/archive")
    return save_response(response, path)


def import_(context: Context, parsed: Parsed) -> int:
    """Replace what is in a volume."""
    name, path = parsed.arguments[0], [*parsed.arguments, "-"][1]
    headers = {"Content-Type": "application/x-tar"}
    target = f"/skerry/volumes/{quote(name)}/archive"
    response = context.client.open("PUT", target, read_file(path), headers)
    response.connection.close()
    out(name)
    return 0


def backup(context: Context, parsed: Parsed) -> int:
    """One archive for each volume, in a folder."""
    folder = parsed.text("directory") or "."
    if not os.path.isdir(folder):
        raise InvalidInput(f"cannot write to {folder}: it is no folder")
    names = parsed.arguments or [
        volume["Name"] for volume in context.client.get("/volumes").get("Volumes") or ()
    ]

    def one(name: str) -> str:
        path = os.path.join(folder, f"{name}.tar")
        _save(context, name, path)
        return path

    return each(context, names, one)


COMMANDS = {
    "volume create": Command(
        create,
        "Make a volume",
        "[VOLUME]",
        (
            text("driver", "Only 'local'", "DRIVER", "d"),
            many("label", "Set a label", "NAME=VALUE"),
            many("opt", "Of the driver: type=, device=, o= as for mount; size=", "NAME=VALUE", "o"),
        ),
        most=1,
        text="With a device the volume is mounted while a container that has it runs.",
    ),
    "volume ls": Command(
        list_all,
        "List volumes",
        "",
        (
            many("filter", "Only what matches: dangling=true, label=…, name=…", "NAME=VALUE", "f"),
            text("format", "'table', 'json' or a Go template", "FORMAT"),
            switch("quiet", "Names only", "q"),
        ),
        most=0,
    ),
    "volume rm": Command(
        remove,
        "Remove volumes",
        "VOLUME [VOLUME...]",
        (switch("force", "No error for a volume that is not there", "f"),),
        least=1,
        complete="volumes",
    ),
    "volume export": Command(
        export,
        "Write what is in a volume as a tar archive",
        "VOLUME",
        (OUTPUT,),
        least=1,
        most=1,
        complete="volumes",
    ),
    "volume import": Command(
        import_,
        "Replace what is in a volume by a tar archive; makes the volume when it is missing",
        "VOLUME [FILE|-]",
        (),
        least=1,
        most=2,
        complete="volumes",
    ),
    "volume backup": Command(
        backup,
        "Write volumes as VOLUME.tar each, all of them when none is named",
        "[VOLUME...]",
        (text("directory", "Where to; the current folder otherwise", "DIR", "d"),),
        complete="volumes",
    ),
}
