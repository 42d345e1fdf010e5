"""An OCI image layout that came as a context: a base, or files to copy, that no registry has.

Its blobs come into the store without becoming an image: what holds a lease holds them.
"""

import asyncio
from typing import Final

from skerry.base.digests import sha256
from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded, NotFound
from skerry.base.oci_image import (
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    Descriptor,
    Manifest,
    parse_config,
    parse_index,
    parse_manifest,
)
from skerry.base.platforms import rank, this_platform
from skerry.build.bases import state_of
from skerry.build.state import State
from skerry.build.tree import Tree
from skerry.engine.transfer import parse_platform
from skerry.store import Store, layout_tar
from skerry.store import tar_reader as tar

NAME: Final = "oci-layout:"
"""Before the name of a context that is a layout."""
MAX_NESTING: Final = 4
_UNTOLD: Final = 100


class Layout:
    """The files of a layout, by digest."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.what = tree.what

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """A whole file. InvalidInput when it is not there, or larger."""
        node = self._tree.get(path)
        if node is None or node.kind != tar.FILE or node.size > limit:
            raise InvalidInput(f"{self.what}: {path} is missing, or too large")
        return b"".join(map(bytes, self._tree.data(node)))

    def document(self, digest: str) -> bytes:
        """A blob that is a document; its digest is checked. InvalidInput, DigestMismatch."""
        data = self.read(layout_tar.blob_path(digest))
        if sha256(data) != digest:
            raise DigestMismatch(f"{self.what}: {digest} has the digest {sha256(data)}")
        return data

    async def fetch(self, store: Store, descriptor: Descriptor) -> None:
        """Bring one blob into the store, verified."""

        def work() -> None:
            node = self._tree.get(layout_tar.blob_path(descriptor.digest))
            if node is None or node.kind != tar.FILE:
                raise InvalidInput(f"{self.what}: {descriptor.digest} is missing")
            with store.blobs.ingest() as writer:
                for piece in self._tree.data(node):
                    writer.write(piece)
                writer.commit(descriptor.digest, descriptor.size)

        if not store.blobs.has(descriptor.digest):
            await asyncio.to_thread(work)


async def read_state(store: Store, tree: Tree, platform: str) -> State:
    """The state that a layout's only image stands for, its layers unpacked; of an index the image
    for `platform`, by default this machine's. The caller holds a lease.

    InvalidInput, NotFound, DigestMismatch, LimitExceeded.
    """
    layout = Layout(tree)
    manifest = _manifest(layout, layout.read("index.json"), platform, 0)
    config = parse_config(layout.document(manifest.config.digest), layout.what)
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidInput(f"{layout.what}: the image's configuration names other layers")
    for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True):
        await layout.fetch(store, descriptor)
        if not await asyncio.to_thread(store.layers.has, diff_id):
            await asyncio.to_thread(store.layers.unpack, descriptor, diff_id)
    return state_of(config, manifest.layers)


def _manifest(layout: Layout, index: bytes, platform: str, depth: int) -> Manifest:
    if depth > MAX_NESTING:
        raise LimitExceeded(f"{layout.what}: indexes nested deeper than {MAX_NESTING}")
    listed = [
        each
        for each in parse_index(index, layout.what).manifests
        if each.media_type in MANIFESTS or each.media_type in INDEXES
    ]
    chosen = _chosen(listed, platform)
    if not chosen:
        raise NotFound(f"{layout.what}: no image for {platform or 'this machine'}")
    if len(chosen) > 1:
        raise InvalidInput(
            f"{layout.what}: {len(chosen)} images to choose from",
            hint="name one: oci-layout://FOLDER:TAG or oci-layout://FOLDER@DIGEST",
        )
    data = layout.document(chosen[0].digest)
    if chosen[0].media_type in INDEXES:
        return _manifest(layout, data, platform, depth + 1)
    return parse_manifest(data, layout.what)


def _chosen(listed: list[Descriptor], platform: str) -> list[Descriptor]:
    """Those that suit a platform best; one that does not say is for all, and comes last."""
    wanted = parse_platform(platform) or this_platform()
    ranked = [
        (_UNTOLD if each.platform is None else rank(each.platform, wanted), each) for each in listed
    ]
    best = min((its for its, _ in ranked if its is not None), default=-1)
    return [each for its, each in ranked if its == best]
