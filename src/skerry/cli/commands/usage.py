"""`system df`: where the disk went."""

from __future__ import annotations

from skerry.base.errors import NotFound, Unsupported
from skerry.cli.commands import images as image_rows
from skerry.cli.commands import ps
from skerry.cli.context import Context, out
from skerry.cli.human import size_decimal
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.table import Listing, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    {
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    },
    "Type TotalCount Active Size Reclaimable",
    "Type",
)


def df(context: Context, parsed: Parsed) -> int:
    """Docker's table, then the account of every byte below the engine's root."""
    answer = context.client.get("/system/df")
    if parsed.on("verbose"):
        _verbose(answer)
    else:
        LISTING.show(summary(answer), form=parsed.text("format"))
    if parsed.text("format"):
        return 0
    try:
        account = context.client.get("/skerry/usage")
    except (NotFound, Unsupported):
        return 0  # another engine
    out("")
    out(layout(account_rows(account)), end="")
    return 0


def account_rows(account: dict[str, Any]) -> list[list[str]]:
    """The categories of `/skerry/usage`; their sum is what du(1) says of the root."""
    rows = [["ON DISK", "SIZE", "RECLAIMABLE"]]
    for name, category in (account.get("categories") or {}).items():
        used, free = category.get("bytes") or 0, category.get("reclaimable") or 0
        rows.append([name.capitalize(), size_decimal(used, 4), size_decimal(free, 4)])
    total, free = account.get("total") or 0, account.get("reclaimable") or 0
    rows.append(["Total", size_decimal(total, 4), size_decimal(free, 4)])
    return rows


def summary(answer: dict[str, Any]) -> list[dict[str, str]]:
    """A row for images, containers, volumes and the build cache."""
    images = answer.get("Images") or []
    containers = answer.get("Containers") or []
    volumes = answer.get("Volumes") or []
    cache = answer.get("BuildCache") or []
    layers = answer.get("LayersSize") or 0
    used = answer.get("LayersUsedSize")
    if used is None:  # another engine
        used = sum(
            (image.get("Size") or 0) - max(image.get("SharedSize") or 0, 0)
            for image in images
            if image.get("Containers")
        )
    running = [
        each for each in containers if each.get("State") in ("running", "paused", "restarting")
    ]
    size = sum(each.get("SizeRw") or 0 for each in containers)
    running_size = sum(each.get("SizeRw") or 0 for each in running)
    usages = [volume.get("UsageData") or {} for volume in volumes]
    volume_size = sum(max(usage.get("Size") or 0, 0) for usage in usages)
    idle = sum(max(usage.get("Size") or 0, 0) for usage in usages if not usage.get("RefCount"))
    active_images = sum(bool(image.get("Containers")) for image in images)
    active_volumes = sum(bool(usage.get("RefCount")) for usage in usages)
    cached = sum(each.get("Size") or 0 for each in cache if not each.get("Shared"))
    busy = sum(bool(each.get("InUse")) for each in cache)
    return [
        _row("Images", len(images), active_images, layers, max(layers - used, 0)),
        _row("Containers", len(containers), len(running), size, size - running_size),
        _row("Local Volumes", len(volumes), active_volumes, volume_size, idle),
        _row("Build Cache", len(cache), busy, cached, cached, percent=False),
    ]


def _row(
    kind: str, total: int, active: int, size: int, free: int, *, percent: bool = True
) -> dict[str, str]:
    share = f" ({free * 100 // size}%)" if size and percent else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": size_decimal(size, 4),
        "Reclaimable": f"{size_decimal(free, 4)}{share}",
    }


def _verbose(answer: dict[str, Any]) -> None:
    out("Images space usage:\n")
    rows = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE",
             "CONTAINERS"]]  # fmt: skip
    for image in answer.get("Images") or ():
        for each in image_rows.rows_of(image, whole=False, digests=False):
            names = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize")
            rows.append([*(each[name] for name in names), each["Containers"]])
    out(layout(rows))
    out("Containers space usage:\n")
    rows = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS",
             "NAMES"]]  # fmt: skip
    for container in answer.get("Containers") or ():
        each = ps.fields(container, whole=False)
        each["Size"] = size_decimal(container.get("SizeRw") or 0, 3)
        columns = "ID Image Command LocalVolumes Size RunningFor Status Names"
        rows.append([each[name] for name in columns.split()])
    out(layout(rows))
    out("Local Volumes space usage:\n")
    rows = [["VOLUME NAME", "LINKS", "SIZE"]]
    for volume in answer.get("Volumes") or ():
        usage = volume.get("UsageData") or {}
        links, size = usage.get("RefCount") or 0, size_decimal(usage.get("Size") or 0, 3)
        rows.append([volume["Name"], str(links), size])
    out(layout(rows), end="")


COMMANDS = {
    "system df": Command(
        df,
        "Show where the disk went",
        "",
        (
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("verbose", "A line for each object", "v"),
        ),
        most=0,
    )
}
