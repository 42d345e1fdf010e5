"""`docker history`: the steps of an image, with the layers' sizes where a step made one."""

from typing import TYPE_CHECKING

from skerry.base.errors import NotFound
from skerry.base.oci_image import History, ImageConfig
from skerry.store.image import HistoryLine, Image

if TYPE_CHECKING:
    from skerry.store.images import Images

MISSING = "<missing>"


def steps_of(config: ImageConfig) -> list[History]:
    """The steps of an image, made up for layers that it keeps no history of."""
    steps = list(config.history or ())
    told = sum(not step.empty_layer for step in steps)
    missing = len(config.rootfs.diff_ids) - told
    return [*(History(config.created) for _ in range(missing)), *steps]


def lines(images: "Images", image: Image) -> list[HistoryLine]:
    """Newest step first; a step that an image here ends with carries its id and names."""
    config = images.config(image)
    steps = steps_of(config)
    known = {len(steps): image}
    parent = image.parent
    while parent and len(known) < 1000:
        try:
            above = images.get(parent)
        except NotFound:
            break
        known.setdefault(len(steps_of(images.config(above))), above)
        parent = above.parent
    layers = iter(config.rootfs.diff_ids)
    found = []
    for number, step in enumerate(steps, 1):
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
    return found[::-1]
