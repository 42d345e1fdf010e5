"""Copying in and out: archives that are written, and hostile ones that are read."""

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.store.archive import extract_tar, tar_stream

ME = (os.getuid(), os.getgid())


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def packed(folder: Path, name: str) -> tarfile.TarFile:
    with opened(folder) as fd:
        return tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(fd, "/", name=name))))


def unpack(root: Path, target: str, data: bytes, *, keep_kinds: bool = False) -> None:
    with opened(root) as fd:
        extract_tar(io.BytesIO(data), fd, target, owner=ME, no_overwrite_dir_non_dir=keep_kinds)


def archive(*entries: tuple[str, str, str]) -> bytes:
    """Entries of (name, kind, content or link)."""
    kinds = {
        "d": tarfile.DIRTYPE,
        "l": tarfile.SYMTYPE,
        "h": tarfile.LNKTYPE,
        "p": tarfile.FIFOTYPE,
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if kind == "d" else 0o644
            info.mtime = 1000
            if kind == "f":
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            else:
                info.type, info.linkname = kinds[kind], text
                tar.addfile(info)
    return out.getvalue()


def test_a_tree_goes_out_and_in_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_text("text")
    (tree / "file").chmod(0o4755)
    os.link(tree / "file", tree / "sub/hard")
    (tree / "link").symlink_to("/absolute")
    os.mkfifo(tree / "pipe")
    os.utime(tree / "sub", (5, 5))
    tar = packed(tree, "name")
    assert tar.getnames() == [
        "name",
        "name/file",
        "name/link",
        "name/pipe",
        "name/sub",
        "name/sub/hard",
    ]
    assert tar.getmember("name/sub/hard").linkname == "name/file"
    root = tmp_path / "root"
    (root / "into").mkdir(parents=True)
    assert isinstance(tar.fileobj, io.BytesIO)
    unpack(root, "/into", tar.fileobj.getvalue())
    got = root / "into/name"
    assert (got / "file").read_text() == "text"
    assert stat.S_IMODE((got / "file").stat().st_mode) == 0o4755
    assert (got / "sub/hard").samefile(got / "file")
    assert os.readlink(got / "link") == "/absolute"
    assert stat.S_ISFIFO((got / "pipe").stat().st_mode)
    assert (got / "sub").stat().st_mtime == 5


@pytest.mark.parametrize(
    "entries",
    [
        [("../../escaped", "f", "x")],
        [("/escaped", "f", "x")],
        [("a", "l", "/"), ("a/escaped", "f", "x")],
        [("a", "l", "../.."), ("a/escaped", "f", "x")],
        [("a", "l", "/escaped"), ("a", "f", "x")],
        [("a", "h", "../../outside")],
        [("a", "h", "/outside")],
    ],
)
def test_no_archive_leaves_the_root(tmp_path: Path, entries: list[tuple[str, str, str]]) -> None:
    (tmp_path / "outside").write_text("secret")
    root = tmp_path / "root"
    (root / "into").mkdir(parents=True)
    with contextlib.suppress(SkerryError):
        unpack(root, "/into", archive(*entries))
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert (tmp_path / "outside").read_text() == "secret"


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    (tmp_path / "name").symlink_to("kept")
    unpack(tmp_path, "/", archive(("name", "f", "new")))
    assert (tmp_path / "kept").read_text() == "old"
    assert (tmp_path / "name").read_text() == "new"
    assert not (tmp_path / "name").is_symlink()


def test_kinds_are_kept_when_asked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot overwrite directory"):
        unpack(tmp_path, "/", archive(("folder", "f", "x")), keep_kinds=True)
    with pytest.raises(InvalidInput, match="cannot overwrite non-directory"):
        unpack(tmp_path, "/", archive(("file", "d", "")), keep_kinds=True)
    unpack(tmp_path, "/", archive(("folder", "f", "x"), ("file", "d", "")))
    assert (tmp_path / "folder").read_text() == "x"
    assert (tmp_path / "file").is_dir()


def test_links_of_the_container_are_followed_in_its_root(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    unpack(tmp_path, "/var", archive((".", "d", ""), ("run/x", "f", "new")))
    unpack(tmp_path, "/var/run", archive((".", "d", ""), ("y", "f", "new")))
    assert (tmp_path / "run/x").read_text() == (tmp_path / "run/y").read_text() == "new"
    assert (tmp_path / "var/run").is_symlink()


@given(data=st.binary(max_size=2000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    with contextlib.suppress(SkerryError):
        unpack(root, "/", data)
    assert os.listdir(tmp_path) == ["root"]


@given(position=st.integers(0, 2047), value=st.integers(0, 255))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damaged_archive(tmp_path: Path, position: int, value: int) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    data = bytearray(archive(("a", "d", ""), ("a/b", "f", "text"), ("a/c", "l", "../..")))
    data[position] = value
    with contextlib.suppress(SkerryError):
        unpack(root, "/", bytes(data))
    assert os.listdir(tmp_path) == ["root"]
