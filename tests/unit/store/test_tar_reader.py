"""The tar reader against archives that other programs write, broken ones and random ones."""

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.store.tar_reader import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, Limits, TarReader

Read = list[tuple[Entry, bytes]]
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=300
).filter(lambda name: name not in (".", ".."))


def chunks(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(data: bytes, limits: Limits | None = None, size: int = 1000) -> Read:
    reader = TarReader(chunks(data, size), "archive", limits or Limits())
    return [(entry, b"".join(reader.data())) for entry in reader]


def write(*members: tuple[tarfile.TarInfo, bytes], style: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_every_format(style: int) -> None:
    info = tarfile.TarInfo("dir/file")
    info.size, info.mode, info.mtime, info.uid, info.gid = 5, 0o4751, 1234567890, 1000, 100
    link = tarfile.TarInfo("dir/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../target"
    hard = tarfile.TarInfo("hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "dir/file"
    found = read(write((info, b"hello"), (link, b""), (hard, b""), style=style))
    first = found[0][0]
    assert (first.name, first.kind, first.mode, first.size) == ("dir/file", FILE, 0o4751, 5)
    assert (first.uid, first.gid, first.mtime_ns) == (1000, 100, 1234567890 * 10**9)
    assert found[0][1] == b"hello"
    assert (found[1][0].kind, found[1][0].link) == (SYMLINK, "../target")
    assert (found[2][0].kind, found[2][0].link) == (HARDLINK, "dir/file")


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_longer_than_a_path_can_be(style: int) -> None:
    name = "/".join(["d" * 200] * 40)
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, "t/" * 2000 + "end"
    found = read(write((link, b""), style=style))
    assert found[0][0].name == name
    assert found[0][0].link == link.linkname


def test_ustar_prefix() -> None:
    name = "p" * 120 + "/" + "n" * 90
    assert read(write((tarfile.TarInfo(name), b""), style=tarfile.USTAR_FORMAT))[0][0].name == name


def test_base_256_numbers() -> None:
    info = tarfile.TarInfo("big")
    info.uid, info.gid, info.mtime = 1 << 31, 1 << 30, -5
    entry = read(write((info, b""), style=tarfile.GNU_FORMAT))[0][0]
    assert (entry.uid, entry.gid, entry.mtime_ns) == (1 << 31, 1 << 30, -5 * 10**9)


def test_pax_fractions_and_attributes() -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {
        "mtime": "1.25",
        "SCHILY.xattr.user.colour": "blue",
        "LIBARCHIVE.xattr.user.b%20c": "AAEC",
        "comment": "ignored",
    }
    entry = read(write((info, b""), style=tarfile.PAX_FORMAT))[0][0]
    assert entry.mtime_ns == 1_250_000_000
    assert entry.xattrs == {"user.colour": b"blue", "user.b c": b"\0\1\2"}


def test_global_pax_header_applies_to_all_that_follow() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "7"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert read(out.getvalue())[0][0].mtime_ns in (0, 7 * 10**9)


def test_old_directories_end_with_a_slash() -> None:
    info = tarfile.TarInfo("dir")
    data = bytearray(write((info, b""), style=tarfile.USTAR_FORMAT))
    data[:4] = b"dir/"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert read(bytes(data))[0][0].kind is DIRECTORY


@pytest.mark.parametrize("style", ["gnu", "posix-0.0", "posix-0.1", "posix-1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, style: str) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(40):
            file.seek(number * 1_000_000)
            file.write(b"data %d" % number)
        file.truncate(50_000_000)
    kind, _, version = style.partition("-")
    command = ["tar", "-C", str(tmp_path), f"--format={kind}", "--sparse", "-cf", "-", "sparse"]
    if version:
        command.insert(4, f"--sparse-version={version}")
    data = subprocess.run(command, check=True, capture_output=True).stdout
    ((entry, content),) = read(data)
    assert entry.name == "sparse"
    assert entry.size == 50_000_000
    assert entry.sparse
    whole = bytearray(entry.size)
    at = 0
    for offset, length in entry.sparse:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    assert bytes(whole) == path.read_bytes()


def test_the_end_may_be_two_blocks_or_one_or_none() -> None:
    info = tarfile.TarInfo("a")
    info.size = 3
    whole = write((info, b"abc"), style=tarfile.USTAR_FORMAT)
    for end in (1024, 1536, 2048, len(whole)):
        assert [entry.name for entry, _ in read(whole[:end])] == ["a"]
    assert read(b"") == []


def test_the_last_file_may_lack_its_padding_but_no_part_of_it() -> None:
    info = tarfile.TarInfo("a")
    info.size = 3
    whole = write((info, b"abc"), style=tarfile.USTAR_FORMAT)
    assert read(whole[:515]) == read(whole)
    for cut in (514, 516, 1000):
        with pytest.raises(InvalidInput, match="ends too early"):
            read(whole[:cut])


def test_every_truncation_inside_an_entry_is_an_error() -> None:
    info = tarfile.TarInfo("a" * 200)
    info.size = 3
    whole = write((info, b"abc"), style=tarfile.PAX_FORMAT)
    end = len(whole.rstrip(b"\0")) + 1
    for cut in range(1, end, 37):
        with pytest.raises(InvalidInput, match="archive"):
            read(whole[:cut])


def _header(**fields: bytes) -> bytes:
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    places = {"size": 124, "type": 156, "mode": 100, "uid": 108, "mtime": 136}
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (_header(size=b"\xff" * 12), "size is not a number"),
        (_header(size=b"00000000009\0"), "size is not a number"),
        (_header(mode=b"0o7 \0"), "mode is not a number"),
        (_header(uid=b"\x80\0\0\0\xff\xff\xff\xff"), "uid 4294967295 is out of range"),
        (_header(type=b"M"), "type 'M' are not supported"),
        (_header()[:-1] + b"x", "checksum is wrong"),
        (_header(type=b"x"), "ends after an extended header"),
        (_header(size=b"00000001000\0") + b"cut", "ends too early"),
    ],
)
def test_lies_in_headers(header: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read(header)


@pytest.mark.parametrize(
    "body",
    [
        b"7 a=b\n",
        b"99999999999999999999 a=b\n",
        b"-6 a=b\n",
        b"6 a=b\nxx",
        b"6 =ab\n",
        b"6 abc\n",
        b"11 size=-5\n",
        b"13 path=a\0b\n",
        b"18 mtime=nonsense\n",
        b"24 GNU.sparse.map=1,2,3\n",
        b"22 GNU.sparse.major=9\n",
    ],
)
def test_broken_pax_records(body: bytes) -> None:
    data = _header(type=b"x", size=b"%011o\0" % len(body)) + body + bytes(-len(body) % 512)
    with pytest.raises(InvalidInput):
        read(data + _header() + bytes(1024))


def test_limits() -> None:
    many = write(*((tarfile.TarInfo(f"{n}"), b"") for n in range(5)), style=tarfile.PAX_FORMAT)
    deep = write((tarfile.TarInfo("a/" * 50 + "b"), b""), style=tarfile.PAX_FORMAT)
    with pytest.raises(LimitExceeded, match="more than 4 entries"):
        read(many, Limits(entries=4))
    with pytest.raises(LimitExceeded, match="deeper than 10"):
        read(deep, Limits(depth=10))
    with pytest.raises(LimitExceeded, match="a name of 101 bytes"):
        read(deep, Limits(path=100))
    with pytest.raises(LimitExceeded, match="size 512"):
        read(_header(size=b"00000001000\0") + bytes(512), Limits(size=511))
    with pytest.raises(LimitExceeded, match="extended header of 1048576 bytes"):
        read(_header(type=b"x", size=b"00004000000\0"), Limits(header=1 << 19))
    with pytest.raises(LimitExceeded, match="64 extended headers"):
        read(_header(type=b"x") * 100 + _header())


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=5),
    data=st.binary(max_size=3000),
    mtime=st.floats(min_value=-(2**40), max_value=2**40, allow_nan=False),
    size=st.integers(min_value=1, max_value=2000),
    style=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_agrees_with_the_standard_library(
    names: list[str], data: bytes, mtime: float, size: int, style: int
) -> None:
    info = tarfile.TarInfo("/".join(names))
    info.size = len(data)
    info.mtime = mtime if style == tarfile.PAX_FORMAT else int(mtime)
    written = write((info, data), style=style)
    ((entry, content),) = read(written, size=size)
    with tarfile.open(fileobj=io.BytesIO(written), errorlevel=2) as tar:
        (expected,) = tar.getmembers()
    assert entry.name.rstrip("/") == expected.name.rstrip("/")
    assert content == data
    assert abs(entry.mtime_ns / 1e9 - expected.mtime) < 1e-3 or abs(mtime) > 2**33


def sample(rng: random.Random) -> bytes:
    """A valid archive with all sorts of entries."""
    members = []
    kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
    for _ in range(rng.randint(1, 6)):
        info = tarfile.TarInfo("/".join(rng.choice(["a", "b", "..", "é", "n" * 120]) for _ in "ab"))
        info.type = rng.choice(kinds)
        info.linkname = rng.choice(["a", "../../etc/passwd", "/", "a/b", "l" * 150])
        data = rng.randbytes(rng.choice([0, 5, 511, 512, 1500]))
        info.size = len(data) if info.type == tarfile.REGTYPE else 0
        if rng.random() < 0.3:
            info.pax_headers = {"SCHILY.xattr.user.x": "y", "mtime": "12.5"}
        members.append((info, data[: info.size]))
    return write(*members, style=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The same with a few bytes changed, cut out, repeated, or headers re-checksummed."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed) or 1)
        what = rng.random()
        if what < 0.6 and changed:
            changed[at] = rng.choice([0, 0x30, 0x37, 0x53, 0x78, 0x80, 0xFF, rng.randrange(256)])
        elif what < 0.8:
            del changed[at : at + rng.choice([1, 512, 700])]
        else:
            changed[at:at] = changed[at : at + rng.choice([1, 512])]
    for at in range(0, len(changed) - 511, 512):
        if rng.random() < 0.7 and changed[at + 257 : at + 262] == b"ustar":
            block = changed[at : at + 512]
            block[148:156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(changed)


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_mutated_archives_end_or_raise_invalid_input(seed: int) -> None:
    rng = random.Random(seed)
    data = mutate(sample(rng), rng)
    try:
        found = read(data)
    except InvalidInput as error:
        assert "archive" in error.message
    else:
        assert sum(len(content) for _, content in found) <= len(data)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=2048))
def test_random_bytes(data: bytes) -> None:
    try:
        assert isinstance(read(data), list)
    except InvalidInput as error:
        assert error.message.startswith("archive: ")


def test_reads_what_gnu_tar_writes_of_a_real_tree(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    tree.mkdir()
    (tree / "f").write_bytes(os.urandom(70_000))
    (tree / "l").symlink_to("f")
    os.link(tree / "f", tree / "h")
    os.mkfifo(tree / "p")
    out = subprocess.run(["tar", "-C", str(tree), "-cf", "-", "."], check=True, capture_output=True)
    kinds = {entry.name: entry.kind for entry, _ in read(out.stdout)}
    assert sorted(kinds) == ["./", "./f", "./h", "./l", "./p"]
    assert sorted(kinds.values()) == sorted("dffpl".replace("ff", "fh"))
