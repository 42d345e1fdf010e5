"""The engine's images behind a registry's `Storage`: what a tag stands for after it has moved."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from skerry.base.digests import sha256
from skerry.base.errors import NotFound
from skerry.engine.archives import Archives
from skerry.engine.events import Events
from skerry.engine.hub import HubStorage
from skerry.registry.server import documents
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Limits
from skerry.store import Store
from skerry.store.commit import architecture

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Hub(NamedTuple):
    """A storage and its engine's store."""

    storage: HubStorage
    store: Store

    def push(self, tag: str, salt: str, repository: str = "team/app") -> documents.Document:
        """An image that the engine can hold."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo("salt")
            info.size = len(salt)
            tar.addfile(info, io.BytesIO(salt.encode()))
        layer = out.getvalue()
        rootfs = {"type": "layers", "diff_ids": [sha256(layer)]}
        config = json.dumps({"architecture": architecture(), "os": "linux", "rootfs": rootfs})
        about = config.encode()
        for blob in (layer, about):
            upload = self.storage.start_upload(repository)
            upload.append(blob)
            self.storage.commit_upload(upload, sha256(blob))
        data = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(about), "size": len(about)},
            "layers": [{"mediaType": LAYER, "digest": sha256(layer), "size": len(layer)}],
        }
        document = documents.parse(json.dumps(data).encode())
        self.storage.put_manifest(repository, document, tag)
        return document


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    store = Store(str(tmp_path))
    storage = HubStorage(str(tmp_path), store, Archives(store, Events()), Limits())
    yield Hub(storage, store)
    storage.close()
    store.close()


def test_what_a_moved_tag_has_left_is_still_there_by_digest(hub: Hub) -> None:
    old = hub.push("1", "old")
    new = hub.push("1", "new")
    assert hub.storage.resolve("team/app", "1") == new.digest
    for document in (old, new):
        assert hub.storage.manifest("team/app", document.digest).data == document.data
        for piece in document.blobs:
            with open(hub.storage.blob("team/app", piece.digest).path, "rb") as file:
                assert sha256(file.read()) == piece.digest
    with pytest.raises(Refusal):
        hub.storage.blob("team/other", old.blobs[0].digest)
    hub.storage.delete_manifest("team/app", old.digest)
    with pytest.raises(Refusal):
        hub.storage.blob("team/app", old.blobs[0].digest)


@pytest.mark.parametrize("here", [True, False])
def test_an_index_over_a_tag_moves_the_engines_name(hub: Hub, *, here: bool) -> None:
    hub.push("1", "old")
    child = hub.push("", "new")
    found = {
        "mediaType": MANIFEST,
        "digest": child.digest,
        "size": len(child.data),
        "platform": {"os": "linux", "architecture": architecture() if here else "s390x"},
    }
    index = documents.parse(json.dumps({"schemaVersion": 2, "manifests": [found]}).encode(), INDEX)
    hub.storage.put_manifest("team/app", index, "1")
    assert hub.storage.resolve("team/app", "1") == index.digest
    if here:
        assert hub.store.images.get("team/app:1").manifest == child.digest
    else:
        with pytest.raises(NotFound):
            hub.store.images.get("team/app:1")
    for piece in child.blobs:
        assert hub.storage.blob("team/app", piece.digest).size == piece.size
