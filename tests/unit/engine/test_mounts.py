"""Docker's notations for mounts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.engine.mounts import (
    make_sources,
    oci_mount,
    parse_bind,
    parse_mount,
    parse_tmpfs,
    requested,
)
from skerry.engine.record import MountPoint


def test_a_folder() -> None:
    point = parse_bind("/a/../b:/c/:ro,rshared")
    assert (point.kind, point.source, point.target) == ("bind", "/b", "/c")
    assert point.read_only
    assert oci_mount(point)["options"] == ["rbind", "ro", "rshared", "rro"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["rbind", "ro", "rprivate", "rro"]),
        ({"NonRecursive": True}, ["bind", "ro", "rprivate"]),
        ({"ReadOnlyNonRecursive": True}, ["rbind", "ro", "rprivate"]),
        ({"ReadOnlyForceRecursive": True}, ["rbind", "ro", "rprivate", "rro"]),
    ],
)
def test_read_only_below(options: dict[str, bool], wanted: list[str]) -> None:
    raw = {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": options}
    assert oci_mount(parse_mount({**raw, "ReadOnly": True}))["options"] == wanted
    if any(name.startswith("ReadOnly") for name in options):
        with pytest.raises(InvalidInput, match="not read-only"):
            parse_mount(raw)


@pytest.mark.parametrize(
    "more",
    [{"ReadOnlyNonRecursive": True}, {"NonRecursive": True}, {"Propagation": "rshared"}],
)
def test_force_stands_alone(more: dict[str, object]) -> None:
    options = {"ReadOnlyForceRecursive": True, **more}
    raw = {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}
    with pytest.raises(InvalidInput, match="ReadOnlyForceRecursive"):
        parse_mount({**raw, "BindOptions": options})


def test_a_volume_by_name_and_one_without() -> None:
    named = parse_bind("data:/var/lib:nocopy")
    assert (named.kind, named.name, named.copy_up) == ("volume", "data", False)
    assert parse_bind("/var/lib").anonymous


@pytest.mark.parametrize(
    "text",
    ["", ":", "/a:b", "/a:/", "a b:/c", "/a:/b:wx", "x:/c:rshared", "/a:/b:ro:z", "relative"],
)
def test_what_cannot_be_meant(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_bind(text)


@pytest.mark.parametrize(
    "raw",
    [
        {"Type": "bind", "Source": "a", "Target": "/b"},
        {"Type": "bind", "Source": "/a", "Target": ""},
        {"Type": "bind", "Source": "/a", "Target": "b"},
        {"Type": "tmpfs", "Source": "/a", "Target": "/b"},
        {"Type": "volume", "Source": "../x", "Target": "/b"},
        {"Type": "nfs", "Target": "/b"},
        {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "x"}},
    ],
)
def test_mount_objects_that_cannot_be_meant(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        parse_mount(raw)


def test_tmpfs_options() -> None:
    assert parse_tmpfs("") == ["noexec", "nosuid", "nodev"]
    assert parse_tmpfs("exec,size=1m,mode=1777") == [
        "nosuid",
        "nodev",
        "exec",
        "size=1m",
        "mode=1777",
    ]
    with pytest.raises(InvalidInput):
        parse_tmpfs("upperdir=/x")
    options = {"SizeBytes": 4096, "Mode": 0o700}
    point = parse_mount({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options})
    assert point.options == ["noexec", "nosuid", "nodev", "size=4096", "mode=700"]


def test_parents_come_before_children_and_images_give_way() -> None:
    config = {"Volumes": {"/data": {}, "/data/deep/er": {}}}
    host = {"Binds": ["/src:/data/deep"], "Tmpfs": {"/data": "size=1m"}}
    points = requested(config, host)
    assert [(p.target, p.kind) for p in points] == [
        ("/data", "tmpfs"),
        ("/data/deep", "bind"),
        ("/data/deep/er", "volume"),
    ]


def test_one_target_twice() -> None:
    with pytest.raises(InvalidInput, match="Duplicate mount point: /a"):
        requested({}, {"Binds": ["/x:/a", "/y:/a"]})


def test_missing_sources(tmp_path: Path) -> None:
    folder = tmp_path / "new/deep"
    make_sources([parse_bind(f"{folder}:/a")])
    assert folder.is_dir()
    absent = {"Type": "bind", "Source": f"{tmp_path}/absent", "Target": "/a"}
    with pytest.raises(InvalidInput, match="bind source path does not exist"):
        make_sources([parse_mount(absent)])
    make_sources([parse_mount({**absent, "BindOptions": {"CreateMountpoint": True}})])
    assert (tmp_path / "absent").is_dir()


@given(st.text(alphabet="/:.abrowz,_-\0 ", max_size=30))
def test_any_text(text: str) -> None:
    try:
        point = parse_bind(text)
    except SkerryError:
        return
    assert point.target.startswith("/")
    assert ".." not in point.target.split("/")
    assert isinstance(point, MountPoint)
