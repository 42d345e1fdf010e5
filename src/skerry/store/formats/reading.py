"""Reading an archive of images, whatever its format and its compression.

Formats: docker-archive, oci-archive, LXC and Incus unified tarballs, ACI. The first member tells
the families apart, so that the files of a tree are never stored one by one.
"""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from skerry.store.compression import decompressed, file_chunks
from skerry.store.formats.documents import Documents
from skerry.store.formats.intake import Choice, Intake, Packed
from skerry.store.formats.tree import Tree, clean_name, is_tree
from skerry.store.tar_reader import Entry, Limits, TarReader


def read(
    intake: Intake,
    stream: BinaryIO,
    limits: Limits = Limits(),  # noqa: B008
    choice: Choice = Choice(),  # noqa: B008
) -> list[Packed]:
    """Every image of an archive, of an index those of the choice; its blobs are stored.

    InvalidInput when it holds none.
    """
    chunks = decompressed(file_chunks(stream), intake.what, unpacking=limits.unpacking)
    reader = TarReader(chunks, intake.what, limits)
    entries = _entries(intake, reader)
    first = next(entries, None)
    found: list[Packed] = []
    if first is not None:
        entries = chain([first], entries)
        if is_tree(first[1]):
            found = [Tree(intake, reader).image(entries)]
        else:
            documents = Documents(intake, choice)
            for entry, name in entries:
                documents.take(entry, name, reader)
            found = documents.images()
    if not found:
        intake.fail("it holds no image")
    return found


def _entries(intake: Intake, reader: TarReader) -> Iterator[tuple[Entry, str]]:
    """The members with clean names, the archive's own root left out."""
    for entry in reader:
        name = clean_name(entry.name)
        if name is None:
            intake.fail(f"member {entry.name!r:.200}: the name leads out of the archive")
        if name:
            yield entry, name
