"""The merged tree of an image as an archive: what overlayfs shows is what goes out."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)
from skerry.store import Store, open_store

pytestmark = pytest.mark.root

Member = tuple[str, bytes, bytes, dict[str, object]]


def packed(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data, fields in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(data), 0o755
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def add(store: Store) -> Callable[..., str]:
    """Record an image of plain layers under a name; its id."""

    def run(name: str, *layers: bytes) -> str:
        with store.leases.hold():
            blobs = [Descriptor(OCI_LAYER, store.blobs.put(data), len(data)) for data in layers]
            rootfs = RootFS("layers", [blob.digest for blob in blobs])
            config = encode(ImageConfig("amd64", "linux", rootfs, created="2024-01-02T03:04:05Z"))
            about = Descriptor(OCI_CONFIG, store.blobs.put(config), len(config))
            manifest = encode(Manifest(2, about, blobs, OCI_MANIFEST))
            return store.images.add(manifest, tags=[name]).id

    return run


BASE = packed(
    ("bin", tarfile.DIRTYPE, b"", {"mode": 0o751, "uid": 7}),
    ("bin/tool", tarfile.REGTYPE, b"old", {"mode": 0o4755}),
    ("bin/same", tarfile.LNKTYPE, b"", {"linkname": "bin/tool"}),
    ("gone", tarfile.REGTYPE, b"x", {}),
    ("hidden/x", tarfile.REGTYPE, b"x", {}),
    ("null", tarfile.CHRTYPE, b"", {"devmajor": 1, "devminor": 3, "mode": 0o666}),
    ("kept", tarfile.REGTYPE, b"k", {"pax_headers": {"SCHILY.xattr.user.note": "hello"}}),
)
CHANGE = packed(
    (".wh.gone", tarfile.REGTYPE, b"", {}),
    ("hidden", tarfile.DIRTYPE, b"", {}),
    ("hidden/.wh..wh..opq", tarfile.REGTYPE, b"", {}),
    ("hidden/y", tarfile.REGTYPE, b"y", {}),
    ("link", tarfile.SYMTYPE, b"", {"linkname": "/etc/shadow"}),
)


def listing(data: bytes, prefix: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            os.path.relpath(info.name, prefix): info for info in tar if info.name.startswith(prefix)
        }


def test_layers_are_merged(store: Store, add: Callable[..., str]) -> None:
    add("app:v1", BASE, CHANGE)
    found = listing(b"".join(store.images.save(["app:v1"], "rootfs")), ".")
    names = ["bin", "bin/same", "bin/tool", "hidden", "hidden/y", "kept", "link", "null"]
    assert sorted(found) == [".", *names]
    assert (found["bin"].uid, found["bin"].mode) == (7, 0o751)
    assert found["null"].ischr()
    assert found["kept"].pax_headers["SCHILY.xattr.user.note"] == "hello"
    assert {found["bin/same"].linkname, found["bin/tool"].linkname} == {"", "./bin/same"}


def test_a_tree_comes_back_as_it_went(store: Store, add: Callable[..., str]) -> None:
    add("app:v1", BASE, CHANGE)
    first = b"".join(store.images.save(["app:v1"], "lxc"))
    assert list(listing(first, "metadata.yaml")) == ["."]
    (image,) = store.images.load(io.BytesIO(first), tag="back:v1")
    assert len(image.layers) == 1
    tree = Path(store.layers.path(image.layers[0]))
    assert sorted(path.name for path in tree.iterdir()) == ["bin", "hidden", "kept", "link", "null"]
    assert stat.S_ISCHR((tree / "null").lstat().st_mode)
    assert (tree / "bin/tool").samefile(tree / "bin/same")
    assert (tree / "bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert os.getxattr(tree / "kept", "user.note") == b"hello"
    second = b"".join(store.images.save(["back:v1"], "rootfs"))
    ours, theirs = listing(first, "rootfs"), listing(second, ".")
    assert {name: info.mode for name, info in ours.items()} == {
        name: info.mode for name, info in theirs.items()
    }


def test_nothing_stays_mounted(
    store: Store, add: Callable[..., str], open_descriptors: Callable[[], int]
) -> None:
    """Also when the reader leaves in the middle."""
    add("app:v1", BASE, CHANGE)
    before = Path("/proc/self/mountinfo").read_text().count(store.root)
    descriptors = open_descriptors()
    stream = store.images.save(["app:v1"], "lxc")
    assert next(stream)
    del stream
    assert open_descriptors() == descriptors
    assert Path("/proc/self/mountinfo").read_text().count(store.root) == before


def test_an_image_without_layers(store: Store, add: Callable[..., str]) -> None:
    add("empty:v1")
    with pytest.raises(InvalidInput, match="no layers"):
        b"".join(store.images.save(["empty:v1"], "lxc"))
