"""`ps`: list containers."""

from __future__ import annotations

from skerry.cli.context import Context, visible
from skerry.cli.human import ago, local_time, size_decimal
from skerry.cli.options import Command, Parsed, many, number, switch, text
from skerry.cli.table import Listing, ellipsis, label_method, label_text
from skerry.cli.values import parse_filters
from skerry.sdk.client import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    {
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "Ports": "PORTS",
        "Names": "NAMES",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "Labels": "LABELS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Mounts": "MOUNTS",
        "Networks": "NETWORKS",
        "State": "STATE",
    },
    "ID Image Command RunningFor Status Ports Names",
    "ID",
)


def ps(context: Context, parsed: Parsed) -> int:
    """List running containers, or all."""
    last = 1 if parsed.on("latest") else parsed.number("last", -1)
    form = parsed.text("format")
    size = parsed.on("size") or ".Size" in form
    target = "/containers/json" + query(
        all=True if parsed.on("all") or last > 0 else None,
        limit=last if last > 0 else None,
        size=True if size else None,
        filters=parse_filters(parsed.many("filter")) or None,
    )
    containers = context.client.get(target)
    whole = parsed.on("no-trunc")
    listing = LISTING
    if parsed.on("size"):
        listing = Listing(LISTING.headings, f"{LISTING.default} Size", "ID")
    rows = [fields(container, whole=whole) for container in containers]
    listing.show(rows, form=form, quiet=parsed.on("quiet"), methods=label_method)
    return 0


def fields(container: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """A container of the API's list as the table's fields."""
    names = [name.removeprefix("/") for name in container.get("Names") or ()]
    if not whole:
        # Names with a slash are links: CONTAINER/ALIAS.
        names = [name for name in names if "/" not in name]
    command = container.get("Command") or ""
    command = command if whole else ellipsis(command, 20)
    labels = container.get("Labels") or {}
    networks = ((container.get("NetworkSettings") or {}).get("Networks")) or {}
    mounts = container.get("Mounts") or ()
    sources = [mount.get("Name") or mount.get("Source") or "" for mount in mounts]
    written, total = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    size = size_decimal(written, 3) + (f" (virtual {size_decimal(total, 3)})" if total else "")
    return {
        "Command": '"' + visible(command.replace("\\", "\\\\").replace('"', '\\"')) + '"',
        "CreatedAt": local_time(container["Created"]),
        "ID": container["Id"] if whole else container["Id"][:12],
        "Image": _image(container, whole=whole),
        "Labels": label_text(labels),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Mounts": ",".join(source if whole else ellipsis(source, 15) for source in sources),
        "Names": ",".join(names),
        "Networks": ",".join(sorted(networks)),
        "Ports": ports(container.get("Ports") or ()),
        "RunningFor": ago(container["Created"]),
        "Size": size,
        "State": container.get("State") or "",
        "Status": container.get("Status") or "",
        "labels": labels,
    }


def _image(container: dict[str, Any], *, whole: bool) -> str:
    image: str = container.get("Image") or "<no image>"
    if whole:
        return image
    return image.removeprefix("sha256:")[:12] if image.startswith("sha256:") else image


def ports(published: Any) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`, neighbours joined to ranges."""
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for port in published:
        key = (str(port.get("IP") or ""), str(port.get("Type") or "tcp"))
        groups.setdefault(key, []).append((port["PrivatePort"], port.get("PublicPort") or 0))
    shown = []
    for (address, kind), pairs in groups.items():
        for inner, outer, count in _runs(sorted(set(pairs))):
            inside = f"{inner}-{inner + count}" if count else str(inner)
            if not outer:
                shown.append((inner, f"{inside}/{kind}"))
                continue
            outside = f"{outer}-{outer + count}" if count else str(outer)
            host = f"[{address}]" if ":" in address else address
            shown.append((inner, f"{host}:{outside}->{inside}/{kind}"))
    return ", ".join(text for _, text in sorted(shown))


def _runs(pairs: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(first inner, first outer, how many follow) of ports next to each other on both sides."""
    runs: list[tuple[int, int, int]] = []
    for inner, outer in pairs:
        if runs:
            first, first_outer, count = runs[-1]
            follows = outer == first_outer + count + 1 if first_outer else not outer
            if inner == first + count + 1 and follows:
                runs[-1] = (first, first_outer, count + 1)
                continue
        runs.append((inner, outer, 0))
    return runs


COMMANDS = {
    "ps": Command(
        ps,
        "List containers",
        "",
        (
            switch("all", "Also those that do not run", "a"),
            many("filter", "Show only what matches: status=exited, name=…", "NAME=VALUE", "f"),
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            number("last", "The last N created, in any state", "N", "n"),
            switch("latest", "The last one created, in any state", "l"),
            switch("no-trunc", "Do not shorten"),
            switch("quiet", "Ids only", "q"),
            switch("size", "Show sizes", "s"),
        ),
        most=0,
    )
}
