"""Collection takes what nothing refers to and no more; the account adds up to du's."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import NotFound
from skerry.store import Store
from skerry.store.image import Image, Removed

Make = Callable[..., Any]
Add = Callable[..., Image]


def du(root: str) -> int:
    """What du(1) says. The records are brought to rest first: SQLite sizes its log lazily."""
    done = subprocess.run(["du", "-s", "--block-size=1", root], check=True, capture_output=True)
    return int(done.stdout.split()[0])


@pytest.fixture
def layers(make_archive: Make, make_member: Make) -> list[bytes]:
    """Layers with a subfolder and a hard link each."""
    return [
        make_archive(
            make_member(f"dir{n}/file", b"x" * 9000 * (n + 1)),
            make_member("link", kind=b"1", linkname=f"dir{n}/file"),
        )
        for n in range(4)
    ]


def test_the_account_adds_up_to_du(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:2], tags=("app",))
    add_image(layers[2:3])
    store.snapshots.prepare("c", image.id)
    root = Path(store.root)
    upper = Path(store.snapshots.overlay("c").upper)
    (upper / "big").write_bytes(b"y" * 100_000)
    os.link(upper / "big", upper / "same")
    with (upper / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    (root / "containers/c").mkdir(parents=True)
    (root / "containers/c/c-json.log").write_bytes(b"z" * 5000)
    (root / "volumes/v/_data").mkdir(parents=True)
    (root / "stranger").write_bytes(b"?" * 5000)
    with store.blobs.ingest() as writer:
        writer.write(b"w" * 20_000)
        usage = store.gc.usage()
        assert usage.total == du(store.root)
    assert sum(each.bytes for each in usage.categories.values()) == usage.total
    sizes = {name: each.bytes for name, each in usage.categories.items()}
    assert sizes["snapshots"] >= 100_000
    assert sizes["snapshots"] < 200_000
    assert sizes["containers"] >= 5000
    assert sizes["temporary"] >= 20_000
    assert sizes["other"] >= 5000
    assert sizes["volumes"] > 0
    assert sizes["records"] > 0
    assert usage.categories["images"].items == 2
    assert usage.categories["snapshots"].items == 1
    assert usage.categories["containers"].items == 1


@pytest.mark.parametrize("unused", [False, True])
def test_prune_gives_back_what_was_called_reclaimable(
    store: Store, add_image: Add, layers: list[bytes], unused: bool
) -> None:
    kept = add_image(layers[:2], tags=("kept",))
    add_image(layers[1:3], tags=("tagged",))
    add_image(layers[2:4])
    store.blobs.put(b"an orphan" * 1000)
    store.snapshots.prepare("gone", kept.id)
    store.snapshots.remove("gone")
    before = store.gc.usage([kept.id], unused=unused)
    assert before.total == du(store.root)
    assert before.categories["images"].reclaimable > 0
    assert before.categories["temporary"].reclaimable > 0
    result = store.gc.collect([kept.id], unused=unused)
    assert result.bytes == before.reclaimable
    after = store.gc.usage([kept.id], unused=unused)
    assert after.reclaimable == 0
    assert after.total == du(store.root)
    files = before.total - before.categories["records"].bytes
    left = after.total - after.categories["records"].bytes
    # The folders' own blocks and index.json may shrink on top of that, never grow.
    assert files - left >= result.bytes
    assert files - left - result.bytes < 64 * 1024
    assert bool(result.images) is True
    names = {image.tags for image in store.images.list()}
    assert names == ({("kept:latest",)} if unused else {("kept:latest",), ("tagged:latest",)})


def test_what_is_in_use_stays(store: Store, add_image: Add, layers: list[bytes]) -> None:
    parent = add_image(layers[:1])
    used = add_image(layers[:2], parent=parent.id)
    under = add_image(layers[2:3])
    loose = add_image(layers[3:])
    store.snapshots.prepare("c", under.id)
    assert store.gc.collect([used.id]).images[0] == Removed(deleted=loose.id)
    assert {image.id for image in store.images.list()} == {parent.id, used.id, under.id}
    assert store.gc.collect([used.id], unused=True).images == []


def test_dangling_images_can_be_kept(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1])
    orphan = store.blobs.put(b"orphan")
    result = store.gc.collect(dangling=False)
    assert (result.blobs, result.layers) == (1, 0)
    assert not store.blobs.has(orphan)
    assert store.images.get(image.id) == image


def test_a_lease_keeps_what_is_on_its_way(
    store: Store, add_image: Add, layers: list[bytes]
) -> None:
    with store.leases.hold():
        fresh = store.blobs.put(b"fresh")
        store.gc.collect()
        assert store.blobs.has(fresh)
        with store.leases.hold():
            store.gc.collect()
        assert store.blobs.has(fresh)
    store.gc.collect()
    assert not store.blobs.has(fresh)
    stale = store.blobs.put(b"stale")
    with store.leases.hold():
        assert store.blobs.has(stale)
        store.gc.collect()
        assert store.blobs.size(stale) == 5


def test_collecting_beside_ingests(store: Store, add_image: Add, layers: list[bytes]) -> None:
    """A collector that never rests takes nothing from images that are being added."""
    done = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        while not done.is_set():
            try:
                store.gc.collect()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for number in range(12):
            image = add_image(
                layers[number % 3 : number % 3 + 2],
                tags=(f"app:{number}",),
                created=f"2024-01-01T00:00:{number:02}Z",
            )
            for digest in image.content():
                assert store.blobs.size(digest) > 0
            for diff_id in image.layers:
                assert os.listdir(store.layers.path(diff_id))
            store.images.remove(f"app:{number}")
    finally:
        done.set()
        thread.join()
    assert failures == []
    store.gc.collect()
    assert store.blobs.all() == []
    assert store.layers.all() == []
    with pytest.raises(NotFound):
        store.images.get("app:3")
