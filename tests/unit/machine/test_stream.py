"""QEMU's migration stream taken apart: streams made here by the format, and damaged ones."""

import os
import struct
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.machine import stream

PAGE = stream.PAGE
SIZE = 8 * PAGE
OTHER = 3 * PAGE
DEVICES = b"\x04devices, whatever they are" * 3


def word(number: int) -> bytes:
    return struct.pack(">Q", number)


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def head() -> bytes:
    capabilities = b"\x05" + name("configuration/capabilities") + struct.pack(">II", 1, 1)
    capabilities += name("x-ignore-shared")
    bits = b"\x05" + name("configuration/target-page-bits") + struct.pack(">II", 1, 12)
    machine = b"microvm"
    return b"QEVM\0\0\0\3\x07" + struct.pack(">I", len(machine)) + machine + bits + capabilities


def section(kind: int, body: bytes) -> bytes:
    start = name("ram") + struct.pack(">II", 0, 4) if kind == 1 else b""
    return (
        bytes([kind]) + struct.pack(">I", 2) + start + body + word(0x10) + b"\x7e"
        + struct.pack(">I", 2)
    )  # fmt: skip


def sizes(ram: int = SIZE) -> bytes:
    blocks = name("ram") + word(ram) + word(0) + name("bios") + word(OTHER) + word(1 << 32)
    return word((ram + OTHER) | 4) + blocks


class Pages:
    """Records as QEMU writes them: a block is named when it changes."""

    def __init__(self) -> None:
        self.last = ""

    def record(self, block: str, page: int, fill: int) -> bytes:
        flags = 0x08 if fill else 0x02
        if block == self.last:
            out = word(page * PAGE | flags | 0x20)
        else:
            out = word(page * PAGE | flags) + name(block)
            self.last = block
        return out + (bytes([fill]) * PAGE if fill else b"\0")


def whole(rounds: list[list[tuple[str, int, int]]]) -> bytes:
    pages = Pages()
    out = head() + section(1, sizes())
    for number, records in enumerate(rounds):
        kind = 3 if number == len(rounds) - 1 else 2
        out += section(kind, b"".join(pages.record(*each) for each in records))
    return out + DEVICES


def split(data: bytes, step: int = 777, size: int = SIZE) -> tuple[bytes, bytes]:
    """(memory, devices)."""
    with tempfile.TemporaryFile() as memory:
        pieces: Iterator[bytes] = (data[at : at + step] for at in range(0, len(data), step))
        devices = b"".join(stream.split(pieces, memory.fileno(), size, "ram"))
        memory.seek(0)
        return memory.read(), devices


record = st.one_of(
    st.tuples(st.just("ram"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("bios"), st.integers(0, 2), st.integers(0, 255)),
)
rounds_ = st.lists(st.lists(record, max_size=12), min_size=1, max_size=4)


@settings(max_examples=60)
@given(rounds=rounds_, step=st.integers(1, 9000))
def test_memory_goes_to_its_place_and_the_rest_stays(
    rounds: list[list[tuple[str, int, int]]], step: int
) -> None:
    memory, devices = split(whole(rounds), step)
    expected = bytearray(SIZE)
    kept = []
    for records in rounds:
        kept.append([each for each in records if each[0] == "bios"])
        for block, page, fill in records:
            if block == "ram":
                expected[page * PAGE : (page + 1) * PAGE] = bytes([fill]) * PAGE
    assert memory == bytes(expected)
    # Within a section a block's name is not repeated; a fresh section names it again.
    again_memory, again = split(devices)
    assert again == devices
    assert again_memory == bytes(SIZE)
    assert devices.endswith(DEVICES)
    for records in kept:
        for _, page, fill in records:
            assert not fill or bytes([fill]) * PAGE in devices, page


def test_untouched_memory_takes_no_space() -> None:
    with tempfile.TemporaryFile() as memory:
        data = whole([[("ram", 1, 7), ("ram", 5, 0)]])
        b"".join(stream.split([data], memory.fileno(), SIZE, "ram"))
        assert os.fstat(memory.fileno()).st_size == SIZE
        assert os.fstat(memory.fileno()).st_blocks * 512 <= 2 * PAGE


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    good = whole([[("ram", 1, 7), ("bios", 0, 9), ("ram", 2, 0)], [("ram", 1, 8)]])
    at = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        bad = good[:at]
    else:
        bad = good[:at] + data.draw(st.binary(min_size=1, max_size=40)) + good[at + 1 :]
    try:
        memory, _ = split(bad)
    except InvalidInput:
        return
    assert len(memory) == SIZE


@given(st.binary(max_size=400))
def test_rubbish(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        split(data)
    with pytest.raises(InvalidInput):
        split(head() + data)


def test_what_does_not_fit() -> None:
    with pytest.raises(InvalidInput, match="bytes, not"):
        split(whole([[]]), size=2 * SIZE)
    pages = Pages()
    for records in ([("ram", 8, 1)], [("bios", 3, 1)], [("none", 0, 1)]):
        body = b"".join(pages.record(*each) for each in records)
        with pytest.raises(InvalidInput, match="outside"):
            split(head() + section(1, sizes()) + section(3, body))
    with pytest.raises(InvalidInput, match="without a block"):
        split(head() + section(1, sizes()) + section(3, word(0x28) + bytes(PAGE)))
    for flags in (0x40, 0x80, 0x100, 0x18, 0x0A):
        with pytest.raises(InvalidInput, match="flags"):
            split(head() + section(1, sizes()) + section(3, word(flags) + bytes(PAGE)))


def test_devices_of_a_machine_that_stands_come_after_the_memory_it_came_from() -> None:
    other = whole([[("bios", 1, 7)], []])
    came_from = other[: -len(DEVICES)] if other.endswith(DEVICES) else other
    fresh = b"QEVM\0\0\0\3" + b"\x04fresh devices\0"
    made = b"".join(stream.with_devices([came_from + DEVICES], [fresh[:5], fresh[5:]], SIZE, "ram"))
    assert made == came_from + fresh[8:] + b"\x06\0\0\0\0"


@pytest.mark.parametrize("devices", [b"", b"QEVM", b"QEVM\0\0\0\2\x04", b"something else"])
def test_devices_that_are_none(devices: bytes) -> None:
    with pytest.raises(InvalidInput):
        list(stream.with_devices([whole([[]])], [devices], SIZE, "ram"))


def test_cards_are_counted_by_the_heads_of_their_sections() -> None:
    def device(text: str) -> bytes:
        return b"\x04" + struct.pack(">I", 9) + name(text) + bytes(4) + b"\0\0\0\x0bconfig"

    card = "0000:00:0{}.0:00.0/virtio-net"
    state = device(card.format(1)) + device("0000:00:02.0/virtio-blk") + device(card.format(2))
    assert stream.cards([DEVICES], 7) == 0
    assert stream.cards([state[:9], state[9:], b'{"name": "0000:00:03.0/virtio-net"}'], 7) == 2
    assert stream.cards([state], 1) == 1
