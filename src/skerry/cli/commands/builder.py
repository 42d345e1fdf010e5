"""`builder …`: what builds keep, the cache and the cache mounts."""

from __future__ import annotations

from skerry.cli.commands.archives import OUTPUT, check_output, save_response, send_file
from skerry.cli.commands.prune import agree
from skerry.cli.context import Context, each, out
from skerry.cli.human import ago, size_decimal
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.table import Listing
from skerry.cli.values import parse_filters, parse_size, parse_time
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CACHE = Listing(
    {
        "ID": "CACHE ID",
        "Parent": "PARENT",
        "Type": "CACHE TYPE",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "LastUsedSince": "LAST USED",
        "UsageCount": "USAGE",
        "Shared": "SHARED",
        "InUse": "IN USE",
        "Description": "DESCRIPTION",
    },
    "ID Type Size CreatedSince LastUsedSince UsageCount Shared Description",
    "ID",
)
_MOUNTS = Listing(
    {
        "Name": "NAME",
        "ID": "ID",
        "Path": "PATH",
        "Placed": "PLACED",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "LastUsedSince": "LAST USED",
        "UsageCount": "USAGE",
        "InUse": "IN USE",
    },
    "Name ID Size LastUsedSince UsageCount Path",
    "Name",
)


def usage(context: Context, parsed: Parsed) -> int:
    """Each record of the cache, then the sum."""
    answer = context.client.get("/system/df" + query(type="build-cache"))
    found: list[dict[str, Any]] = answer.get("BuildCache") or []
    rows = [
        {
            "ID": record["ID"] if parsed.on("no-trunc") else record["ID"][:12],
            "Parent": ((record.get("Parents") or [""])[0])[:12],
            "Type": record["Type"],
            "Size": size_decimal(record["Size"], 3),
            "CreatedSince": ago(_seconds(record["CreatedAt"])),
            "LastUsedSince": ago(_seconds(record["LastUsedAt"])),
            "UsageCount": str(record["UsageCount"]),
            "Shared": str(record["Shared"]).lower(),
            "InUse": str(record["InUse"]).lower(),
            "Description": record["Description"]
            if parsed.on("no-trunc")
            else record["Description"][:60],
        }
        for record in found
    ]
    _CACHE.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    if not parsed.text("format") and not parsed.on("quiet"):
        total = sum(record["Size"] for record in found)
        free = sum(record["Size"] for record in found if not record["Shared"])
        out(f"Reclaimable: {size_decimal(free, 4)}\nTotal: {size_decimal(total, 4)}")
    return 0


def _seconds(when: str) -> float:
    return float(parse_time(when))


def prune(context: Context, parsed: Parsed) -> int:
    """Records that nothing needs, the least recently used first."""
    what = "all build cache" if parsed.on("all") else "build cache that no image shares"
    if not agree(parsed, f"This will remove {what}."):
        return 0
    sizes: dict[str, int] = {
        name: parse_size(parsed.text(option), option)
        for option, name in _PRUNE_SIZES.items()
        if option in parsed.given
    }
    target = "/build/prune" + query(
        all=True if parsed.on("all") else None,
        filters=parse_filters(parsed.many("filter")) or None,
        **sizes,
    )
    answer = context.client.post(target)
    for name in answer.get("CachesDeleted") or ():
        out(name)
    out(f"Total reclaimed space: {size_decimal(int(answer.get('SpaceReclaimed') or 0), 4)}")
    return 0


_PRUNE_SIZES = {
    "reserved-space": "reserved-space",
    "keep-storage": "keep-storage",
    "max-used-space": "max-used-space",
    "min-free-space": "min-free-space",
}


def mounts(context: Context, parsed: Parsed) -> int:
    """The cache mounts."""
    rows = [
        {
            "Name": mount["Name"],
            "ID": mount["Id"],
            "Path": mount["Path"],
            "Placed": str(mount["Placed"]).lower(),
            "Size": size_decimal(mount["Size"], 3),
            "CreatedSince": ago(_seconds(mount["CreatedAt"])),
            "LastUsedSince": ago(_seconds(mount["LastUsedAt"])),
            "UsageCount": str(mount["UsageCount"]),
            "InUse": str(mount["InUse"]).lower(),
        }
        for mount in context.client.get("/skerry/build/mounts")
    ]
    _MOUNTS.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def place(context: Context, parsed: Parsed) -> int:
    """Print where it lies now."""
    name, path = parsed.arguments
    target = f"/skerry/build/mounts/{quote(name)}/place" + query(path=path)
    out(context.client.post(target)["Path"])
    return 0


def export(context: Context, parsed: Parsed) -> int:
    """To a file, or to standard output."""
    check_output(parsed)
    target = f"/skerry/build/mounts/{quote(parsed.arguments[0])}/archive"
    return save_response(context.client.open("GET", target), parsed.text("output"))


def import_(context: Context, parsed: Parsed) -> int:
    """Print the mount's name."""
    name, source = parsed.arguments
    target = f"/skerry/build/mounts/{quote(name)}/archive"
    out(send_file(context, "PUT", target, source)["Name"])
    return 0


def remove(context: Context, parsed: Parsed) -> int:
    """With what is in them."""
    return each(
        context,
        parsed.arguments,
        lambda name: context.client.delete(f"/skerry/build/mounts/{quote(name)}"),
    )


_FORMAT = text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT")
_QUIET = switch("quiet", "Names only", "q")
COMMANDS = {
    "builder du": Command(
        usage,
        "Show what the build cache holds",
        "",
        (_FORMAT, _QUIET, switch("no-trunc", "Do not shorten ids and descriptions")),
        most=0,
    ),
    "builder prune": Command(
        prune,
        "Remove build cache",
        "",
        (
            many("filter", "Only what matches: until=24h, type=exec.cachemount", "NAME=VALUE"),
            switch("force", "Do not ask", "f"),
            switch("all", "Also what images share", "a"),
            text("reserved-space", "Always keep so much", "SIZE"),
            text("keep-storage", "Older name of --reserved-space", "SIZE"),
            text("max-used-space", "Keep no more than so much", "SIZE"),
            text("min-free-space", "Until so much of the disk is free", "SIZE"),
        ),
        most=0,
    ),
    "builder mounts": Command(mounts, "List cache mounts", "", (_FORMAT, _QUIET), most=0),
    "builder place": Command(
        place, "Let a cache mount lie at a path of the engine's host", "MOUNT PATH", least=2, most=2
    ),
    "builder export": Command(
        export, "Write a cache mount as a tar archive", "MOUNT", (OUTPUT,), least=1, most=1
    ),
    "builder import": Command(
        import_, "Fill a cache mount from a tar archive", "MOUNT FILE|-", least=2, most=2
    ),
    "builder rm": Command(remove, "Remove cache mounts", "MOUNT [MOUNT...]", least=1),
}
