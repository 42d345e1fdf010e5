"""Snapshot archives: what is written is read, and nothing else is."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded
from skerry.store import snapshot_archive
from skerry.store.tar_reader import Limits

NAMES = st.from_regex(r"[a-z0-9][a-z.]{0,9}", fullmatch=True)
Change = Callable[[dict[str, Any]], None]


def written(tmp_path: Path, files: dict[str, bytes], about: dict[str, Any] | None = None) -> bytes:
    paths = {}
    for name, data in files.items():
        paths[name] = str(tmp_path / f"in-{name}")
        Path(paths[name]).write_bytes(data)
    pieces = list(snapshot_archive.write(about or {"kind": "disk"}, paths))
    assert all(pieces)
    return b"".join(pieces)


def read(tmp_path: Path, data: bytes, **options: Any) -> snapshot_archive.Opened:
    folder = tmp_path / os.urandom(4).hex()
    folder.mkdir()
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))
    return snapshot_archive.read(pieces, str(folder), **options)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z.]{0,9}", fullmatch=True), st.binary(), max_size=4
    ),
    about=st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(0, 9), max_size=4),
)
def test_round_trip(tmp_path: Path, files: dict[str, bytes], about: dict[str, Any]) -> None:
    opened = read(tmp_path, written(tmp_path, files, {"x": 1, **about}))
    assert opened.about == {"x": 1, **about}
    assert {name: Path(path).read_bytes() for name, path in opened.files.items()} == files


def test_it_is_a_plain_tar_archive(tmp_path: Path) -> None:
    data = written(tmp_path, {"layer.tar": b"layer"})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["skerry-snapshot.json", "layer.tar"]
        head = json.load(tar.extractfile("skerry-snapshot.json"))  # type: ignore[arg-type]
    digest = hashlib.sha256(b"layer").hexdigest()
    assert head["files"] == [{"name": "layer.tar", "size": 5, "sha256": digest}]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_passes(tmp_path: Path, data: st.DataObject) -> None:
    whole = written(tmp_path, {"layer.tar": b"layer" * 100, "image.tar": b"image"})
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    if kind == "cut":
        damaged = whole[:at]
    elif kind == "flip":
        damaged = (
            whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
        )
    else:
        damaged = whole[:at] + data.draw(st.binary(min_size=1, max_size=600)) + whole[at:]
    try:
        opened = read(tmp_path, damaged)
    except InvalidInput:
        return
    # Padding, times and modes mean nothing; what is handed on must be right.
    assert {name: Path(path).read_bytes() for name, path in opened.files.items()} == {
        "layer.tar": b"layer" * 100,
        "image.tar": b"image",
    }


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(tmp_path, data)


def set_in(key: str, value: object) -> Change:
    return lambda head: head["files"][0].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda head: head.update(format=2), InvalidInput),
        (lambda head: head.update(format="1"), InvalidInput),
        (lambda head: head.update(more=1), InvalidInput),
        (lambda head: head.pop("about"), InvalidInput),
        (lambda head: head.update(files=[]), InvalidInput),
        (lambda head: head.update(files=head["files"] * 2), InvalidInput),
        (lambda head: head.update(files=head["files"] * 100), InvalidInput),
        (set_in("name", "../layer"), InvalidInput),
        (set_in("name", "/etc/passwd"), InvalidInput),
        (set_in("name", "other"), InvalidInput),
        (set_in("size", -1), InvalidInput),
        (set_in("size", 6), InvalidInput),
        (set_in("size", 1 << 62), LimitExceeded),
        (set_in("sha256", "0" * 64), DigestMismatch),
    ],
)
def test_heads_that_lie(tmp_path: Path, change: Change, error: type[Exception]) -> None:
    digest = hashlib.sha256(b"layer").hexdigest()
    files = [{"name": "layer", "size": 5, "sha256": digest}]
    head = {"format": 1, "about": {}, "files": files}
    change(head)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (
            ("skerry-snapshot.json", json.dumps(head).encode()),
            ("layer", b"layer"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(error):
        read(tmp_path, out.getvalue())
    assert not (tmp_path / "layer").exists()


def test_limits(tmp_path: Path) -> None:
    data = written(tmp_path, {"layer": bytes(5000)})
    with pytest.raises(LimitExceeded):
        read(tmp_path, data, limits=Limits(size=4000))
