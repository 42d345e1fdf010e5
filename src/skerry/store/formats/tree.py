"""Archives that hold a root file system below `rootfs/` beside a document about it.

The tree streams from the archive into a compressed layer: each member is renamed and written again,
nothing is unpacked on the way. What else is in the archive is kept, when it is a known document,
or passed over with a word.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from skerry.base.errors import LimitExceeded
from skerry.base.oci_image import Descriptor
from skerry.store import tar_reader, tar_writer
from skerry.store.commit import store_layer
from skerry.store.formats import aci, lxc
from skerry.store.formats.intake import Intake, Packed
from skerry.store.pack import coalesce
from skerry.store.tar_reader import Entry, TarReader

ROOT: Final = "rootfs"
_DOCUMENTS: Final = {lxc.NAME: lxc.MAX_METADATA, aci.NAME: aci.MAX_MANIFEST}
_TOLD: Final = 10
_ALONE: Final = frozenset({*_DOCUMENTS, ROOT, "templates"})


def is_tree(name: str) -> bool:
    """Whether an archive whose first member has this name is one of ours."""
    return name.partition("/")[0] in _ALONE


class Tree:
    """One such archive, read from front to back by `image`."""

    def __init__(self, intake: Intake, reader: TarReader) -> None:
        self._intake = intake
        self._reader = reader
        self._documents: dict[str, bytes] = {}
        self._passed: dict[str, None] = {}
        self._root = False
        self._bytes = self._holes = 0

    def image(self, entries: Iterable[tuple[Entry, str]]) -> Packed:
        """The image; `entries` are members with their clean names."""
        intake = self._intake
        descriptor, diff_id = store_layer(intake.images, coalesce(self._layer(entries)))
        intake.keep(descriptor.digest)
        found = [name for name in _DOCUMENTS if name in self._documents]
        if len(found) != 1:
            reason = "both of them" if found else "neither of them"
            intake.fail(f"it should hold {lxc.NAME} or {aci.NAME} beside {ROOT}/, it has {reason}")
        if not self._root:
            intake.fail(
                f"it has {found[0]} and no {ROOT}/: of an image in two files, "
                "bring the root file system with import"
            )
        self._say()
        return self._packed(found[0], descriptor, diff_id)

    def _packed(self, kind: str, layer: Descriptor, diff_id: str) -> Packed:
        intake = self._intake
        what = f"{intake.what}: {kind}"
        if kind == lxc.NAME:
            metadata = lxc.parse(self._documents[kind], what)
            if metadata.templates:
                listed = ", ".join(sorted(metadata.templates)[:_TOLD])
                intake.tell(f"passed over: templates for {listed}")
            return intake.pack(lxc.config_of(metadata, diff_id), [layer])
        manifest = aci.parse(self._documents[kind], what)
        config, names = aci.config_of(manifest, diff_id, what)
        return intake.pack(config, [layer], names)

    def _say(self) -> None:
        passed = [name for name in self._passed if name != "templates"]
        if passed:
            more = f" and {len(passed) - _TOLD} more" if len(passed) > _TOLD else ""
            self._intake.tell(f"passed over: {', '.join(passed[:_TOLD])}{more}")

    def _layer(self, entries: Iterable[tuple[Entry, str]]) -> Iterator[bytes]:
        for entry, name in entries:
            top, _, below = name.partition("/")
            if top == ROOT:
                yield from self._member(entry, below)
            elif name in _DOCUMENTS:
                self._document(entry, name)
            elif len(self._passed) < 1000:
                self._passed[top] = None
        yield tar_writer.END

    def _document(self, entry: Entry, name: str) -> None:
        if entry.kind is not tar_reader.FILE or entry.sparse is not None:
            self._intake.fail(f"{name} is not a plain file")
        if name in self._documents:
            self._intake.fail(f"{name} comes twice")
        if entry.size > _DOCUMENTS[name]:
            raise LimitExceeded(
                f"{self._intake.what}: {name} has {entry.size} bytes, at most {_DOCUMENTS[name]}"
            )
        self._documents[name] = b"".join(self._reader.data())

    def _member(self, entry: Entry, below: str) -> Iterator[bytes]:
        intake = self._intake
        if not below:
            if entry.kind is not tar_reader.DIRECTORY:
                intake.fail(f"{ROOT} is not a folder")
            self._root = True
            yield tar_writer.header(entry._replace(name="./", sparse=None))
            return
        self._root = True
        self._bytes += entry.size
        if entry.sparse is not None:
            self._holes += entry.size - sum(length for _, length in entry.sparse)
        most = self._reader.limits.unpacking.unquestioned
        if self._holes > most:
            # The layer has them as zeros, of which each would be written and compressed.
            raise LimitExceeded(f"{intake.what}: sparse files with more than {most} bytes of holes")
        if self._bytes > self._reader.limits.size:
            raise LimitExceeded(
                f"{intake.what}: files of more than {self._reader.limits.size} bytes"
            )
        link = entry.link
        if entry.kind is tar_reader.HARDLINK:
            clean = clean_name(link)
            if clean is None or not clean.startswith(f"{ROOT}/"):
                intake.fail(f"member {entry.name!r:.200}: hard link to {link!r:.200}")
            link = clean.removeprefix(f"{ROOT}/")
        yield tar_writer.header(entry._replace(name=below, link=link, sparse=None))
        if entry.kind is tar_reader.FILE:
            for piece in self._reader.plain(entry):
                yield bytes(piece)
            yield tar_writer.padding(entry.size)


def clean_name(name: str) -> str | None:
    """A member's name without leading slash, empty and `.` components; None when it has `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)
