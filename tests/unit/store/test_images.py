"""Images by name and id, their history, and Docker's rules of removal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import Conflict, DigestMismatch, InvalidInput, NotFound
from skerry.base.oci_image import OCI_CONFIG, OCI_LAYER, Descriptor, Manifest, encode
from skerry.store import Store
from skerry.store.image import Image, Removed, chain_ids
from skerry.store.steps import Step

Make = Callable[..., Any]
Add = Callable[..., Image]


@pytest.fixture
def layers(make_archive: Make, make_member: Make) -> list[bytes]:
    """Three different layers."""
    return [make_archive(make_member(f"file{n}", b"x" * (n + 1) * 10)) for n in range(3)]


def test_by_every_name(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1], tags=("app", "localhost:5000/team/app:v1"), config={"Cmd": ["a"]})
    assert image.tags == ("app:latest", "localhost:5000/team/app:v1")
    assert image.digests == (
        f"app@{image.manifest}",
        f"localhost:5000/team/app@{image.manifest}",
    )
    for name in (
        "app",
        "app:latest",
        "docker.io/library/app",
        "localhost:5000/team/app:v1",
        f"app@{image.manifest}",
        image.id,
        image.id[7:],
        image.id[7:19],
        image.id[:12],
    ):
        assert store.images.get(name) == image
    assert store.images.list() == [image]
    assert store.images.config("app").config == {"Cmd": ["a"]}
    assert (image.size, image.config, image.os) == (10, {"Cmd": ["a"]}, "linux")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope", "No such image: nope:latest"),
        ("nope:v1", "No such image: nope:v1"),
        ("app:v2", "No such image: app:v2"),
        ("0" * 64, "No such image: " + "0" * 64),
        ("abc", "No such image: abc:latest"),
    ],
)
def test_not_found_in_dockers_words(
    store: Store, add_image: Add, layers: list[bytes], name: str, words: str
) -> None:
    add_image(layers[:1], tags=("app",))
    with pytest.raises(NotFound) as caught:
        store.images.get(name)
    assert caught.value.message == words


def test_bad_names(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1])
    with pytest.raises(InvalidInput, match="must be lowercase"):
        store.images.get("Upper")
    with pytest.raises(InvalidInput):
        store.images.tag(image.id, "a" * 64)
    with pytest.raises(InvalidInput):
        store.images.tag(image.id, "bad name")


def test_a_prefix_that_fits_two(store: Store, add_image: Add, layers: list[bytes]) -> None:
    ids = {add_image(layers[:1], created=f"2024-01-01T00:00:{n:02}Z").id[7] for n in range(20)}
    assert len(ids) < 20
    firsts = [image.id[7] for image in store.images.list()]
    double = next(char for char in firsts if firsts.count(char) > 1)
    with pytest.raises(InvalidInput, match="ambiguous"):
        store.images.get(f"sha256:{double}")


def test_a_name_moves(store: Store, add_image: Add, layers: list[bytes]) -> None:
    old = add_image(layers[:1], tags=("app",))
    new = add_image(layers[:2], tags=("app",))
    assert store.images.get("app").id == new.id
    assert store.images.get(old.id).tags == ()
    store.images.tag(old.id, "app:old")
    assert store.images.get(old.id).tags == ("app:old",)
    store.images.untag("app:old")
    with pytest.raises(NotFound):
        store.images.untag("app:old")


def test_the_index_lists_every_name(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1], tags=("app", "other:v1"))
    bare = add_image(layers[1:2])
    index = json.loads((Path(store.root) / "index.json").read_bytes())
    found = {
        (each["digest"], each.get("annotations", {}).get("org.opencontainers.image.ref.name"))
        for each in index["manifests"]
    }
    assert found == {
        (image.manifest, "app:latest"),
        (image.manifest, "other:v1"),
        (bare.manifest, None),
    }


def test_history(store: Store, add_image: Add, layers: list[bytes]) -> None:
    base = add_image(layers[:1], tags=("base",))
    child = add_image(layers, tags=("child",), parent=base.id)
    lines = store.images.history("child")
    assert [line.created_by for line in lines] == ["step 3", "step 2", "step 1"]
    assert [line.size for line in lines] == [30, 20, 10]
    assert [line.id for line in lines] == [child.id, "<missing>", base.id]
    assert [line.tags for line in lines] == [("child:latest",), (), ("base:latest",)]


def test_layers_must_fit_the_config(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1])
    config = Descriptor(OCI_CONFIG, image.id, store.blobs.size(image.id))
    with pytest.raises(InvalidInput, match="1 diff ids for 0 layers"):
        store.images.add(encode(Manifest(2, config, [])))
    wrong = Descriptor(OCI_LAYER, store.blobs.put(layers[1]), len(layers[1]))
    store.images.remove(image.id)
    with store.leases.hold():
        store.blobs.put(layers[1])
        again = add_image(layers[:1])
        store.layers.discard(again.layers[0])
        with pytest.raises(DigestMismatch, match="uncompressed"):
            store.images.add(encode(Manifest(2, config, [wrong])))
        missing = Descriptor(OCI_LAYER, "sha256:" + "1" * 64, 5)
        with pytest.raises(NotFound, match="no such blob"):
            store.images.add(encode(Manifest(2, config, [missing])))


def test_remove_by_name_untags_first(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:2], tags=("app", "app:v1"))
    assert store.images.remove("app:v1") == [Removed(untagged="app:v1")]
    chains = chain_ids(image.layers)
    assert store.images.remove("app") == [
        Removed(untagged="app:latest"),
        Removed(deleted=image.id),
        Removed(deleted=chains[1]),
        Removed(deleted=chains[0]),
    ]
    assert store.images.list() == []
    assert store.layers.all() == []
    assert store.blobs.all() == []


def test_remove_keeps_what_others_need(store: Store, add_image: Add, layers: list[bytes]) -> None:
    one = add_image(layers[:2], tags=("one",))
    two = add_image([layers[0], layers[2]], tags=("two",))
    lines = store.images.remove("one")
    assert [line.deleted for line in lines[1:]] == [one.id, chain_ids(one.layers)[1]]
    assert sorted(store.layers.all()) == sorted(two.layers)
    assert sorted(store.blobs.all()) == sorted(two.content())


def test_remove_by_id_with_names_in_two_repositories(
    store: Store, add_image: Add, layers: list[bytes]
) -> None:
    image = add_image(layers[:1], tags=("app", "other"))
    with pytest.raises(Conflict) as caught:
        store.images.remove(image.id[7:19])
    assert caught.value.message == (
        f"conflict: unable to delete {image.id[7:19]} (must be forced) - "
        "image is referenced in multiple repositories"
    )
    lines = store.images.remove(image.id[7:19], force=True)
    assert [line.untagged for line in lines[:2]] == ["app:latest", "other:latest"]
    assert lines[2] == Removed(deleted=image.id)


def test_remove_what_a_container_uses(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1], tags=("app",))
    container = "c" * 64
    stopped = {image.id: [(container, False)]}
    running = {image.id: [(container, True)]}
    with pytest.raises(Conflict) as caught:
        store.images.remove("app", in_use=stopped)
    assert caught.value.message == (
        'conflict: unable to remove repository reference "app" (must force) - '
        f"container {container[:12]} is using its referenced image {image.id[7:19]}"
    )
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped"):
        store.images.remove(image.id, in_use=stopped)
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running"):
        store.images.remove(image.id, force=True, in_use=running)
    assert store.images.remove("app", force=True, in_use=running) == [
        Removed(untagged="app:latest")
    ]
    assert store.images.get(image.id).tags == ()


def test_remove_with_children(store: Store, add_image: Add, layers: list[bytes]) -> None:
    base = add_image(layers[:1], tags=("base",))
    child = add_image(layers[:2], tags=("child",), parent=base.id)
    with pytest.raises(Conflict, match=r"cannot be forced\) - image has dependent child images"):
        store.images.remove(base.id, force=True)
    assert store.images.remove("base") == [Removed(untagged="base:latest")]
    lines = store.images.remove("child")
    assert [line.deleted for line in lines if line.deleted.startswith(("sha256:",))][:2] == [
        child.id,
        chain_ids(child.layers)[1],
    ]
    assert Removed(deleted=base.id) in lines
    assert store.images.list() == []


def test_remove_without_pruning_parents(store: Store, add_image: Add, layers: list[bytes]) -> None:
    base = add_image(layers[:1])
    add_image(layers[:2], tags=("child",), parent=base.id)
    store.images.remove("child", prune_parents=False)
    assert [image.id for image in store.images.list()] == [base.id]


def test_names_survive_a_reopened_store(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1], tags=("app",))
    store.close()
    with Store(store.root) as again:
        assert again.images.get("app") == image


def test_rmi_by_digest_reference(store: Store, add_image: Add, layers: list[bytes]) -> None:
    image = add_image(layers[:1], tags=("app",))
    lines = store.images.remove(f"app@{image.manifest}")
    assert lines[0] == Removed(untagged="app:latest")
    assert store.images.list() == []


def test_what_a_build_step_made_stays_for_the_cache(
    store: Store, add_image: Add, layers: list[bytes]
) -> None:
    image = add_image(layers[:2], tags=("app",))
    below, made = image.layers
    store.steps.put(Step("k" * 64, made, "RUN make", "", 1.0, 1.0, chain=(below, made)))
    store.images.remove("app")
    assert not store.layers.has(below)
    assert store.steps.find("k" * 64)
    store.steps.remove("k" * 64)
    store.gc.collect()
    assert not store.layers.has(made)
