"""OCI layout folders on the client's side, and what hostile ones cannot reach."""

import contextlib
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, NotFound, SkerryError
from skerry.cli import layouts
from skerry.cli.commands.copy_images import parse_place

VENDOR = "application/vnd.oci.image."


def blob(folder: Path, data: bytes, kind: str, name: str = "") -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    path = folder / "blobs/sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    notes = {"annotations": {layouts.REF_NAME: name}} if name else {}
    return {"mediaType": VENDOR + kind, "digest": f"sha256:{digest}", "size": len(data)} | notes


def index(folder: Path, *entries: dict[str, Any]) -> None:
    text = json.dumps({"schemaVersion": 2, "manifests": entries})
    (folder / "index.json").write_text(text)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "layout"
    entries = []
    for name in ("v1", "v2"):
        manifest = {
            "schemaVersion": 2,
            "config": blob(folder, b"config" + name.encode(), "config.v1+json"),
            "layers": [blob(folder, b"shared", "layer.v1.tar")],
        }
        data = json.dumps(manifest).encode()
        entries.append(blob(folder, data, "manifest.v1+json", name))
    index(folder, *entries)
    return folder


def files(folder: Path, reference: str = "") -> dict[str, bytes]:
    data = b"".join(layouts.read(str(folder), reference))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        opened = ((info.name, tar.extractfile(info)) for info in tar)
        return {name: file.read() for name, file in opened if file}


def test_what_is_about_an_image_comes_with_it(layout: Path) -> None:
    listed = json.loads((layout / "index.json").read_text())["manifests"]
    about = []
    for each in listed:
        document = {"config": blob(layout, b"{}", "empty"), "subject": each, "layers": []}
        about.append(blob(layout, json.dumps(document).encode(), "manifest.v1+json"))
    index(layout, *listed, *about)
    assert json.loads(files(layout, "v1")["index.json"])["manifests"] == [listed[0], about[0]]
    assert json.loads(files(layout)["index.json"])["manifests"] == [*listed, *about]


def test_a_whole_layout(layout: Path) -> None:
    found = files(layout)
    assert len(found) == 2 + 5
    assert found["oci-layout"] == layouts.VERSION
    assert len(json.loads(found["index.json"])["manifests"]) == 2


def test_one_image_of_a_layout(layout: Path) -> None:
    found = files(layout, "v2")
    assert len(found) == 2 + 3
    with pytest.raises(NotFound, match="holds no image v3") as caught:
        layouts.read(str(layout), "v3")
    assert caught.value.hint == "it has v1, v2"


def test_written_and_read_again(layout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert layouts.write(str(other), layouts.read(str(layout), "v1")) == ["v1"]
    assert layouts.write(str(other), layouts.read(str(layout), "")) == ["v1", "v2"]
    assert files(other) == files(layout)
    assert not list(other.rglob("*.part"))


def test_a_name_moves(layout: Path, tmp_path: Path) -> None:
    manifest = {"schemaVersion": 2, "config": blob(layout, b"new", "config.v1+json"), "layers": []}
    other = tmp_path / "other"
    layouts.write(str(other), layouts.read(str(layout), ""))
    index(layout, blob(layout, json.dumps(manifest).encode(), "manifest.v1+json", "v2"))
    layouts.write(str(other), layouts.read(str(layout), ""))
    listed = json.loads((other / "index.json").read_text())["manifests"]
    assert [each["annotations"][layouts.REF_NAME] for each in listed] == ["v1", "v2"]
    assert listed[1]["digest"] in (layout / "index.json").read_text()


@pytest.mark.parametrize(
    "digest", ["sha256:../../../secret", "../secret", "", "md5:1", None, 7, ["x"]]
)
def test_digests_that_lead_away(layout: Path, digest: object) -> None:
    (layout.parent / "secret").write_text("secret")
    index(layout, {"mediaType": VENDOR + "manifest.v1+json", "digest": digest, "size": 6})
    with pytest.raises(InvalidInput, match="not a digest"):
        layouts.read(str(layout), "")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"manifests": 4}'])
def test_an_index_that_is_none(layout: Path, text: str) -> None:
    (layout / "index.json").write_text(text)
    with contextlib.suppress(SkerryError):
        assert len(files(layout)) == 2
    with pytest.raises(SkerryError):
        layouts.read(str(layout), "v1")
    with pytest.raises(NotFound, match=r"cannot read .*index.json"):
        layouts.read(str(layout / "none"), "")


def test_a_loop_of_indexes_ends(layout: Path) -> None:
    digest = "a" * 64
    entry = {"mediaType": VENDOR + "index.v1+json", "digest": f"sha256:{digest}", "size": 1}
    loop = json.dumps({"schemaVersion": 2, "manifests": [entry, entry]})
    (layout / "blobs/sha256" / digest).write_text(loop)
    index(layout, entry)
    assert len(files(layout)) == 3


def test_an_archive_that_lies(layout: Path, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("blobs/sha256/" + "1" * 64)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("../escaped")
        tar.addfile(info, io.BytesIO())
    other = tmp_path / "other"
    with pytest.raises(InvalidInput, match="came with other content"):
        layouts.write(str(other), iter([out.getvalue()]))
    assert not [path for path in other.rglob("*") if path.is_file()]
    with pytest.raises(InvalidInput, match=r"broken|no index"):
        layouts.write(str(other), iter([b"no archive" * 100]))
    assert not (tmp_path / "escaped").exists()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_any_damaged_index(layout: Path, at: int, value: int, cut: bool) -> None:
    path = layout / "index.json"
    whole = path.read_bytes()
    data = bytearray(whole)
    data[at % len(data)] = value
    path.write_bytes(data[: at % len(data)] if cut else data)
    try:
        with contextlib.suppress(SkerryError):
            assert all(".." not in name for name in files(layout))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("oci:dir", ("oci", "dir", "")),
        ("oci:/a/dir:v1", ("oci", "/a/dir", "v1")),
        ("oci-archive:f.tar:host:5000/a:v1", ("oci-archive", "f.tar", "host:5000/a:v1")),
        ("docker-archive:f.tar", ("docker-archive", "f.tar", "")),
        ("docker-daemon:busybox:1", ("docker-daemon", "", "busybox:1")),
        ("docker://host:5000/a:v1", ("docker", "", "host:5000/a:v1")),
        ("skerry:a@sha256:1", ("skerry", "", "a@sha256:1")),
    ],
)
def test_places(text: str, parts: tuple[str, str, str]) -> None:
    place = parse_place(text)
    assert (place.transport, place.path, place.reference) == parts


@pytest.mark.parametrize("text", ["", "busybox", "ftp:x", "oci:", "docker:x", "docker-daemon:"])
def test_no_places(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_place(text)
