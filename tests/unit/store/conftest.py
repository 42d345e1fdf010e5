"""A fresh store for each test, and archives that the standard library writes."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)
from skerry.store import Store, open_store
from skerry.store.image import Image

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Member:
    """One member for `archive`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(*members: Member, style: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="session")
def make_member() -> Callable[..., Member]:
    return member


@pytest.fixture(scope="session")
def make_archive() -> Callable[..., bytes]:
    return archive


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def unpack(store: Store) -> Callable[[bytes], Path]:
    """Unpack a plain archive as a layer; its folder."""

    def run(data: bytes) -> Path:
        with store.leases.hold():
            digest = store.blobs.put(data)
            diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
            return Path(store.layers.unpack(Descriptor(OCI_LAYER, digest, len(data)), diff_id))

    return run


@pytest.fixture
def add_image(store: Store) -> Callable[..., Image]:
    """Record an image of these plain layer archives: `add_image(layers, tags=…, parent=…)`."""

    def run(
        layers: list[bytes],
        *,
        tags: tuple[str, ...] = (),
        parent: str = "",
        config: dict[str, object] | None = None,
        created: str = "2024-01-02T03:04:05Z",
    ) -> Image:
        with store.leases.hold():
            blobs = [Descriptor(OCI_LAYER, store.blobs.put(data), len(data)) for data in layers]
            document = encode(
                ImageConfig(
                    "amd64",
                    "linux",
                    RootFS("layers", [each.digest for each in blobs]),
                    created=created,
                    config=config,
                    history=[History(created, f"step {n}") for n, _ in enumerate(layers, 1)],
                )
            )
            about = Descriptor(OCI_CONFIG, store.blobs.put(document), len(document))
            manifest = encode(Manifest(2, about, blobs, OCI_MANIFEST))
            return store.images.add(manifest, tags=tags, parent=parent)

    return run
