"""The service of volumes, over a store in memory."""

import os

import pytest
from tests.unit.engine.conftest import IMAGE, MakeContainer, MakeEngine

from skerry.base.errors import Conflict, InvalidInput, NotFound
from skerry.engine.engine import Engine
from skerry.engine.mounts import oci_mount, parse_mount, requested


def test_the_same_name_twice_is_one_volume(engine: Engine) -> None:
    made = engine.volumes.create("data", {"a": "b"})
    assert engine.volumes.create("data", {"c": "d"}) == made
    assert os.path.isdir(made.path)
    with pytest.raises(InvalidInput):
        engine.volumes.create("data", options={"o": "ro"})


def test_removal(engine: Engine) -> None:
    made = engine.volumes.create("data")
    engine.volumes.remove("data")
    assert not os.path.exists(made.path)
    with pytest.raises(NotFound):
        engine.volumes.remove("data")
    engine.volumes.remove("data", force=True)


async def test_a_volume_in_use_stays(engine: Engine, create: MakeContainer) -> None:
    mount = {"Type": "volume", "Source": "data", "Target": "/data",
             "VolumeOptions": {"Labels": {"k": "v"}, "Subpath": "a/./b"}}  # fmt: skip
    container = await create(host={"Mounts": [mount]})
    assert engine.volumes.get("data").labels == {"k": "v"}
    with pytest.raises(Conflict, match=container.id):
        engine.volumes.remove("data")
    assert "x-skerry.subpath=a/b" in oci_mount(container.record.mounts[0])["options"]
    await engine.containers.remove(container.id, volumes=True)
    # Only anonymous ones go with their container.
    engine.volumes.remove("data")


async def test_what_a_killed_engine_left(make_engine: MakeEngine) -> None:
    async with make_engine() as first:
        kept = first.volumes.create("kept", {"k": "v"})
        nameless = os.path.join(os.path.dirname(kept.path), "../nameless/_data")
        os.makedirs(nameless)
        os.makedirs(os.path.join(os.path.dirname(kept.path), "_incoming"))
    async with make_engine() as second:
        assert second.volumes.all() == [kept]
        assert not os.path.exists(nameless)
        assert os.listdir(os.path.dirname(kept.path)) == ["_data"]


async def test_an_image_as_a_mount_is_in_use(engine: Engine, create: MakeContainer) -> None:
    mount = {"Type": "image", "Source": "busybox", "Target": "/i"}
    container = await create(host={"Mounts": [mount]})
    point = container.record.mounts[0]
    assert (point.source, point.name, point.read_only) == (IMAGE.id, "busybox", True)
    assert engine.images.in_use() == {IMAGE.id}
    with pytest.raises(Conflict, match="mounts the image"):
        await engine.images.remove("busybox", force=True)
    with pytest.raises(NotFound):
        await create(host={"Mounts": [{**mount, "Source": "absent"}]})


def test_the_mount_of_layers() -> None:
    point = parse_mount({"Type": "image", "Source": "x", "Target": "/i",
                         "ImageOptions": {"Subpath": "usr"}})  # fmt: skip
    many = oci_mount(point, ["/top", "/base"])
    assert many["type"] == "overlay"
    assert {"ro", "lowerdir=/top:/base", "x-skerry.subpath=usr"} <= set(many["options"])
    one = oci_mount(point, ["/base"])
    assert (one["type"], one["source"]) == ("bind", "/base")
    assert {"ro", "x-skerry.subpath=usr"} <= set(one["options"])


@pytest.mark.parametrize("path", ["/etc", "..", "../x", "a/../../x", "a\0b"])
def test_subpaths_that_lead_out(path: str) -> None:
    options = {"VolumeOptions": {"Subpath": path}}
    with pytest.raises(InvalidInput, match="relative path within the volume"):
        requested({}, {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/v", **options}]})
