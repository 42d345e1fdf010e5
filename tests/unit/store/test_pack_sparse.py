"""Sparse files: written in full, or with their holes on request."""

import os
import subprocess
import tarfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from skerry.store.pack import PackOptions, pack
from skerry.store.tar_reader import FILE, Entry, TarReader
from skerry.store.tar_writer import data_size, header, padding

SIZE = 8 << 20


def sparse(path: Path, *, end: bool) -> bytes:
    """A file with data at three places, with or without a hole at its end; its bytes."""
    with path.open("wb") as file:
        for place in (0, 1 << 20, 5 << 20):
            file.seek(place)
            file.write(b"%d" % place * 900)
        file.truncate(SIZE) if end else file.seek(SIZE - 3)
        file.write(b"" if end else b"end")
    return path.read_bytes()


def packed(folder: Path, options: PackOptions = PackOptions()) -> bytes:  # noqa: B008
    fd = os.open(folder, os.O_RDONLY)
    try:
        return b"".join(pack(fd, options))
    finally:
        os.close(fd)


@pytest.mark.parametrize("end", [True, False], ids=["hole-last", "data-last"])
@pytest.mark.parametrize("reader", ["tar", "tarfile"])
def test_others_read_them(tmp_path: Path, *, end: bool, reader: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    out.mkdir()
    content = sparse(folder / "below/disk", end=end)
    (folder / "z").write_bytes(b"after it")
    data = packed(folder, PackOptions(holes=True))
    assert len(data) < SIZE // 10
    if reader == "tarfile":
        (tmp_path / "a.tar").write_bytes(data)
        with tarfile.open(tmp_path / "a.tar") as tar:
            tar.extractall(out)
    else:
        subprocess.run(["tar", "-xC", out, "-f", "-"], input=data, check=True, timeout=120)
        assert (out / "below/disk").stat().st_blocks * 512 < SIZE // 10
    assert (out / "below/disk").read_bytes() == content
    assert (out / "z").read_bytes() == b"after it"


def test_the_bytes_do_not_depend_on_the_disk(tmp_path: Path) -> None:
    content = sparse(tmp_path / "disk", end=True)
    os.utime(tmp_path / "disk", (5, 5))
    with_holes = packed(tmp_path)
    (tmp_path / "disk").write_bytes(content)
    os.utime(tmp_path / "disk", (5, 5))
    assert packed(tmp_path) == with_holes
    assert len(with_holes) > SIZE


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=700)), max_size=9
    ),
    tail=st.integers(0, 5000),
    name=st.text("abc/é", min_size=1, max_size=300).filter(lambda name: name.strip("/")),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_is_read(pieces: list[tuple[int, bytes]], tail: int, name: str) -> None:
    parts, at = [], 0
    for gap, data in pieces:
        parts.append((at + gap, len(data)))
        at += gap + len(data)
    name = name.rstrip("/")
    entry = Entry(name, FILE, 0o600, 1, 2, at + tail, 5, "", 0, 0, {"user.x": b"y"}, tuple(parts))
    body = b"".join(data for _, data in pieces)
    assert data_size(entry) == len(body)
    reader = TarReader(iter([header(entry), body, padding(len(body)), bytes(1024)]), "archive")
    (found,) = [(each, b"".join(map(bytes, reader.data()))) for each in reader]
    assert found == (entry, body)


def test_contents_come_where_they_are_asked_for(tmp_path: Path) -> None:
    """Sizes of all files do, and what is short or has several names comes in any case."""
    folder = tmp_path / "in"
    (folder / "a/b").mkdir(parents=True)
    data = os.urandom(100_000)
    for name in ("a/b/wanted", "a/wanted", "a/other", "top", "a/linked"):
        (folder / name).write_bytes(data)
    os.link(folder / "a/linked", folder / "again")
    (folder / "short").write_bytes(data[:1000])
    for number, (contents, whole) in enumerate(
        (
            (("a/b", "a/wanted"), {"a/b/wanted", "a/wanted"}),
            (("a/w", "to"), set()),
            (("",), {"a/b/wanted", "a/wanted", "a/other", "top"}),
            (None, {"a/b/wanted", "a/wanted", "a/other", "top"}),
        )
    ):
        options = PackOptions(prefix="./", top=True, contents=contents)
        out = tmp_path / f"out{number}"
        out.mkdir()
        data_packed = packed(folder, options)
        subprocess.run(["tar", "-xC", out, "-f", "-"], input=data_packed, check=True, timeout=120)
        for path in (path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder))
            found = (out / name).read_bytes()
            always = name in ("short", "a/linked", "again")
            assert found == (path.read_bytes() if always or name in whole else bytes(len(data)))
