"""Images that come as files: archives of every known format, OCI layout folders, root file systems.

`skerry.store.formats` says what is read, and how it is kept apart from the store until it is whole.
"""

import os
import stat
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, NotFound
from skerry.base.oci_image import MAX_DOCUMENT, Descriptor, History, ImageConfig, Platform, RootFS
from skerry.base.references import parse_reference
from skerry.store.commit import store_layer, timestamp
from skerry.store.compression import decompressed, file_chunks
from skerry.store.formats.documents import Layout
from skerry.store.formats.intake import Intake, Packed
from skerry.store.formats.reading import read
from skerry.store.image import Image, Progress
from skerry.store.tar_reader import Limits

if TYPE_CHECKING:
    from skerry.store.images import Images

ARCHIVE: Final = "image archive"
ROOTFS: Final = "root file system"
Admit = Callable[[Packed], None]


def load(
    images: "Images",
    stream: BinaryIO,
    progress: Progress | None,
    tag: str = "",
    admit: Admit | None = None,
) -> list[Image]:
    """Take in every image of an archive, or none; InvalidInput when it is none.

    `tag` names the image of an archive that holds one, besides the names it brings. `admit` is
    asked about each image and raises for one that may not come in.
    """
    with Intake(images, ARCHIVE, progress) as intake:
        packed = _named(intake, read(intake, stream, images.layers.limits), tag)
        if admit is not None:
            for each in packed:
                admit(each)
        return intake.record(packed)


def _named(intake: Intake, packed: list[Packed], tag: str) -> list[Packed]:
    if not tag:
        return packed
    if len(packed) > 1:
        intake.fail(f"it holds {len(packed)} images, which cannot all be named {tag}")
    parse_reference(tag)
    return [each._replace(names=tuple(dict.fromkeys([*each.names, tag]))) for each in packed]


def import_layout(images: "Images", folder: str, progress: Progress | None) -> list[Image]:
    """Take in every image of an OCI image layout folder; blobs are copied and verified."""
    try:
        with _open(os.path.join(folder, "index.json")) as file:
            index = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise NotFound(f"open the OCI layout {folder}: {error.strerror}") from None
    with Intake(images, f"OCI layout {folder}", progress) as intake:

        def fetch(descriptor: Descriptor) -> None:
            if not images.blobs.has(descriptor.digest):
                _copy_blob(intake, folder, descriptor)

        return intake.record(Layout(intake, fetch).images(index))


def _open(path: str) -> BinaryIO:
    """A file of a layout: nothing that never ends, or that has to be waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInput(f"{path}: not a regular file")
    return os.fdopen(fd, "rb")


def _copy_blob(intake: Intake, folder: str, descriptor: Descriptor) -> None:
    algorithm, _, name = descriptor.digest.partition(":")
    try:
        with (
            _open(os.path.join(folder, "blobs", algorithm, name)) as file,
            intake.blobs.ingest() as writer,
        ):
            for chunk in file_chunks(file):
                writer.write(chunk)
                if writer.size > descriptor.size:
                    break
            intake.keep(writer.commit(descriptor.digest, descriptor.size))
    except FileNotFoundError:
        raise NotFound(f"{intake.what}: no blob {descriptor.digest}") from None


def import_rootfs(
    images: "Images",
    stream: BinaryIO,
    config: dict[str, Any],
    *,
    tags: Iterable[str] = (),
    message: str = "",
    platform: Platform | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> Image:
    """`docker import`: a tar of a root file system, plain or compressed, as an image of one layer.

    The plain archive's digest is the layer's diff id. InvalidInput when it is no such archive.
    """
    names = tuple(tags)
    for name in names:
        parse_reference(name)
    with Intake(images, ROOTFS) as intake:
        plain = decompressed(file_chunks(stream), ROOTFS, unpacking=limits.unpacking)
        first = next(plain, b"")
        if not first:
            intake.fail("the archive is empty")
        layer, diff_id = store_layer(images, _after(first, plain))
        intake.keep(layer.digest)
        created = timestamp()
        document = ImageConfig(
            platform.architecture if platform else architecture(),
            platform.os if platform else "linux",
            RootFS("layers", [diff_id]),
            created=created,
            variant=platform.variant if platform else "",
            comment=message,
            config=config,
            history=[History(created, comment=message)],
        )
        packed = intake.pack(document, [layer], names)
        try:
            return intake.record([packed])[0]
        except InvalidInput as error:
            reason = error.message.removeprefix(f"layer {layer.digest}: ")
            raise type(error)(f"{ROOTFS}: {reason}", hint=error.hint) from None


def _after(first: bytes, rest: Iterable[bytes]) -> Any:
    yield first
    yield from rest
