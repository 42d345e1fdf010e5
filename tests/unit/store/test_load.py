"""`docker load`: archives of all kinds, and those that lie."""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import DigestMismatch, InvalidInput, NotFound, SkerryError
from skerry.base.oci_image import OCI_MANIFEST
from skerry.store import Store, open_store

Make = Callable[..., Any]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def layer(make_archive: Make, make_member: Make) -> bytes:
    return make_archive(make_member("file", b"content"))


def config_of(*layers: bytes) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(each) for each in layers]},
        }
    ).encode()


def docker_archive(
    make_archive: Make, make_member: Make, layer: bytes, stored: bytes = b""
) -> bytes:
    """As `docker save` wrote before version 25: layers in folders, a link for a repeated one;
    `stored` is the layer as it is in the archive."""
    config = config_of(layer, layer)
    manifest = [
        {
            "Config": digest(config) + ".json",
            "RepoTags": ["app:v1", "example.org/app:v2"],
            "Layers": ["one/layer.tar", "two/layer.tar"],
        }
    ]
    return make_archive(
        make_member("one/", kind=tarfile.DIRTYPE),
        make_member("one/layer.tar", stored or layer),
        make_member("two/layer.tar", kind=tarfile.SYMTYPE, linkname="../one/layer.tar"),
        make_member(digest(config) + ".json", config),
        make_member("manifest.json", json.dumps(manifest).encode()),
        make_member("repositories", b"{}"),
    )


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_docker_archive(
    store: Store, make_archive: Make, make_member: Make, layer: bytes, compress: Any
) -> None:
    packed = compress(docker_archive(make_archive, make_member, layer))
    said: list[str] = []
    (image,) = store.images.load(io.BytesIO(packed), progress=said.append)
    assert image.tags == ("app:v1", "example.org/app:v2")
    assert image.layers == ("sha256:" + digest(layer),) * 2
    assert image.config == {"Cmd": ["x"]}
    assert said
    assert sorted(store.blobs.all()) == sorted(set(image.content()))


def test_oci_archive_of_several_platforms(
    store: Store, make_archive: Make, make_member: Make, layer: bytes
) -> None:
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str, **more: object) -> dict[str, object]:
        blobs["blobs/sha256/" + digest(data)] = data
        return {"mediaType": kind, "digest": "sha256:" + digest(data), "size": len(data), **more}

    vendor = "application/vnd.oci.image."
    manifests = []
    for arch in ("amd64", "arm64", "s390x"):
        config = config_of(layer).replace(b"amd64", arch.encode())
        manifest = {
            "schemaVersion": 2,
            "config": blob(config, vendor + "config.v1+json"),
            "layers": [blob(layer, vendor + "layer.v1.tar")],
        }
        platform = {"architecture": arch, "os": "linux"}
        data = json.dumps(manifest).encode()
        manifests.append(blob(data, vendor + "manifest.v1+json", platform=platform))
    inner = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    top = blob(
        inner,
        vendor + "index.v1+json",
        annotations={"org.opencontainers.image.ref.name": "multi:v1"},
    )
    index = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    packed = make_archive(
        make_member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        make_member("index.json", index),
        *(make_member(name, data) for name, data in blobs.items()),
    )
    (image,) = store.images.load(io.BytesIO(packed))
    assert image.tags == ("multi:v1",)
    assert image.architecture in ("amd64", "arm64", "s390x")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "it holds no image"),
        ({"manifest.json": b"[]"}, "it holds no image"),
        ({"manifest.json": b"nonsense"}, "manifest.json"),
        ({"manifest.json": b'[{"Config":"c","Layers":[]}]'}, "a file that is missing: 'c'"),
        ({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}, "missing"),
        ({"manifest.json": b'[{"Config":"c","Layers":[]}]', "c": b"{}"}, "config sha256"),
        ({"oci-layout": b"{}", "index.json": b"{}"}, "image index"),
    ],
)
def test_archives_that_are_none(
    store: Store, make_archive: Make, make_member: Make, members: dict[str, bytes], words: str
) -> None:
    packed = make_archive(*(make_member(name, data) for name, data in members.items()))
    with pytest.raises(InvalidInput, match=words):
        store.images.load(io.BytesIO(packed))
    store.gc.collect()
    assert store.blobs.all() == []


def test_an_index_that_names_missing_blobs(
    store: Store, make_archive: Make, make_member: Make
) -> None:
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + "1" * 64,
        "size": 3,
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    packed = make_archive(make_member("oci-layout", b"{}"), make_member("index.json", index))
    with pytest.raises(NotFound, match="no blob sha256:1"):
        store.images.load(io.BytesIO(packed))
    assert store.blobs.all() == []


def test_links_that_go_round(store: Store, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(
        make_member("c", kind=tarfile.SYMTYPE, linkname="d"),
        make_member("d", kind=tarfile.SYMTYPE, linkname="c"),
        make_member("manifest.json", b'[{"Config":"c","Layers":[]}]'),
    )
    with pytest.raises(InvalidInput, match="missing"):
        store.images.load(io.BytesIO(packed))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_damaged_archives_leave_nothing(
    store: Store, make_archive: Make, make_member: Make, layer: bytes, seed: int
) -> None:
    rng = random.Random(seed)
    packed = bytearray(docker_archive(make_archive, make_member, layer))
    for _ in range(rng.randint(1, 3)):
        packed[rng.randrange(len(packed))] = rng.randrange(256)
    try:
        store.images.load(io.BytesIO(bytes(packed)))
    except SkerryError as error:
        assert error.message
    for image in store.images.list():
        store.images.remove(image.id, force=True)
    store.gc.collect()
    assert store.blobs.all() == []
    assert store.layers.all() == []


def test_what_is_saved_is_loaded(
    store: Store, tmp_path: Any, make_archive: Make, make_member: Make, layer: bytes
) -> None:
    packed = docker_archive(make_archive, make_member, layer)
    (image,) = store.images.load(io.BytesIO(packed))
    for names, tags in (
        (["app:v1"], ("app:v1",)),
        ([image.id[7:19]], ()),
        (["app:v1", "example.org/app:v2"], image.tags),
        ([f"app@{image.manifest}"], ()),
    ):
        with open_store(str(tmp_path / names[0].replace("/", "-"))) as other:
            data = b"".join(store.images.save(names))
            (loaded,) = other.images.load(io.BytesIO(data))
            assert loaded.id == image.id
            assert loaded.manifest == image.manifest
            assert loaded.tags == tags
    with pytest.raises(NotFound, match="No such image: none:latest"):
        store.images.save(["app:v1", "none"])


def test_folders_that_are_no_layout(store: Store, tmp_path: Any) -> None:
    with pytest.raises(NotFound, match="open the OCI layout"):
        store.images.import_layout(str(tmp_path))


def test_layouts_whose_files_never_end(store: Store, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    os.mkfifo(index)
    with pytest.raises(InvalidInput, match="not a regular file"):
        store.images.import_layout(str(tmp_path))
    index.unlink()
    digest = "sha256:" + "a" * 64
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 3}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    blob = tmp_path / "blobs/sha256" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.symlink_to("/dev/zero")
    with pytest.raises(InvalidInput, match=f"OCI layout {tmp_path}: .*not a regular file"):
        store.images.import_layout(str(tmp_path))
    blob.unlink()
    with blob.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DigestMismatch, match=f"OCI layout {tmp_path}: "):
        store.images.import_layout(str(tmp_path))
    assert store.blobs.all() == []


def test_images_of_other_systems_are_refused_as_a_pull_does(
    store: Store, make_archive: Make, make_member: Make, layer: bytes
) -> None:
    def packed(system: str) -> io.BytesIO:
        config = json.dumps({**json.loads(config_of(layer)), "os": system}).encode()
        saved = [{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["l.tar"]}]
        members = {"manifest.json": json.dumps(saved).encode(), "c.json": config, "l.tar": layer}
        return io.BytesIO(make_archive(*(make_member(*each) for each in members.items())))

    with pytest.raises(InvalidInput, match="image operating system 'windows'"):
        store.images.load(packed("windows"))
    assert not store.blobs.all()
    assert not store.layers.all()
    assert store.images.load(packed(""))[0].tags == ("app:v1",)
