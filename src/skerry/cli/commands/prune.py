"""`system prune`, `container prune`, `image prune`: get disk space back."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, NotFound, Unsupported
from skerry.cli.context import Context, err, out, terminal, write
from skerry.cli.human import size_decimal
from skerry.cli.options import Command, Option, Parsed, many, switch
from skerry.cli.values import parse_filters
from skerry.sdk.client import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def prune_containers(context: Context, parsed: Parsed) -> int:
    """Every stopped container."""
    if not agree(parsed, "This will remove all stopped containers."):
        return 0
    out(f"Total reclaimed space: {size_decimal(_containers(context, parsed), 4)}")
    return 0


def prune_images(context: Context, parsed: Parsed) -> int:
    """Every image without a name, or without a container."""
    what = "without at least one container associated to them" if parsed.on("all") else "dangling"
    warning = f"images {what}" if parsed.on("all") else f"{what} images"
    if not agree(parsed, f"This will remove all {warning}."):
        return 0
    out(f"Total reclaimed space: {size_decimal(_images(context, parsed), 4)}")
    return 0


def prune_volumes(context: Context, parsed: Parsed) -> int:
    """Volumes that no container has."""
    what = "volumes" if parsed.on("all") else "anonymous volumes"
    if not agree(parsed, f"This will remove all {what} that no container uses."):
        return 0
    extra = {"all": ["true"]} if parsed.on("all") else {}
    out(f"Total reclaimed space: {size_decimal(_volumes(context, parsed, **extra), 4)}")
    return 0


def prune_networks(context: Context, parsed: Parsed) -> int:
    """Networks that no container is in."""
    if agree(parsed, "This will remove all networks that no container uses."):
        _networks(context, parsed)
    return 0


def prune_system(context: Context, parsed: Parsed) -> int:
    """Containers, then images, then what nothing refers to, then what builds keep."""
    images = "images without at least one container" if parsed.on("all") else "dangling images"
    lines = ["This will remove:", "  - all stopped containers"]
    if parsed.on("volumes"):
        lines.append("  - all anonymous volumes that no container uses")
    lines.append("  - all networks that no container uses")
    lines += [f"  - all {images}", "  - all layers and blobs that nothing refers to"]
    # Records of builds have neither labels nor the names that other filters ask for.
    cache = set(parse_filters(parsed.many("filter"))) <= {"until"}
    if cache:
        lines.append("  - all build cache" if parsed.on("all") else "  - unused build cache")
    if not agree(parsed, "\n".join(lines)):
        return 0
    total = _containers(context, parsed)
    if parsed.on("volumes"):
        total += _volumes(context, parsed)
    _networks(context, parsed)
    total += _images(context, parsed)
    if cache:
        total += _build_cache(context, parsed)
    out(f"Total reclaimed space: {size_decimal(total, 4)}")
    return 0


def agree(parsed: Parsed, warning: str) -> bool:
    """Whether the user says yes, or said --force. InvalidInput without a terminal to ask at."""
    if parsed.on("force"):
        return True
    if not terminal(0):
        raise InvalidInput(f"{warning.splitlines()[0]} Nothing done", hint="say --force to do it")
    write(1, f"WARNING! {warning}\n\nAre you sure you want to continue? [y/N] ".encode())
    return os.read(0, 1024).strip().lower() in (b"y", b"yes")


def _filters(parsed: Parsed, **extra: list[str]) -> str:
    return query(filters=(parse_filters(parsed.many("filter")) | extra) or None)


def _containers(context: Context, parsed: Parsed) -> int:
    answer = context.client.post(f"/containers/prune{_filters(parsed)}")
    _list("Deleted Containers:", answer.get("ContainersDeleted"))
    return int(answer.get("SpaceReclaimed") or 0)


def _images(context: Context, parsed: Parsed) -> int:
    dangling = ["false" if parsed.on("all") else "true"]
    answer = context.client.post(f"/images/prune{_filters(parsed, dangling=dangling)}")
    lines = []
    for change in answer.get("ImagesDeleted") or ():
        for what, shown in (("Untagged", "untagged"), ("Deleted", "deleted")):
            if change.get(what):
                lines.append(f"{shown}: {change[what]}")
    _list("Deleted Images:", lines)
    return int(answer.get("SpaceReclaimed") or 0)


def _build_cache(context: Context, parsed: Parsed) -> int:
    everything = query(
        all=True if parsed.on("all") else None,
        filters=parse_filters(parsed.many("filter")) or None,
    )
    answer = context.client.post(f"/build/prune{everything}")
    _list("Deleted build cache objects:", answer.get("CachesDeleted"))
    return int(answer.get("SpaceReclaimed") or 0)


def _networks(context: Context, parsed: Parsed) -> None:
    answer = context.client.post(f"/networks/prune{_filters(parsed)}")
    _list("Deleted Networks:", answer.get("NetworksDeleted"))


def _volumes(context: Context, parsed: Parsed, **extra: list[str]) -> int:
    try:
        answer: dict[str, Any] = context.client.post(f"/volumes/prune{_filters(parsed, **extra)}")
    except (NotFound, Unsupported) as error:
        err(f"skerry: volumes were left alone: {error.message}")
        return 0
    _list("Deleted Volumes:", answer.get("VolumesDeleted"))
    return int(answer.get("SpaceReclaimed") or 0)


def _list(heading: str, items: Any) -> None:
    if items:
        out("\n".join([heading, *items, ""]))


_FILTER = many("filter", "Only what matches: until=24h, label=…", "NAME=VALUE")
_FORCE = switch("force", "Do not ask", "f")
_ALL = switch("all", "All images that no container uses, not only those without a name", "a")


def _command(run: Any, summary: str, *options: Option) -> Command:
    return Command(run, summary, "", (_FILTER, _FORCE, *options), most=0)


COMMANDS = {
    "container prune": _command(prune_containers, "Remove all stopped containers"),
    "volume prune": _command(
        prune_volumes,
        "Remove volumes that no container uses",
        switch("all", "Named ones as well, not only anonymous ones", "a"),
    ),
    "network prune": _command(prune_networks, "Remove networks that no container uses"),
    "image prune": _command(prune_images, "Remove unused images", _ALL),
    "system prune": _command(
        prune_system,
        "Remove unused data",
        _ALL,
        switch("volumes", "Anonymous volumes as well"),
    ),
}
