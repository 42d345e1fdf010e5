"""`images`, `rmi`, `tag`, `history`, `image exists`."""

from __future__ import annotations

from skerry.base.errors import NotFound, SkerryError
from skerry.cli.commands.pull import split_tag
from skerry.cli.context import Context, out, report
from skerry.cli.human import ago, local_time, rfc3339, size_decimal
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.table import Listing, ellipsis
from skerry.cli.values import parse_filters
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_NONE = "<none>"
LISTING = Listing(
    {
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "Containers": "CONTAINERS",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "VirtualSize": "VIRTUAL SIZE",
    },
    "Repository Tag ID CreatedSince Size",
    "ID",
)
HISTORY = Listing(
    {
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    },
    "ID CreatedSince CreatedBy Size Comment",
    "ID",
)


def images(context: Context, parsed: Parsed) -> int:
    """List images, a row for each tag."""
    filters = parse_filters(parsed.many("filter"))
    if parsed.arguments:
        filters.setdefault("reference", []).append(parsed.arguments[0])
    target = "/images/json" + query(all=True if parsed.on("all") else None, filters=filters or None)
    whole, digests = parsed.on("no-trunc"), parsed.on("digests")
    rows = [
        row
        for image in context.client.get(target)
        for row in rows_of(image, whole=whole, digests=digests or "Digest" in parsed.text("format"))
    ]
    default = LISTING.default.replace("Tag", "Tag Digest") if digests else LISTING.default
    listing = Listing(LISTING.headings, default, "ID")
    if parsed.on("quiet"):
        rows = list({row["ID"]: row for row in rows}.values())
    listing.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def rows_of(image: dict[str, Any], *, whole: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """An image of the API's list as rows of fields."""
    common = {
        "ID": image["Id"] if whole else image["Id"].removeprefix("sha256:")[:12],
        "CreatedSince": ago(image["Created"]),
        "CreatedAt": local_time(image["Created"]),
        "Size": size_decimal(image["Size"], 3),
        "VirtualSize": size_decimal(image.get("VirtualSize") or image["Size"]),
        "Containers": _known(image.get("Containers", -1)),
        "SharedSize": _known_size(image.get("SharedSize", -1)),
        "UniqueSize": "N/A",
    }
    if image.get("SharedSize", -1) >= 0:
        common["UniqueSize"] = size_decimal(image["Size"] - image["SharedSize"], 3)
    by_name = dict(item.rsplit("@", 1) for item in image.get("RepoDigests") or () if "@" in item)
    names = [item for item in image.get("RepoTags") or () if item != "<none>:<none>"]
    for name in names:
        repository, tag = split_tag(name)
        digest = by_name.get(repository, _NONE)
        yield {"Repository": repository, "Tag": tag, "Digest": digest, **common}
    if not names:
        # Pulled by digest, or once tagged and overtaken.
        for repository, digest in by_name.items() if digests and by_name else [(_NONE, _NONE)]:
            yield {"Repository": repository, "Tag": _NONE, "Digest": digest, **common}


def _known(count: int) -> str:
    return str(count) if count >= 0 else "N/A"


def _known_size(count: int) -> str:
    return size_decimal(count, 3) if count >= 0 else "N/A"


def remove(context: Context, parsed: Parsed) -> int:
    """Untag; delete what has no tag left."""
    force, code = parsed.on("force"), 0
    parameters = query(
        force=True if force else None, noprune=True if parsed.on("no-prune") else None
    )
    for name in parsed.arguments:
        try:
            changes = context.client.delete(f"/images/{quote(name)}{parameters}")
        except SkerryError as error:
            report(error)
            if not (force and isinstance(error, NotFound)):
                code = 1
            continue
        for change in changes or ():
            for what in ("Untagged", "Deleted"):
                if change.get(what):
                    out(f"{what}: {change[what]}")
    return code


def tag(context: Context, parsed: Parsed) -> int:
    """Give an image a further name."""
    source, target = parsed.arguments
    name, label = split_tag(target)
    context.client.post(f"/images/{quote(source)}/tag{query(repo=name, tag=label)}")
    return 0


def history(context: Context, parsed: Parsed) -> int:
    """How an image was made, the newest step first."""
    steps = context.client.get(f"/images/{quote(parsed.arguments[0])}/history")
    whole, human = parsed.on("no-trunc"), parsed.on("human", True)
    rows = []
    for step in steps:
        created_by = " ".join((step.get("CreatedBy") or "").split())
        moment = step.get("Created") or 0
        name = step.get("Id") or "<missing>"
        rows.append(
            {
                "ID": name if whole else name.removeprefix("sha256:")[:12],
                "CreatedSince": ((ago(moment) or "N/A") if human else _timestamp(moment)),
                "CreatedAt": _timestamp(moment),
                "CreatedBy": created_by if whole else ellipsis(created_by, 45),
                "Size": size_decimal(step["Size"], 3) if human else str(step["Size"]),
                "Comment": step.get("Comment") or "",
            }
        )
    for row in rows:
        if row["ID"].startswith("<missing"):
            row["ID"] = "<missing>"
    columns = HISTORY.default if human else HISTORY.default.replace("CreatedSince", "CreatedAt")
    listing = Listing(HISTORY.headings, columns, "ID")
    listing.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def _timestamp(moment: float) -> str:
    text_ = rfc3339(int(moment) * 10**9)
    return text_[:19] + (text_[29:] or "Z")


def exists(context: Context, parsed: Parsed) -> int:
    """0 when the image is here, 1 when not."""
    try:
        context.client.get(f"/images/{quote(parsed.arguments[0])}/json")
    except NotFound:
        return 1
    return 0


COMMANDS = {
    "images": Command(
        images,
        "List images",
        "[REPOSITORY[:TAG]]",
        (
            switch("all", "Also intermediate images", "a"),
            switch("digests", "Show digests"),
            many("filter", "Show only what matches: dangling=true, …", "NAME=VALUE", "f"),
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("no-trunc", "Do not shorten"),
            switch("quiet", "Ids only", "q"),
        ),
        most=1,
        complete="images",
    ),
    "rmi": Command(
        remove,
        "Remove images",
        "IMAGE [IMAGE...]",
        (
            switch("force", "Also when it has other names or stopped containers", "f"),
            switch("no-prune", "Keep untagged parents"),
        ),
        least=1,
        complete="images",
    ),
    "tag": Command(
        tag, "Give an image a further name", "IMAGE NAME[:TAG]", least=2, most=2, complete="images"
    ),
    "history": Command(
        history,
        "Show how an image was made",
        "IMAGE",
        (
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("human", "Sizes and times for people (default true)", "H"),
            switch("no-trunc", "Do not shorten"),
            switch("quiet", "Ids only", "q"),
        ),
        least=1,
        most=1,
        complete="images",
    ),
    "image exists": Command(
        exists,
        "Whether an image is here: exit code 0 or 1",
        "IMAGE",
        least=1,
        most=1,
        complete="images",
    ),
}
