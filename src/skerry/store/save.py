"""`docker save`, in all formats: images of the store as one archive."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.store.formats import writing
from skerry.store.formats.intake import packed_image
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.store.images import Images

Chosen = dict[str, tuple[Image, dict[str, None]]]


def save(
    images: "Images",
    names: Iterable[str],
    layout: str = writing.DOCKER,
    compression: str = "none",
    *,
    referrers: bool = False,
) -> Iterator[bytes]:
    """The archive in pieces. NotFound and InvalidInput are raised here, not while iterating.

    A name brings that tag along, an id none; `referrers` what is about the images,
    which only an oci-archive can hold.
    """
    writing.check_format(layout, compression)
    if referrers and layout != writing.OCI:
        raise InvalidInput(
            f"the format {layout} cannot hold referrers",
            hint=f"{writing.OCI} can: save --format {writing.OCI} --referrers",
        )
    chosen = choose(images, names)
    if not chosen:
        raise InvalidInput("no image to save was named")
    if layout in (writing.LXC, writing.ROOTFS):
        if len(chosen) > 1:
            raise InvalidInput(f"an archive of the format {layout} holds one image only")
        ((image, tags),) = chosen.values()
        stream = writing.write_tree(images, image, next(iter(tags), ""), layout)
    else:
        stream = _blobs(images, chosen, layout, referrers)
    return writing.compressed(stream, compression)


def choose(images: "Images", names: Iterable[str]) -> Chosen:
    """The images with these names or ids, and which of their tags go along; NotFound."""
    chosen: Chosen = {}
    for name in names:
        image = images.get(name)
        tags: tuple[str, ...] = ()
        if not image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            familiar = parse_reference(name).familiar
            tags = (familiar,) if familiar in image.tags else ()
        chosen.setdefault(image.id, (image, {}))[1].update(dict.fromkeys(tags))
    return chosen


def _blobs(images: "Images", chosen: Chosen, layout: str, about: bool) -> Iterator[bytes]:
    def run() -> Iterator[bytes]:
        with images.leases.hold():
            packed = [packed_image(images, *each, about=about) for each in chosen.values()]
            yield from writing.write(images, packed, layout)

    return run()
