"""Archives of every format through a store, and those that lie."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.archives import archive_of

from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded, NotFound, SkerryError
from skerry.base.oci_image import DOCKER_MANIFEST, OCI_MANIFEST, Platform
from skerry.store import Store, open_store
from skerry.store.formats import documents
from skerry.store.image import Image

Make = Callable[..., Any]
ACI = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def untouched(store: Store) -> bool:
    """Nothing came in; not even something for the collector."""
    return not (store.images.list() or store.blobs.all() or store.layers.all())


@pytest.fixture
def unified(make_archive: Make, make_member: Make) -> Callable[..., bytes]:
    """A tree archive: `unified("metadata.yaml", b"…", more members)`."""

    def make(name: str, document: bytes, *more: Any) -> bytes:
        packed: bytes = make_archive(
            make_member(name, document),
            make_member("rootfs", kind=tarfile.DIRTYPE, mode=0o750),
            make_member("rootfs/bin", kind=tarfile.DIRTYPE),
            make_member("rootfs/bin/sh", b"#!", mode=0o4755, uid=3),
            make_member("./rootfs/bin/same", kind=tarfile.LNKTYPE, linkname="rootfs/bin/sh"),
            make_member("rootfs/link", kind=tarfile.SYMTYPE, linkname="/bin/sh"),
            *more,
        )
        return packed

    return make


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
)
def test_lxc(
    store: Store, unified: Make, make_member: Make, compress: Callable[[bytes], bytes]
) -> None:
    document = b"architecture: x86_64\ntemplates: {/etc/hostname: {}}\nproperties: {os: Debian}\n"
    said: list[str] = []
    packed = unified("metadata.yaml", document, make_member("templates/hostname.tpl", b"x"))
    (image,) = store.images.load(
        io.BytesIO(compress(packed)), progress=said.append, tag="system:v1"
    )
    assert "passed over: templates for /etc/hostname" in said
    assert image.tags == ("system:v1",)
    assert image.config["Labels"] == {"image.os": "Debian"}
    tree = Path(store.layers.path(image.layers[0]))
    assert sorted(path.name for path in tree.iterdir()) == ["bin", "link"]
    assert tree.stat().st_mode & 0o7777 == 0o750
    assert (tree / "bin/sh").samefile(tree / "bin/same")
    assert (tree / "bin/sh").stat().st_mode & 0o7777 == 0o4755
    assert sorted(store.blobs.all()) == sorted(image.content())


def test_aci(store: Store, unified: Make) -> None:
    document = ACI | {"app": {"exec": ["/bin/sh"], "user": "0", "group": "0"}}
    (image,) = store.images.load(io.BytesIO(unified("manifest", json.dumps(document).encode())))
    assert image.tags == ("example.com/app:latest",)
    assert image.config["Entrypoint"] == ["/bin/sh"]


def test_documents_may_come_last(store: Store, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(
        make_member("./rootfs/x", b"1"), make_member("./manifest", json.dumps(ACI).encode())
    )
    (image,) = store.images.load(io.BytesIO(packed))
    assert image.size == 1


def test_holes_stay_holes(store: Store) -> None:
    """A sparse member in GNU's 1.0 form: the map is in front of the data."""
    map_ = b"1\n5\n3\n".ljust(512, b"\0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("manifest")
        info.size = len(json.dumps(ACI))
        tar.addfile(info, io.BytesIO(json.dumps(ACI).encode()))
        info = tarfile.TarInfo("rootfs/GNUSparseFile.0/x")
        info.size = len(map_) + 3
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "rootfs/x",
            "GNU.sparse.realsize": "10",
        }
        tar.addfile(info, io.BytesIO(map_ + b"abc"))
    (image,) = store.images.load(io.BytesIO(out.getvalue()))
    tree = Path(store.layers.path(image.layers[0]))
    assert (tree / "x").read_bytes() == bytes(5) + b"abc" + bytes(2)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("rootfs/x", {})], "it should hold metadata.yaml or manifest"),
        ([("metadata.yaml", {"data": b"architecture: x86_64"})], "no rootfs/"),
        ([("manifest", {"data": b"{}"}), ("rootfs/x", {})], "archive: manifest: "),
        (
            [("manifest", {"data": b"{}"}), ("metadata.yaml", {"data": b"{}"})],
            "both of them",
        ),
        ([("manifest", {"data": b"{}"}), ("manifest", {"data": b"[]"})], "manifest comes twice"),
        (
            [("manifest", {"kind": tarfile.SYMTYPE, "linkname": "/etc/shadow"})],
            "manifest is not a plain file",
        ),
        (
            [("rootfs", {"kind": tarfile.SYMTYPE, "linkname": "/"}), ("rootfs/x", {})],
            "rootfs is not a folder",
        ),
        ([("rootfs/../../x", {})], "leads out of the archive"),
        (
            [("rootfs/x", {"kind": tarfile.LNKTYPE, "linkname": "/etc/shadow"})],
            "hard link to '/etc/shadow'",
        ),
        (
            [("rootfs/x", {"kind": tarfile.LNKTYPE, "linkname": "rootfs/../../y"})],
            "hard link to",
        ),
        ([("metadata.yaml", {"data": b"#" * (1 << 20)})], "at most 262144"),
        ([("../manifest.json", {})], "leads out of the archive"),
    ],
)
def test_trees_that_lie(
    store: Store,
    make_archive: Make,
    make_member: Make,
    members: list[tuple[str, dict[str, Any]]],
    words: str,
) -> None:
    packed = make_archive(*(make_member(name, **fields) for name, fields in members))
    with pytest.raises(SkerryError, match=words) as caught:
        store.images.load(io.BytesIO(packed))
    assert caught.value.message.startswith("image archive: ")
    assert untouched(store)


def save(store: Store, layout: str = "oci-archive", *names: str) -> dict[str, bytes]:
    """A saved archive as its files."""
    data = b"".join(store.images.save(names or ["app:v1"], layout))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = ((info.name, tar.extractfile(info)) for info in tar)
        return {name: file.read() for name, file in files if file}


@pytest.fixture
def app(store: Store, add_image: Make, make_archive: Make, make_member: Make) -> Image:
    layers = [make_archive(make_member(f"file{n}", b"content")) for n in range(2)]
    image: Image = add_image(layers, tags=("app:v1",), config={"Cmd": ["x"]})
    return image


def test_an_oci_archive_says_whole_names(store: Store, app: Image) -> None:
    files = save(store)
    assert "manifest.json" not in files
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "app:v1"}
    assert entry["digest"] == app.manifest


@pytest.mark.parametrize("layout", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_what_goes_out_comes_in(
    store: Store, app: Image, tmp_path: Path, layout: str, compression: str
) -> None:
    data = b"".join(store.images.save(["app:v1"], layout, compression))
    assert data == b"".join(store.images.save(["app:v1"], layout, compression))
    with open_store(str(tmp_path / "other")) as other:
        (image,) = other.images.load(io.BytesIO(data))
        assert (image.id, image.manifest, image.tags) == (app.id, app.manifest, app.tags)


def test_docker_manifests_become_ocis_in_a_layout(store: Store, app: Image) -> None:
    """Readers of layouts pass over Docker's media types."""
    document = json.loads(store.blobs.read(app.manifest))
    document["mediaType"] = DOCKER_MANIFEST
    for each in (document["config"], *document["layers"]):
        each["mediaType"] = each["mediaType"].replace(
            "oci.image.layer.v1.tar", "docker.image.rootfs.diff.tar"
        )
    with store.leases.hold():
        store.images.add(json.dumps(document).encode(), tags=["app:v1"])
    files = save(store)
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files["blobs/sha256/" + entry["digest"][7:]])
    assert entry["mediaType"] == manifest["mediaType"] == OCI_MANIFEST
    assert {each["mediaType"] for each in manifest["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar"
    }


@pytest.mark.parametrize(
    ("names", "layout", "compression", "words"),
    [
        ([], "oci-archive", "none", "no image to save"),
        (["app:v1"], "zip", "none", "cannot write images as 'zip'"),
        (["app:v1"], "lxc", "lzw", "cannot compress archives with 'lzw'"),
        (["app:v1", "other"], "lxc", "none", "one image only"),
    ],
)
def test_what_cannot_be_saved(
    store: Store, add_image: Make, app: Image, names: list[str], layout: str,
    compression: str, words: str,
) -> None:  # fmt: skip
    add_image([], tags=("other",))
    with pytest.raises(InvalidInput, match=words):
        store.images.save(names, layout, compression)


def test_lies_about_content(store: Store, app: Image, tmp_path: Path) -> None:
    good = save(store)
    (entry,) = json.loads(good["index.json"])["manifests"]
    manifest = "blobs/sha256/" + entry["digest"][7:]
    layer = "blobs/sha256/" + app.blobs[0][7:]
    other = dict(entry, size=entry["size"] + 1)
    foreign = json.dumps({"schemaVersion": 2, "manifests": [other]}).encode()
    cases: list[tuple[dict[str, bytes], type[SkerryError], str]] = [
        (good | {layer: b"other"}, DigestMismatch, "has the digest"),
        ({k: v for k, v in good.items() if k != layer}, NotFound, f"no blob {app.blobs[0]}"),
        ({k: v for k, v in good.items() if k != manifest}, NotFound, "no blob"),
        (good | {"index.json": foreign}, DigestMismatch, "its descriptor says"),
        (good | {"index.json": b'{"schemaVersion":1}'}, InvalidInput, "image index"),
    ]
    with open_store(str(tmp_path / "other")) as fresh:
        for files, kind, words in cases:
            with pytest.raises(kind, match=words) as caught:
                fresh.images.load(io.BytesIO(archive_of(files)))
            assert caught.value.message.startswith("image archive")
            assert untouched(fresh)


def test_members_that_come_twice(store: Store, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(
        make_member("manifest.json", b"[]"),
        make_member("x", b"1"),
        make_member("x", b"1"),
        make_member("./manifest.json", b"[4]"),
    )
    with pytest.raises(InvalidInput, match=r"'manifest.json' comes twice"):
        store.images.load(io.BytesIO(packed))
    assert untouched(store)


def test_all_images_or_none(store: Store, app: Image, tmp_path: Path) -> None:
    """The second image's layer is no tar: the first one does not stay either."""
    files = save(store, "docker-archive")
    broken = b"this is no archive at all".ljust(600)
    config = json.loads(store.blobs.read(app.id))
    config["rootfs"]["diff_ids"] = ["sha256:" + digest(broken)]
    saved = json.loads(files["manifest.json"])
    for name, tags in json.loads(files["repositories"]).items():
        for tag, layer in tags.items():
            (found,) = [each for each in saved if f"{name}:{tag}" in each["RepoTags"]]
            assert found["Layers"][-1].endswith(layer)
    saved.append({"Config": "c.json", "RepoTags": ["bad:v1"], "Layers": ["l.tar"]})
    files |= {
        "c.json": json.dumps(config).encode(),
        "l.tar": broken,
        "manifest.json": json.dumps(saved).encode(),
    }
    del files["index.json"], files["oci-layout"]
    with open_store(str(tmp_path / "other")) as other:
        with pytest.raises(InvalidInput, match="checksum is wrong"):
            other.images.load(io.BytesIO(archive_of(files)))
        assert untouched(other)


def test_bombs(
    store: Store, make_archive: Make, make_member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"Config": "c", "Layers": []}
    many = make_archive(make_member("manifest.json", json.dumps([one] * 1001).encode()))
    with pytest.raises(LimitExceeded, match="more than 1000 images"):
        store.images.load(io.BytesIO(many))
    layers = json.dumps([one | {"Layers": ["x"] * 501}]).encode()
    with pytest.raises(LimitExceeded, match="501 layers"):
        store.images.load(io.BytesIO(make_archive(make_member("manifest.json", layers))))
    monkeypatch.setattr(documents, "MAX_FILES", 3)
    files = make_archive(*(make_member(f"f{n}", b"") for n in range(4)))
    with pytest.raises(LimitExceeded, match="more than 3 members"):
        store.images.load(io.BytesIO(files))
    deep: dict[str, bytes] = {}
    data = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    for _ in range(6):
        deep["blobs/sha256/" + digest(data)] = data
        entry = {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": "sha256:" + digest(data),
            "size": len(data),
        }
        data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with pytest.raises(LimitExceeded, match="nested deeper"):
        monkeypatch.undo()
        store.images.load(io.BytesIO(archive_of(deep | {"index.json": data, "oci-layout": b"{}"})))
    assert untouched(store)


def test_import(store: Store, make_archive: Make, make_member: Make) -> None:
    plain = make_archive(make_member("bin/sh", b"#!"))
    image = store.images.import_rootfs(
        io.BytesIO(lzma.compress(plain)),
        {"Cmd": ["/bin/sh"]},
        tags=["base:v1"],
        message="from a tar",
        platform=Platform("arm64", "linux", variant="v8"),
    )
    assert image.layers == ("sha256:" + digest(plain),)
    assert (image.architecture, image.variant) == ("arm64", "v8")
    assert (image.tags, image.comment) == (("base:v1",), "from a tar")
    assert store.images.history(image)[0].comment == "from a tar"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "root file system: the archive is empty"),
        (b"no tar at all" * 100, "root file system: .*checksum"),
        (gzip.compress(bytes(2000))[:-9], "root file system: "),
    ],
    ids=["empty", "no tar", "cut gzip"],
)
def test_imports_of_nothing(store: Store, data: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        store.images.import_rootfs(io.BytesIO(data), {})
    assert untouched(store)


def test_a_tag_for_several_images(store: Store, app: Image, add_image: Make) -> None:
    add_image([], tags=("other",))
    data = b"".join(store.images.save(["app:v1", "other"]))
    with pytest.raises(InvalidInput, match="2 images, which cannot all be named x"):
        store.images.load(io.BytesIO(data), tag="x")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(min_value=0, max_value=2**64), aci=st.booleans())
def test_damaged_trees_leave_nothing(store: Store, unified: Make, seed: int, aci: bool) -> None:
    rng = random.Random(seed)
    document = json.dumps(ACI).encode() if aci else b"architecture: x86_64"
    packed = bytearray(unified("manifest" if aci else "metadata.yaml", document))
    for _ in range(rng.randint(1, 4)):
        packed[rng.randrange(len(packed))] = rng.randrange(256)
    try:
        store.images.load(io.BytesIO(bytes(packed[: rng.choice([len(packed), 3000])])))
    except SkerryError as error:
        assert error.message
    for image in store.images.list():
        store.images.remove(image.id, force=True)
    store.gc.collect()
    assert untouched(store)
