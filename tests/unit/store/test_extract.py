"""Unpacking layers: what they say is done, what they try is not."""

import errno
import os
import random
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError, SystemFault
from skerry.store import Store
from skerry.store import extract as extracting
from skerry.store.extract import Extractor, Options
from skerry.store.tar_reader import Limits, TarReader

Unpack = Callable[[bytes], Path]
Make = Callable[..., Any]
DIR, SYM, LNK, FIFO = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


def extract(data: bytes, folder: Path, options: Options | None = None) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Extractor(fd, TarReader(iter([data]), "layer x"), options or Options()) as extractor:
            extractor.run()
    finally:
        os.close(fd)


def outside(folder: Path) -> list[str]:
    """Everything beside the folder that is unpacked into."""
    return sorted(str(path) for path in folder.parent.rglob("*") if folder not in path.parents)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where to unpack: a folder beside a file that must stay as it is."""
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_files_modes_times_and_links(folder: Path, make_archive: Make, make_member: Make) -> None:
    extract(
        make_archive(
            make_member("./", kind=DIR, mode=0o711, mtime=11),
            make_member("./d", kind=DIR, mode=0o1777, mtime=22),
            make_member("./d/f", b"data", mode=0o4755, pax_headers={"mtime": "33.5"}),
            make_member("./d/h", kind=LNK, linkname="./d/f"),
            make_member("./s", kind=SYM, linkname="/etc/passwd", mtime=44),
            make_member("./p", kind=FIFO, mode=0o622),
            make_member("no/parents/here", b"x"),
        ),
        folder,
    )
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert folder.stat().st_mtime == 11
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o1777
    assert (folder / "d").stat().st_mtime == 22
    assert (folder / "d/f").read_bytes() == b"data"
    assert stat.S_IMODE((folder / "d/f").stat().st_mode) == 0o4755
    assert (folder / "d/f").stat().st_mtime_ns == 33_500_000_000
    assert (folder / "d/f").stat().st_ino == (folder / "d/h").stat().st_ino
    assert os.readlink(folder / "s") == "/etc/passwd"
    assert (folder / "s").lstat().st_mtime == 44
    assert stat.S_ISFIFO((folder / "p").stat().st_mode)
    assert stat.S_IMODE((folder / "p").stat().st_mode) == 0o622
    assert (folder / "no/parents/here").read_bytes() == b"x"


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "..", "a/..", "/../secret", "./../secret", "a/../b"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, DIR, SYM, FIFO])
def test_dot_dot_is_refused(
    folder: Path, make_archive: Make, make_member: Make, name: str, kind: bytes
) -> None:
    before = outside(folder)
    with pytest.raises(InvalidInput, match="leads out") as caught:
        extract(make_archive(make_member(name, kind=kind, linkname="x")), folder)
    assert "layer x" in caught.value.message
    assert name in caught.value.message
    assert outside(folder) == before


def test_absolute_names_land_inside(folder: Path, make_archive: Make, make_member: Make) -> None:
    extract(make_archive(make_member("/etc/new", b"x"), make_member("//y", b"y")), folder)
    assert (folder / "etc/new").read_bytes() == b"x"
    assert (folder / "y").read_bytes() == b"y"


@pytest.mark.parametrize("target", ["/", "..", "../../../..", "/..", "./.."])
def test_links_on_the_way_resolve_inside(
    folder: Path, make_archive: Make, make_member: Make, target: str
) -> None:
    before = outside(folder)
    extract(
        make_archive(
            make_member("way", kind=SYM, linkname=target), make_member("way/secret", b"mine")
        ),
        folder,
    )
    assert (folder / "secret").read_bytes() == b"mine"
    assert (folder.parent / "secret").read_text() == "untouched"
    assert outside(folder) == before


def test_a_link_to_a_real_directory_outside(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    """Absolute links are the image's own: the folder of that name on the host is not meant."""
    with pytest.raises(InvalidInput, match="way/secret"):
        extract(
            make_archive(
                make_member("way", kind=SYM, linkname=str(folder.parent)),
                make_member("way/secret", b"mine"),
            ),
            folder,
        )
    assert (folder.parent / "secret").read_text() == "untouched"


def test_a_file_never_writes_through_a_link(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    extract(
        make_archive(
            make_member("f", kind=SYM, linkname="../secret"),
            make_member("f", b"mine"),
            make_member("g", b"inside"),
            make_member("l", kind=SYM, linkname="g"),
            make_member("l", b"other"),
        ),
        folder,
    )
    assert (folder.parent / "secret").read_text() == "untouched"
    assert (folder / "f").read_bytes() == b"mine"
    assert (folder / "g").read_bytes() == b"inside"
    assert not (folder / "l").is_symlink()


@pytest.mark.parametrize("target", ["../secret", "/../secret", "missing", "way/secret", "d", ""])
def test_hard_links_out_or_to_nothing_are_refused(
    folder: Path, make_archive: Make, make_member: Make, target: str
) -> None:
    with pytest.raises(InvalidInput, match="'h'"):
        extract(
            make_archive(
                make_member("d", kind=DIR),
                make_member("way", kind=SYM, linkname=".."),
                make_member("h", kind=LNK, linkname=target),
            ),
            folder,
        )
    assert not (folder / "h").exists()
    assert (folder.parent / "secret").stat().st_nlink == 1


def test_a_hard_link_to_a_link_does_not_follow_it(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    extract(
        make_archive(
            make_member("s", kind=SYM, linkname="../secret"),
            make_member("h", kind=LNK, linkname="s"),
        ),
        folder,
    )
    assert (folder / "h").is_symlink()
    assert (folder.parent / "secret").stat().st_nlink == 1


def test_later_entries_replace_earlier_ones(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    extract(
        make_archive(
            make_member("a", b"1"),
            make_member("a", b"2"),
            make_member("d", kind=DIR),
            make_member("d/x", b"x"),
            make_member("d", b"now a file"),
            make_member("e", b"file"),
            make_member("e", kind=DIR, mode=0o700),
            make_member("e/y", b"y"),
            make_member("h", kind=LNK, linkname="a"),
            make_member("h", kind=LNK, linkname="a"),
            make_member("a", kind=LNK, linkname="a"),
        ),
        folder,
    )
    assert (folder / "a").read_bytes() == b"2"
    assert (folder / "d").read_bytes() == b"now a file"
    assert (folder / "e/y").read_bytes() == b"y"
    assert (folder / "h").stat().st_ino == (folder / "a").stat().st_ino


def test_a_directory_replaced_by_a_link_is_not_remembered(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    extract(
        make_archive(
            make_member("d", kind=DIR, mtime=5),
            make_member("d/x", b"x"),
            make_member("elsewhere", kind=DIR, mtime=7),
            make_member("d", kind=SYM, linkname="elsewhere"),
            make_member("d/y", b"y"),
        ),
        folder,
    )
    assert (folder / "elsewhere/y").read_bytes() == b"y"
    assert not (folder / "elsewhere/x").exists()
    assert (folder / "elsewhere").stat().st_mtime == 7


def test_a_file_as_a_parent_is_refused(folder: Path, make_archive: Make, make_member: Make) -> None:
    with pytest.raises(InvalidInput, match=r"'f/x': Not a directory"):
        extract(make_archive(make_member("f", b""), make_member("f/x", b"")), folder)


def test_a_dangling_link_as_a_parent_is_refused(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    with pytest.raises(InvalidInput, match="'l/x': No such file"):
        extract(
            make_archive(make_member("l", kind=SYM, linkname="gone"), make_member("l/x", b"")),
            folder,
        )


def test_link_loops_are_refused(folder: Path, make_archive: Make, make_member: Make) -> None:
    with pytest.raises(InvalidInput, match="symbolic links"):
        extract(
            make_archive(
                make_member("a", kind=SYM, linkname="b"),
                make_member("b", kind=SYM, linkname="a"),
                make_member("a/x", b""),
            ),
            folder,
        )


def test_names_beyond_path_max(folder: Path, make_archive: Make, make_member: Make) -> None:
    name = "/".join(["d" * 100] * 90)
    extract(
        make_archive(
            make_member(name + "/f", b"deep"), make_member("h", kind=LNK, linkname=name + "/f")
        ),
        folder,
    )
    assert (folder / "h").read_bytes() == b"deep"
    assert (folder / "h").stat().st_nlink == 2


def test_a_component_that_is_too_long(folder: Path, make_archive: Make, make_member: Make) -> None:
    with pytest.raises(InvalidInput, match=os.strerror(errno.ENAMETOOLONG)):
        extract(make_archive(make_member("n" * 256, b"")), folder)


def test_sparse_files_keep_their_holes(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(20_000_000)
        file.write(b"end")
    for style in ("gnu", "posix"):
        packed = tmp_path / f"{style}.tar"
        command = f"tar -C {tmp_path} --format={style} -Scf {packed} sparse"
        assert os.system(command) == 0
        extract(packed.read_bytes(), folder)
        assert (folder / "sparse").read_bytes() == source.read_bytes()
        assert (folder / "sparse").stat().st_blocks * 512 < 1_000_000


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 7]), st.integers(1, 70_000)), min_size=1, max_size=12
    ),
    cut=st.integers(1, 50_000),
)
@settings(max_examples=50, deadline=None)
def test_zeros_become_holes(pieces: list[tuple[int, int]], cut: int) -> None:
    content = b"".join(bytes([value]) * count for value, count in pieces)
    for offset in (0, 5, 16 << 10):
        found = bytearray(len(content))
        for at in range(0, len(content), cut):
            piece = memoryview(content)[at : at + cut]
            ends = 0
            for start, end in extracting._written(piece, offset + at):
                assert ends <= start < end <= len(piece)
                ends = end
                found[at + start : at + end] = piece[start:end]
        assert found == content


def test_a_plain_archive_gets_its_holes_back(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    content = bytes(3 << 20) + b"data" * 9000 + bytes(1 << 20)
    extract(make_archive(make_member("f", content)), folder)
    assert (folder / "f").read_bytes() == content
    assert (folder / "f").stat().st_blocks * 512 < 200_000


def test_user_attributes_yes_overlay_ones_no(
    folder: Path, make_archive: Make, make_member: Make
) -> None:
    headers = {
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/",
        "SCHILY.xattr.security.selinux": "x",
    }
    extract(make_archive(make_member("f", b"", pax_headers=headers)), folder)
    assert os.listxattr(folder / "f") == ["user.note"]
    assert os.getxattr(folder / "f", "user.note") == b"kept"


def test_attributes_beyond_the_file_system_are_no_full_disk(
    folder: Path, make_archive: Make, make_member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "setxattr", refuse)
    for size, error in ((100, SystemFault), (5000, InvalidInput)):
        headers = {"SCHILY.xattr.user.note": "v" * size}
        with pytest.raises(error):
            extract(make_archive(make_member("f", b"", pax_headers=headers)), folder)


def test_owner_can_be_replaced(folder: Path, make_archive: Make, make_member: Make) -> None:
    extract(
        make_archive(make_member("f", b"", uid=12345)),
        folder,
        Options(owners=False, owner=(os.geteuid(), os.getegid())),
    )
    assert (folder / "f").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(("first", "second"), [(DIR, tarfile.REGTYPE), (tarfile.REGTYPE, DIR)])
def test_keeping_kinds(
    folder: Path, make_archive: Make, make_member: Make, first: bytes, second: bytes
) -> None:
    data = make_archive(make_member("x", kind=first), make_member("x", kind=second))
    with pytest.raises(InvalidInput, match="cannot overwrite"):
        extract(data, folder, Options(keep_kinds=True))


def test_entries_over_the_limit(tmp_path: Path, make_archive: Make, make_member: Make) -> None:
    data = make_archive(*(make_member(f"{n}") for n in range(20)))
    reader = TarReader(iter([data]), "layer x", Limits(entries=10))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(LimitExceeded), Extractor(fd, reader) as extractor:
            extractor.run()
    finally:
        os.close(fd)


def test_no_descriptor_is_left_open(
    folder: Path, make_archive: Make, make_member: Make, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    members = [make_member(f"d{n}/e/f{n}", b"x") for n in range(300)]
    extract(make_archive(*members), folder)
    with pytest.raises(InvalidInput):
        extract(make_archive(*members, make_member("../x")), folder)
    assert open_descriptors() == before


def test_a_failed_layer_leaves_nothing(
    store: Store, unpack: Unpack, make_archive: Make, make_member: Make
) -> None:
    data = make_archive(make_member("a/b/c", b"x" * 5000), make_member("../out", b""))
    with pytest.raises(InvalidInput, match=r"layer sha256:[0-9a-f]{64}: entry '../out'"):
        unpack(data)
    assert store.layers.all() == []
    assert os.listdir(store.scratch.tmp) == []


PARTS = ["a", "b", "c", "..", ".", "", "x" * 60, ".wh.a", ".wh..wh..opq", ".wh...", "é"]
KINDS = [tarfile.REGTYPE, DIR, SYM, LNK, FIFO]


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_no_archive_escapes(
    tmp_path_factory: pytest.TempPathFactory, make_archive: Make, make_member: Make, seed: int
) -> None:
    """Random members that try every way out: nothing beside the folder ever changes."""
    rng = random.Random(seed)
    top = tmp_path_factory.mktemp("escape")
    (top / "secret").write_text("untouched")
    (top / "a").mkdir()
    target = top / "target"
    target.mkdir()
    before = outside(target)
    members = []
    for _ in range(rng.randint(1, 12)):
        name = "/".join(rng.choice(PARTS) for _ in range(rng.randint(1, 3))) or "a"
        link = rng.choice(
            ["a", "b/c", "..", "../secret", "/", str(top), str(top / "secret"), "../a", ".", "a/b"]
        )
        members.append(make_member(name, kind=rng.choice(KINDS), linkname=link))
    try:
        extract(make_archive(*members), target)
    except SkerryError as error:
        assert error.message.startswith("layer x")
    assert outside(target) == before
    assert (top / "secret").read_text() == "untouched"
    assert (top / "secret").stat().st_nlink == 1
    assert list((top / "a").iterdir()) == []
