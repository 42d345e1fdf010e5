"""A folder as a build context: read back by Python's tarfile, an independent reader."""

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, NotFound
from skerry.sdk import builds, packing


def entries(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        return {each.name: each for each in archive}


def packed(
    folder: Path, patterns: list[str] | None = None, **more: object
) -> dict[str, tarfile.TarInfo]:
    return entries(b"".join(packing.pack(str(folder), patterns, **more)))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/deep").write_text("deep")
    (tmp_path / "a/x.log").write_text("log")
    (tmp_path / "top").write_bytes(b"t" * 1000)
    (tmp_path / "top").chmod(0o4755)
    return tmp_path


def test_kinds_modes_and_owners(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    os.link(folder / "top", folder / "twin")
    os.mkfifo(folder / "pipe")
    found = packed(folder)
    assert found["a/b"].isdir()
    assert found["link"].linkname == "/etc/passwd"
    assert found["twin"].islnk()
    assert found["twin"].linkname == "top"
    assert found["pipe"].isfifo()
    assert found["top"].mode == 0o4755
    assert found["top"].size == 1000
    assert {(each.uid, each.gid, each.uname) for each in found.values()} == {(0, 0, "")}
    assert found["top"].mtime == int((folder / "top").stat().st_mtime)


def test_contents(folder: Path) -> None:
    data = b"".join(packing.pack(str(folder)))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("top")
        assert file is not None
        assert file.read() == b"t" * 1000
    assert len(data) % 512 == 0


def test_names_of_any_length_and_bytes(folder: Path) -> None:
    long = "/".join(["n" * 90] * 3)
    (folder / long).mkdir(parents=True)
    (folder / long / "f").symlink_to("t" * 150)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_text("x")
    found = packed(folder)
    assert found[f"{long}/f"].linkname == "t" * 150
    assert os.fsdecode(b"\xff\xfe") in found


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*"], []),
        (["**/*.log"], ["a", "a/b", "a/b/deep", "top"]),
        (["a"], ["top"]),
        (["a", "!a/b/deep"], ["a", "a/b", "a/b/deep", "top"]),
        (["*", "!top"], ["top"]),
        (["a/*", "!a/x.log"], ["a", "a/x.log", "top"]),
    ],
)
def test_ignore_rules(folder: Path, patterns: list[str], left: list[str]) -> None:
    assert sorted(packed(folder, patterns)) == left


def test_what_the_engine_needs_is_kept(folder: Path) -> None:
    found = packed(folder, ["*"], keep=("a/b/deep",))
    assert sorted(found) == ["a", "a/b", "a/b/deep"]


def test_the_dockerfile_and_its_rules_go_along(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / ".dockerignore").write_text("*\n")
    options: dict[str, object] = {}
    data = b"".join(builds.local_context(options, str(folder)))
    assert sorted(entries(data)) == [".dockerignore", "Dockerfile"]
    assert options == {"Dockerfile": "Dockerfile"}
    (folder / "Dockerfile.dockerignore").write_text("a\n")
    data = b"".join(builds.local_context(options, str(folder)))
    assert "top" in entries(data)


def test_a_dockerfile_from_elsewhere_is_sent_as_text(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "../Elsewhere"
    outside.write_text("FROM scratch\n# é\n")
    options: dict[str, str] = {}
    b"".join(builds.local_context(options, str(folder / "a"), str(outside)))
    assert options["DockerfileContent"] == "FROM scratch\n# é\n"
    outside.write_bytes(b"FROM scratch\n# \xff\n")
    with pytest.raises(InvalidInput, match="line 2: not UTF-8: byte 0xff"):
        builds.local_context({}, str(folder / "a"), str(outside))
    with pytest.raises(NotFound, match="Cannot locate specified Dockerfile"):
        builds.local_context({}, str(folder), str(folder / "none"))


def test_sockets_are_told(folder: Path) -> None:
    skipped: list[str] = []
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "sock"))
        assert "sock" not in packed(folder, skipped=skipped.append)
    assert skipped == ["sock"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not found"):
        packing.pack(str(tmp_path / "none"))


def test_a_file_that_shrinks_is_an_error(folder: Path) -> None:
    (folder / "big").write_bytes(bytes(4 << 20))
    stream = packing.pack(str(folder / "."))
    pieces = [next(stream)]
    (folder / "big").write_bytes(b"")
    with pytest.raises(InvalidInput, match="changed while it was read"):
        pieces.extend(stream)


def test_a_file_that_is_another_when_it_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "file"
    opened = os.open

    def packed_after(change: Callable[[], object]) -> dict[str, tarfile.TarInfo]:
        file.unlink(missing_ok=True)
        file.write_text("a file")

        def late(path: str, flags: int) -> int:
            if path == str(file):
                file.unlink()
                change()
            return opened(path, flags)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", late)
            return packed(folder)

    assert packed_after(lambda: file.write_bytes(b"l" * 2000))["file"].size == 2000
    found = packed_after(lambda: None)
    assert ("file" in found, "top" in found) == (False, True)
    for change in (lambda: os.mkfifo(file), lambda: file.symlink_to("top")):
        with pytest.raises(InvalidInput, match="'file' of the build context changed while it"):
            packed_after(change)


@given(st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw and b"/" not in raw))
def test_headers_of_any_name(name: bytes) -> None:
    block = packing.header(name[:100], 0o644, 0, 0, b"0", b"")
    assert len(block) == 512
    # tarfile takes a name's trailing slashes and padding away, which are none here.
    read = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    assert read.name == name[:100].decode("utf-8", "surrogateescape")


def test_sizes_beyond_octal() -> None:
    block = packing.header(b"x", 0o644, 9 << 30, 0, b"0", b"")
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 << 30
