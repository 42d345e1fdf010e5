import base64
import io
import json
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.api.formats import go_file_mode
from skerry.base.errors import InvalidInput, LimitExceeded, NotFound, SkerryError
from skerry.sdk import file_words
from skerry.sdk.sandbox_words import Entry

STAT = "x-docker-container-path-stat"


def told(**facts: object) -> dict[str, str]:
    plain = {"name": "f", "size": 3, "mode": 0o644, "mtime": "2026-01-02T03:04:05Z"}
    return {STAT: base64.b64encode(json.dumps(plain | facts).encode()).decode()}


def opened(archive: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(archive))


def test_one_path() -> None:
    found = file_words.entry_of(told(mtime="1970-01-01T00:00:01.25Z", linkTarget="x"))
    assert found == Entry("f", 3, stat.S_IFREG | 0o644, 1.25, "x")
    assert found.is_file
    assert not found.is_dir


@given(
    st.sampled_from((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK,
                     stat.S_IFIFO, stat.S_IFSOCK)),
    st.integers(0, 0o7777),
)  # fmt: skip
def test_modes_come_back(kind: int, bits: int) -> None:
    assert file_words.entry_of(told(mode=go_file_mode(kind | bits))).mode == kind | bits


@given(st.one_of(st.binary(), st.just(b"[]"), st.just(b'{"name": 1, "size": "x"}')))
def test_an_engine_that_talks_nonsense(raw: bytes) -> None:
    with pytest.raises(SkerryError):
        file_words.entry_of({STAT: base64.b64encode(raw).decode()})
    with pytest.raises(InvalidInput):
        file_words.entry_of({})


def test_a_file_and_a_folder() -> None:
    with opened(file_words.packed("/a//b/../c", b"data", 0o600)) as tar:
        (entry,) = tar.getmembers()
        assert (entry.name, entry.mode, entry.size) == ("a/c", 0o600, 4)
    with opened(file_words.folder("/" + "long" * 60, 0o700)) as tar:
        (entry,) = tar.getmembers()
        assert entry.isdir()
        assert entry.name == "long" * 60
    for wrong in ("", "/", "relative"):
        with pytest.raises(InvalidInput):
            file_words.packed(wrong, b"", 0)


def test_local_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    big = os.urandom(700_001)
    (tree / "big").write_bytes(big)
    os.link(tree / "big", tree / "sub/same")
    os.symlink("nowhere", tree / "link")
    (tree / "sub" / os.fsdecode(b"\xff")).write_text("x")
    with socket.socket(socket.AF_UNIX) as left_out:
        left_out.bind(str(tree / "socket"))
    pieces = list(file_words.packed_local(tree, "/to"))
    assert max(map(len, pieces)) <= 1 << 18
    with opened(b"".join(pieces)) as tar:
        names = ["to", "to/big", "to/link", "to/sub", "to/sub/same", "to/sub/\udcff"]
        assert tar.getnames() == names
        assert {(each.uid, each.uname) for each in tar} == {(0, "")}
        assert tar.getmember("to/sub/same").linkname == "to/big"
        same = tar.extractfile("to/big")
        assert same is not None
        assert same.read() == big
    with pytest.raises(NotFound):
        file_words.packed_local(tmp_path / "nosuch", "/to")


def test_a_download_has_a_limit(tmp_path: Path) -> None:
    archive = file_words.packed("/f", bytes(3000), 0o644)
    file_words.unpack_local(iter([archive]), "/f", tmp_path / "got", len(archive))
    assert (tmp_path / "got").read_bytes() == bytes(3000)
    with pytest.raises(LimitExceeded):
        file_words.unpack_local(iter([archive]), "/f", tmp_path / "got", 3000)
    with pytest.raises(InvalidInput):
        file_words.unpack_local(iter([archive]), "/f", tmp_path / "no/folder")
    assert file_words.content_of([archive], "/f") == bytes(3000)
