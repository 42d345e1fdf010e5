"""A machine's memory: which pages are its own, and copying them."""

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import SystemFault
from skerry.machine import memory, room
from skerry.machine.memory import PAGE, Mapping

MAPS = """\
7f00-7f80 rw-p 00001000 00:01 42    /memfd:skerry template (deleted)
7f80-8000 rw-p 00000000 00:02 42    /memfd:other
8000-9000 rw-p 00000000 00:00 0
"""
OWN, SWAPPED, THE_FILES, ABSENT = 1 << 63, 1 << 62, 1 << 63 | 1 << 61, 0


def test_mappings_of_one_file() -> None:
    assert memory.mappings(MAPS, os.makedev(0, 1), 42) == [Mapping(0x7F00, 0x7F80, 0x1000)]


def test_runs() -> None:
    entries = [ABSENT, OWN, SWAPPED, THE_FILES, ABSENT, ABSENT, OWN, ABSENT, OWN | 5]
    assert list(memory.own_runs(entries)) == [(1, 2), (6, 3)]


@given(st.lists(st.sampled_from([OWN, SWAPPED, THE_FILES, ABSENT]), max_size=60))
def test_runs_hold_every_own_page_once(entries: list[int]) -> None:
    pages = [p for start, count in memory.own_runs(entries) for p in range(start, start + count)]
    assert pages == sorted(set(pages))
    assert {p for p, entry in enumerate(entries) if entry in (OWN, SWAPPED)} <= set(pages)
    assert not pages or max(pages) < len(entries)


def _file(data: bytes) -> int:
    fd = os.memfd_create("test-memory", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def test_what_was_written_to_a_private_mapping_is_copied() -> None:
    size = 64 * PAGE
    base, target = _file(b"b" * size), _file(b"b" * size)
    try:
        with mmap.mmap(base, size, flags=mmap.MAP_PRIVATE) as mapped:
            for page in (0, 1, 7, 40, 63):
                mapped[page * PAGE] = ord("x")
            assert mapped[20 * PAGE] == ord("b")  # Read only: it stays the file's.
            copied = memory.copy_own(os.getpid(), base, target, size)
            assert os.pread(target, size, 0) == mapped[:]
        assert 5 * PAGE <= copied < size
        assert os.pread(base, size, 0) == b"b" * size
    finally:
        os.close(base)
        os.close(target)


def test_a_process_that_does_not_map_all_of_it_is_refused() -> None:
    size = 4 * PAGE
    base, target = _file(bytes(size)), _file(b"")
    try:
        with pytest.raises(SystemFault):
            memory.copy_own(os.getpid(), base, target, size)
    finally:
        os.close(base)
        os.close(target)


def test_what_was_plugged_in_goes_behind_the_rest_and_comes_back() -> None:
    more = _file(b"")
    os.ftruncate(more, 64 << 20)
    os.pwrite(more, b"x" * PAGE, 5 << 20)
    assert memory.end_of_data(more) == (5 << 20) + PAGE
    saved, again = _file(b"a" * PAGE), _file(b"")
    size, tail = 1 << 20, room.tail(more)
    assert tail == 6 << 20
    memory.copy_extents(more, saved, tail, to=size)
    os.ftruncate(saved, size + tail)
    os.ftruncate(again, 64 << 20)
    memory.copy_extents(saved, again, size + tail, start=size)
    assert os.pread(again, PAGE, 5 << 20) == b"x" * PAGE
    assert os.pread(again, PAGE, 0) == bytes(PAGE), "the rest stays where it was"
    assert room.tail(_file(b"")) == 1 << 20, "0 would say that nothing was plugged in"
    for fd in (more, saved, again):
        os.close(fd)
