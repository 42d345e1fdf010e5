"""Results of a build that the client takes away: archives of the image, or its files."""

import os
from collections.abc import Iterator
from typing import Final

from skerry.base.errors import InvalidInput
from skerry.base.isolation import Overlay
from skerry.build.request import Output
from skerry.build.results import make_image
from skerry.build.state import State
from skerry.engine import facts
from skerry.store import Store
from skerry.store.formats import writing
from skerry.store.formats.intake import packed_image
from skerry.store.pack import PackOptions, pack

KINDS: Final = ("image", "local", "tar", "oci", "docker", "registry")
_LAYOUTS: Final = {"oci": writing.OCI, "docker": writing.DOCKER}


def check(output: Output) -> None:
    """InvalidInput for a kind that there is not, or one that lacks its name."""
    if output.kind not in KINDS:
        raise InvalidInput(
            f"cannot export a build as {output.kind!r:.40}", hint=f"known are {', '.join(KINDS)}"
        )
    if output.kind == "registry" and not output.name:
        raise InvalidInput("an output to a registry needs a name to push to")


def archive(store: Store, state: State, output: Output, epoch: int | None) -> Iterator[bytes]:
    """The result as a tar archive, in pieces. The caller holds a lease. Blocks."""
    if output.kind in _LAYOUTS:
        yield from _image(store, state, output)
    else:
        yield from _files(store, state, epoch)


def _image(store: Store, state: State, output: Output) -> Iterator[bytes]:
    before = {image.id for image in store.images.list()}
    image = make_image(store, state, compression=output.compression)
    try:
        names = [name for name in output.name.split(",") if name]
        packed = packed_image(store.images, image, names)
        yield from writing.write(store.images, [packed], _LAYOUTS[output.kind])
    finally:
        # It was only made to be written.
        if image.id not in before and not store.images.get(image.id).tags:
            store.images.remove(image.id)


def _files(store: Store, state: State, epoch: int | None) -> Iterator[bytes]:
    options = PackOptions(latest=epoch, whole_seconds=epoch is not None)
    if not state.layers:
        return
    folders = (store.layers.path(each) for each in reversed(state.layers))
    root = facts.open_root(Overlay(tuple(dict.fromkeys(folders))))
    try:
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            yield from pack(readable, options)
        finally:
            os.close(readable)
    finally:
        os.close(root)
