"""Copies through a store, and the streams they come and go by."""

import asyncio
import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.archives import archive_of

from skerry.base.errors import (
    DigestMismatch,
    Forbidden,
    InvalidInput,
    NotFound,
    SkerryError,
    Unsupported,
)
from skerry.engine.archives import AHEAD, Archives, as_file, in_pieces
from skerry.engine.copying import ARCHIVE, IMAGE, Copying, Source
from skerry.engine.events import Events
from skerry.engine.signing import Gate
from skerry.engine.transfer import Transfer
from skerry.store import Store, open_store


def docker_archive(
    *names: str, layer: bytes = archive_of({"file": b"content"}), lie: str = ""
) -> bytes:
    diff_id = lie or hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }
    saved = [
        {"Config": f"{n}.json", "RepoTags": [name], "Layers": ["layer.tar"]}
        for n, name in enumerate(names)
    ]
    files = {
        f"{n}.json": json.dumps(config | {"author": name}).encode() for n, name in enumerate(names)
    }
    return archive_of(files | {"layer.tar": layer, "manifest.json": json.dumps(saved).encode()})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def copying(store: Store, tmp_path: Path) -> Copying:
    events = Events()
    return Copying(store, Archives(store, events), Transfer(store, events, str(tmp_path)))


async def out(copying: Copying, source: Source, name: str = "", *more: str) -> dict[str, Any]:
    """The index of the archive that a copy makes, by name."""
    chunks = copying.to_archive(source, name, *more)
    data = b"".join([chunk async for chunk in chunks])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("index.json")
        assert file
        index = json.loads(file.read())
    return {
        each.get("annotations", {}).get("org.opencontainers.image.ref.name", ""): each
        for each in index["manifests"]
    }


def archive(data: bytes, reference: str = "") -> Source:
    return Source(ARCHIVE, reference, io.BytesIO(data))


def left(store: Store) -> list[Any]:
    return [*store.images.list(), *store.blobs.all(), *store.layers.all()]


async def test_all_images_pass_through(copying: Copying, store: Store) -> None:
    found = await out(copying, archive(docker_archive("a:1", "b:2")))
    assert sorted(found) == ["a:1", "b:2"]
    assert not left(store)


async def test_one_of_several_by_name(copying: Copying, store: Store) -> None:
    data = docker_archive("a:1", "example.com/b:latest")
    assert list(await out(copying, archive(data, "example.com/b"), "any")) == ["any"]
    with pytest.raises(InvalidInput, match=r"holds 2 images \(a:1, example.com/b:latest\)"):
        await out(copying, archive(data), "x")
    with pytest.raises(NotFound, match="holds no image 'c', but a:1"):
        await out(copying, archive(data, "c"), "x")
    assert not left(store)


async def test_into_the_engine_and_out(copying: Copying, store: Store) -> None:
    lines = [line async for line in copying.to_image(archive(docker_archive("a:1")), "mine:v1")]
    assert lines[0]["status"] == "Copied mine:v1"
    assert store.images.get("mine:v1").tags == ("mine:v1",)
    before = left(store)
    found = await out(copying, Source(IMAGE, "mine:v1"), "other/name:v2")
    assert found["other/name:v2"]["digest"] == store.images.get("mine:v1").manifest
    assert left(store) == before


@pytest.mark.parametrize(
    ("data", "name", "layout", "kind", "words"),
    [
        (docker_archive("a:1", lie="1" * 64), "", "oci-archive", DigestMismatch, "uncompressed"),
        (b"", "", "oci-archive", InvalidInput, "holds no image"),
        (docker_archive("a:1"), "Not A Name", "docker-archive", InvalidInput, "reference format"),
        (docker_archive("a:1"), "a\nb", "oci-archive", InvalidInput, "invalid name"),
        (docker_archive("a:1"), "", "lxc", Unsupported, "does not write lxc"),
        (docker_archive("a:1"), "", "zip", InvalidInput, "cannot write"),
        (docker_archive("a:1")[:3000], "", "oci-archive", InvalidInput, "ends too early|missing"),
    ],
)
async def test_nothing_of_a_bad_copy_stays(
    copying: Copying,
    store: Store,
    data: bytes,
    name: str,
    layout: str,
    kind: type[SkerryError],
    words: str,
) -> None:
    with pytest.raises(kind, match=words):
        await out(copying, archive(data), name, layout)
    assert not left(store)


async def test_a_reader_that_leaves(copying: Copying, store: Store) -> None:
    layer = archive_of({"file": bytes(3 << 20)})
    chunks = copying.to_archive(archive(docker_archive("a:1", layer=layer)), "")
    assert await anext(chunks)
    await cast(Any, chunks).aclose()
    assert not left(store)


async def test_a_cut_body_is_no_end() -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionResetError

    async def whole() -> AsyncIterator[bytes]:
        yield b"first"

    async with as_file(whole()) as file:
        assert await asyncio.to_thread(file.read) == b"first"
        assert await asyncio.to_thread(file.read) == b""
    async with as_file(cut()) as file:
        assert await asyncio.to_thread(file.read, 5) == b"first"
        with pytest.raises(InvalidInput, match="cut off"):
            await asyncio.to_thread(file.read)


async def test_a_body_is_not_read_far_ahead() -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield bytes(1 << 20)

    async with as_file(body()) as file:
        assert len(await asyncio.to_thread(file.read, 10)) == 10
        assert sent <= (AHEAD >> 20) + 1
        rest = await asyncio.to_thread(file.read)
        assert len(rest) == (64 << 20) - 10
    assert sent == 64


async def test_a_reader_that_waits_is_let_go() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with as_file(silent()) as file:
        reading = asyncio.ensure_future(asyncio.to_thread(file.read, 1))
        await asyncio.sleep(0)
    with contextlib.suppress(InvalidInput):
        assert await reading == b""


async def test_a_generator_is_closed_by_its_reader() -> None:
    ended: list[bool] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.append(True)

    pieces = in_pieces(chunks())
    assert await anext(pieces) == b"x"
    await cast(Any, pieces).aclose()
    assert ended == [True]


async def test_an_error_comes_through() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise NotFound("gone")

    pieces = in_pieces(chunks())
    assert await anext(pieces) == b"x"
    with pytest.raises(NotFound, match="gone"):
        await anext(pieces)


@pytest.mark.parametrize("way", ["load", "import", "copy"])
async def test_files_meet_the_policy_too(copying: Copying, store: Store, way: str) -> None:
    archives = copying._archives
    root = Path(store.root)
    archives.policy = Gate(str(root), str(root / "nowhere.json"))

    async def bring() -> None:
        if way == "load":
            found = archives.load(io.BytesIO(docker_archive("team/app:1")))
        elif way == "import":
            found = archives.import_rootfs(
                io.BytesIO(archive_of({"a": b"b"})), {}, tag="team/app:1"
            )
        else:
            found = copying.to_image(archive(docker_archive("other:1")), "team/app:1")
        async for _ in found:
            pass

    def policy(scopes: dict[str, Any]) -> None:
        (root / "policy.json").write_text(json.dumps({"version": 1, "scopes": scopes}))

    for rule, said in (
        ({"rule": "reject"}, "scope docker.io/team: rule reject"),
        ({"rule": "signedBy", "keys": ["a.pub"]}, "the file brings no signature"),
        (None, "default: rule reject"),
    ):
        policy({"docker.io/team": rule} if rule else {})
        with pytest.raises(Forbidden, match=f"{way} .*team/app:1: refused by .*{said}"):
            await bring()
        assert not any(left(store))
    policy({"docker.io/team": {"rule": "accept"}})
    await bring()
    assert store.images.get("team/app:1").tags == ("team/app:1",)


def test_another_name_is_asked_about_when_another_rule_decides(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path), str(tmp_path / "nowhere.json"))
    assert gate.same_rule("a.example/x", "b.example/y")
    scopes = {"a.example": {"rule": "accept"}, "b.example/safe": {"rule": "reject"}}
    default = {"rule": "accept"}
    document = {"version": 1, "default": default, "scopes": scopes}
    (tmp_path / "policy.json").write_text(json.dumps(document))
    assert gate.same_rule("a.example/x:1", "a.example/y/z:2")
    assert not gate.same_rule("a.example/x:1", "b.example/safe/x:1")
