"""`docker history`: the steps of an image, with the layers' sizes where a step made one."""

from typing import TYPE_CHECKING

from skerry.base.errors import NotFound
from skerry.store.image import HistoryLine, Image

if TYPE_CHECKING:
    from skerry.store.images import Images

MISSING = "<missing>"


def lines(images: "Images", image: Image) -> list[HistoryLine]:
    """Newest step first; a step that an image here ends with carries its id and names."""
    config = images.config(image)
    known = {len(config.history or ()): image}
    parent = image.parent
    while parent and len(known) < 1000:
        try:
            above = images.get(parent)
        except NotFound:
            break
        known.setdefault(len(images.config(above).history or ()), above)
        parent = above.parent
    layers = iter(config.rootfs.diff_ids)
    found = []
    for number, step in enumerate(config.history or (), 1):
        diff_id = "" if step.empty_layer else next(layers, "")
        owner = known.get(number)
        found.append(
            HistoryLine(
                owner.id if owner else MISSING,
                step.created or (image.created if owner else ""),
                step.created_by,
                images.layers.size(diff_id) if diff_id else 0,
                step.comment,
                owner.tags if owner else (),
            )
        )
    # Layers that no step speaks of: the image's maker kept no history.
    rest = sum(images.layers.size(diff_id) for diff_id in layers)
    if rest or not found:
        found.append(HistoryLine(image.id, image.created, "", rest, "", image.tags))
    return found[::-1]
