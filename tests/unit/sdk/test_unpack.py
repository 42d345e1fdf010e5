"""Tar streams from a hostile container must not touch anything outside their folder."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import SkerryError
from skerry.sdk.unpack import ChunkFile, Unpacker


def archive(*entries: tuple[str, dict[str, Any], bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o755}


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> dict[str, Any]:
    return {"type": kind, "linkname": target}


def unpack(folder: Path, data: bytes, *, base: str = "", name: str = "", **options: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for at in range(0, len(data), 700):
            yield data[at : at + 700]

    unpacker = Unpacker(str(folder), **options)
    try:
        unpacker.unpack(ChunkFile(chunks()), base=base, name=name)
    finally:
        unpacker.close()


def test_a_tree_comes_over(tmp_path: Path) -> None:
    data = archive(
        ("src", FOLDER, b""),
        ("src/f", {"mtime": 1000}, b"hello"),
        ("src/run", {"mode": 0o755}, b"x"),
        ("src/l", link("f"), b""),
        ("src/h", link("src/f", tarfile.LNKTYPE), b""),
        ("src/p", {"type": tarfile.FIFOTYPE}, b""),
        ("src/sub/deep", {}, b"y" * 5000),
    )
    unpack(tmp_path, data, base="src", name="to")
    to = tmp_path / "to"
    assert (to / "f").read_bytes() == b"hello"
    assert (to / "f").stat().st_mtime == 1000
    assert (to / "run").stat().st_mode & 0o777 == 0o755
    assert os.readlink(to / "l") == "f"
    assert (to / "h").stat().st_ino == (to / "f").stat().st_ino
    assert stat.S_ISFIFO((to / "p").stat().st_mode)
    assert (to / "sub/deep").read_bytes() == b"y" * 5000


def test_content_goes_right_into_the_folder(tmp_path: Path) -> None:
    unpack(tmp_path, archive(("src/", FOLDER, b""), ("src/f", {}, b"1")), base="src")
    assert (tmp_path / "f").read_bytes() == b"1"


def test_set_id_bits_and_devices_stay_out(tmp_path: Path) -> None:
    data = archive(
        ("su", {"mode": 0o6755}, b"x"),
        ("dev", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""),
    )
    unpack(tmp_path, data)
    assert (tmp_path / "su").stat().st_mode & 0o7777 == 0o755
    assert not (tmp_path / "dev").exists()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("mine")
    return path


@pytest.mark.parametrize(
    "entries",
    [
        [("../victim/file", {}, b"evil")],
        [("a/../../victim/file", {}, b"evil")],
        [("l", link("../victim"), b""), ("l/file", {}, b"evil")],
        [("l", link("VICTIM"), b""), ("l/new", {}, b"evil")],
        [("l", link("../victim/file"), b""), ("l", {}, b"evil")],
        [("l", link("VICTIM"), b""), ("l/sub/x", FOLDER, b"")],
        [("l", link("VICTIM"), b""), ("l", FOLDER, b""), ("l/file", {}, b"evil")],
        [("h", link("../victim/file", tarfile.LNKTYPE), b""), ("h", {}, b"evil")],
        [("l", link("VICTIM"), b""), ("h", link("l/file", tarfile.LNKTYPE), b"")],
        [("l", link("VICTIM/file"), b""), ("h", link("l", tarfile.LNKTYPE), b"")],
        [("here/file", {}, b"evil")],
        [("here", FOLDER, b""), ("here/new", {}, b"evil")],
    ],
)
def test_nothing_reaches_out(
    tmp_path: Path, victim: Path, entries: list[tuple[str, dict[str, Any], bytes]]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    # A link that was here before is not followed either.
    (folder / "here").symlink_to(victim)
    for _, fields, _ in entries:
        if "linkname" in fields:
            fields["linkname"] = fields["linkname"].replace("VICTIM", str(victim))
    try:
        unpack(folder, archive(*entries))
    except SkerryError as error:
        assert error.message
    assert sorted(os.listdir(victim)) == ["file"]
    assert (victim / "file").read_text() == "mine"
    assert (victim / "file").stat().st_nlink == 1


def test_an_absolute_name_stays_below(tmp_path: Path) -> None:
    unpack(tmp_path, archive(("/etc/x", {}, b"1")))
    assert (tmp_path / "etc/x").read_bytes() == b"1"


@pytest.mark.parametrize(
    "data",
    [
        b"not a tar archive at all" * 100,
        archive(("f", {}, b"x" * 2000))[:1200],
        archive(("/".join(["d"] * 400), {}, b"")),
        archive(("other/f", {}, b"")),
    ],
)
def test_broken_streams_have_words(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SkerryError) as caught:
        unpack(tmp_path, data, base="src", name="to")
    assert caught.value.message


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "l"]), min_size=1, max_size=4)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(entries=st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=8))
def test_no_archive_reaches_out(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[list[str], bytes, list[str]]]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "folder"
    folder.mkdir()
    data = archive(
        *(
            ("/".join(name), {"type": kind, "linkname": "/".join(target)}, b"")
            for name, kind, target in entries
        )
    )
    try:
        unpack(folder, data)
    except SkerryError as error:
        assert error.message
    assert os.listdir(outside) == ["folder"]
