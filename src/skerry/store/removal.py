"""`docker rmi`: what may go, what is only untagged, and in which words it is refused.

A *hard* conflict (a running container, a child image) stands against force, a *soft* one (a stopped
container, further names) does not. The words are Docker's, since clients match them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from skerry.base.errors import Conflict
from skerry.base.ids import short
from skerry.base.references import Reference, parse_reference
from skerry.store.image import Image, Removed, chain_ids
from skerry.store.snapshots import IMAGE, REMOVED_IMAGE
from skerry.store.steps import layers_kept

if TYPE_CHECKING:
    from skerry.store.images import Images


class Request(NamedTuple):
    """How to remove. `in_use` maps image ids to (container id, running) pairs."""

    force: bool
    in_use: dict[str, list[tuple[str, bool]]]
    prune_parents: bool


def remove(images: "Images", name: str, request: Request) -> list[Removed]:
    """Untag or delete; the lines that Docker answers. The caller holds the leases' lock."""
    image = images.get(name)
    names = images.references(image.id)
    lines: list[Removed] = []
    by_name = not _is_id(image, name)
    if by_name:
        users = request.in_use.get(image.id, [])
        if not request.force and _single(names) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {short(users[0][0])} is using its referenced image {short(image.id)}"
            )
        given = parse_reference(name)
        exact = given if given in names else next(iter(sorted(names)), given)
        images.forget_name(exact)
        lines.append(Removed(untagged=exact.familiar))
        lines += _untag_digests(images, image, exact)
        if images.references(image.id):
            return lines
    elif _single(names):
        _check(images, image, request, names_matter=False)
        lines += _untag_all(images, names)
    lines += _delete(images, image, request, quiet=by_name)
    return lines


def _is_id(image: Image, name: str) -> bool:
    return image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))


def _single(names: Iterable[Reference]) -> bool:
    """At most one tag, and all names in one repository."""
    names = list(names)
    tags = [name for name in names if not name.digest]
    return len(tags) <= 1 and len({name.name for name in names}) <= 1


def _untag_all(images: "Images", names: Iterable[Reference]) -> list[Removed]:
    lines = []
    for name in sorted(names):
        images.forget_name(name)
        lines.append(Removed(untagged=name.familiar))
    return lines


def _untag_digests(images: "Images", image: Image, gone: Reference) -> list[Removed]:
    """With a repository's last tag its digests go as well."""
    left = [name for name in images.references(image.id) if name.name == gone.name]
    if gone.digest or any(not name.digest for name in left):
        return []
    return _untag_all(images, left)


def _children(images: "Images", image: Image) -> bool:
    return any(each.data["parent"] == image.id for each in images.records.all(IMAGE))


def _check(images: "Images", image: Image, request: Request, *, names_matter: bool) -> None:
    """Conflict when something stands against deleting the image."""

    def refuse(how: str, reason: str) -> Conflict:
        return Conflict(f"conflict: unable to delete {short(image.id)} ({how}) - {reason}")

    if _children(images, image):
        raise refuse("cannot be forced", "image has dependent child images")
    users = request.in_use.get(image.id, [])
    for container, running in users:
        if running:
            raise refuse(
                "cannot be forced", f"image is being used by running container {short(container)}"
            )
    if request.force:
        return
    if names_matter and images.references(image.id):
        raise refuse("must be forced", "image is referenced in multiple repositories")
    for container, _ in users:
        raise refuse(
            "must be forced", f"image is being used by stopped container {short(container)}"
        )


def _delete(images: "Images", image: Image, request: Request, *, quiet: bool) -> list[Removed]:
    try:
        _check(images, image, request, names_matter=True)
    except Conflict:
        if quiet and (image.id in request.in_use or images.references(image.id)):
            return []
        if quiet and _children(images, image):
            return []
        raise
    lines = _untag_all(images, images.references(image.id))
    lines += delete_record(images, image)
    if request.prune_parents and image.parent:
        lines += _prune_parent(images, image.parent, request)
    return lines


def _prune_parent(images: "Images", parent: str, request: Request) -> list[Removed]:
    """An unnamed parent that nobody else needs goes with its last child."""
    found = [each for each in images.records.all(IMAGE) if each.id == parent]
    if not found or images.references(parent) or parent in request.in_use:
        return []
    image = images.get(parent)
    if _children(images, image):
        return []
    return _delete(images, image, request._replace(force=False), quiet=True)


def delete_record(images: "Images", image: Image) -> list[Removed]:
    """Forget an image and put away what only it needed; Docker's `Deleted` lines."""
    with images.records.transaction():
        if image.id in images.snapshots.images():
            images.records.put(REMOVED_IMAGE, image.id, images.records.get(IMAGE, image.id))
        images.records.delete(IMAGE, image.id)
    lines = [Removed(deleted=image.id)]
    chains: set[str] = set()
    kept: set[str] = set(images.leases.touched()) | layers_kept(images.records)
    for kind in (IMAGE, REMOVED_IMAGE):
        for each in images.records.all(kind):
            chains.update(chain_ids(each.data["layers"]))
            kept.update(each.data["layers"])
            if kind == IMAGE:
                kept.update((each.id, each.data["manifest"], *each.data["blobs"]))
    for diff_id, chain in reversed(list(zip(image.layers, chain_ids(image.layers), strict=True))):
        if chain not in chains:
            lines.append(Removed(deleted=chain))
        if diff_id not in kept:
            images.layers.discard(diff_id)
    for digest in set(image.content()) - kept:
        images.blobs.discard(digest)
    return lines
