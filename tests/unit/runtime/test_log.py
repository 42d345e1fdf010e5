"""The json-file log: entries, long lines, rotation, full disks."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import KernelFault
from skerry.runtime.log import MAX_ENTRY, JsonFileLog
from skerry.runtime.log_compression import Compression, original_inode


def entries(path: Path) -> list[tuple[str, str]]:
    """(stream, text) of every entry of one file."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [(entry["stream"], entry["log"]) for entry in found]


def test_complete_lines_are_entries_in_dockers_format(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    log = JsonFileLog(str(path), 0, 1)
    log.write("stdout", b'hello \xe2\x82\xac "quoted"\nsecond\n')
    raw = path.read_text().splitlines()
    log.close()
    assert raw[0].startswith('{"log":"hello € \\"quoted\\"\\n","stream":"stdout","time":"')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", json.loads(raw[1])["time"])
    assert list(json.loads(raw[1])) == ["log", "stream", "time"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_streams_do_not_mix_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 0, 1)
    log.write("stdout", b"out ")
    log.write("stderr", b"err\n")
    log.write("stdout", b"more\nrest")
    assert entries(path) == [("stderr", "err\n"), ("stdout", "out more\n")]
    log.finish("stdout")
    assert entries(path)[-1] == ("stdout", "rest")
    log.close()


def test_long_line_is_cut_every_16_kb_and_only_its_end_has_the_newline(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 0, 1)
    for _ in range(5):
        log.write("stdout", b"x" * 8_000)
    log.write("stdout", b"\n")
    log.close()
    lengths = [len(text) for _, text in entries(path)]
    assert lengths == [MAX_ENTRY, MAX_ENTRY, 5 * 8_000 + 1 - 2 * MAX_ENTRY]
    assert [text.endswith("\n") for _, text in entries(path)] == [False, False, True]


def test_no_character_is_cut_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 0, 1)
    log.write("stdout", b"a" + "€".encode() * 12_000 + b"\n")
    log.close()
    texts = [text for _, text in entries(path)]
    assert len(texts) == 3
    assert "".join(texts) == "a" + "€" * 12_000 + "\n"


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40_000))))
@settings(max_examples=40, deadline=None)
def test_whatever_comes_every_byte_is_logged_once(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = JsonFileLog(str(path), 0, 1)
    ascii_chunks = [(stream, bytes(b & 0x7F for b in data)) for stream, data in chunks]
    for stream, data in ascii_chunks:
        log.write(stream, data)
    log.close()
    for name in ("stdout", "stderr"):
        written = b"".join(data for stream, data in ascii_chunks if stream == name)
        logged = "".join(text for stream, text in entries(path) if stream == name)
        assert logged.encode() == written
    assert all(0 < len(text) <= MAX_ENTRY for _, text in entries(path))


def test_rotation_keeps_max_file_files_and_loses_only_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 1000, 3)
    for number in range(100):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    names = sorted(os.listdir(tmp_path))
    assert names == ["log", "log.1", "log.2"]
    kept = [text for name in reversed(names) for _, text in entries(tmp_path / name)]
    assert kept == [f"line {number}\n" for number in range(100 - len(kept), 100)]
    assert all((tmp_path / name).stat().st_size < 1200 for name in names)
    assert (tmp_path / "log.1").stat().st_size >= 1000


def test_rotated_files_are_compressed_along_the_way(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 1000, 3, compress=True)
    for number in range(100):
        log.write("stdout", b"line %d\n" % number)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]
    log.close()
    packed = tmp_path / "log.1.gz"
    assert packed.stat().st_size < 500
    assert packed.stat().st_mode & 0o777 == 0o640
    text = gzip.decompress(packed.read_bytes())
    assert len(text) >= 1000
    assert json.loads(text.splitlines()[-1])["log"].startswith("line ")


def test_an_interrupted_compression_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 300_000)
    inode = path.stat().st_ino
    begun = Compression(str(path))
    assert not begun.go_on(1)
    begun.abandon()
    assert os.listdir(tmp_path) == ["log"]
    again = Compression(str(path))
    while not again.go_on(100_000):
        assert path.exists()
    packed = (tmp_path / "log.gz").read_bytes()
    assert gzip.decompress(packed) == b"x" * 300_000
    assert original_inode(packed) == inode
    assert original_inode(gzip.compress(b"x" * 99)) == original_inode(b"") == 0
    with pytest.raises(FileNotFoundError):
        Compression(str(path))


def test_one_file_starts_anew_when_full(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), 300, 1)
    log.write("stdout", b"".join(b"line %d\n" % number for number in range(20)))
    log.close()
    assert os.listdir(tmp_path) == ["log"]
    assert entries(path)[-1] == ("stdout", "line 19\n")
    assert path.stat().st_size < 400


def test_a_line_cut_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"old\\n","stream":"stdout","time":"t"}\n{"log":"ha')
    log = JsonFileLog(str(path), 0, 1)
    log.write("stdout", b"new\n")
    log.close()
    lines = path.read_bytes().splitlines()
    assert lines[1] == b'{"log":"ha'
    assert json.loads(lines[2])["log"] == "new\n"


def test_a_full_disk_costs_entries_and_not_the_program() -> None:
    log = JsonFileLog("/dev/full", 0, 1)
    log.write("stdout", b"lost\n")
    assert log.lost > 0
    log.close()


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelFault, match=r"opening log .*/none/log: no such file"):
        JsonFileLog(str(tmp_path / "none" / "log"), 0, 1)


def test_a_symbolic_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KernelFault):
        JsonFileLog(str(tmp_path / "log"), 0, 1)
    assert not (tmp_path / "elsewhere").exists()
