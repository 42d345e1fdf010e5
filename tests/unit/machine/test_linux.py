"""Kernels as they are found, and the archive that goes with them."""

import io
import struct

from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SystemFault
from skerry.machine import linux
from skerry.machine.cpio import Archive


def bzimage(payload: bytes) -> bytes:
    """The least that looks like one: a setup sector, a header, a payload with its size behind."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 0, len(payload) + 4)
    return bytes(head) + payload + struct.pack("<I", 0)


def test_an_elf_image_is_taken_as_it_is() -> None:
    assert linux.elf_image(b"\x7fELF and more") == b"\x7fELF and more"


def test_the_image_within_is_taken_out() -> None:
    # LZ4 by hand: a token of 10 literals, no match.
    block = b"\xa0" + b"\x7fELF123456"
    payload = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block
    assert linux.elf_image(bzimage(payload)) == b"\x7fELF123456"


def test_another_packing_boots_as_it_is() -> None:
    image = bzimage(b"\x1f\x8b something gzipped")
    assert linux.elf_image(image) == image


@given(st.binary(max_size=3000))
def test_any_bytes_are_a_kernel_or_refused(data: bytes) -> None:
    for image in (data, bzimage(b"\x02\x21\x4c\x18" + data)):
        try:
            linux.elf_image(image)
        except (InvalidInput, SystemFault):
            continue


def test_an_archive_names_each_path_once() -> None:
    buffer = io.BytesIO()
    archive = Archive(buffer)
    archive.data("a/b/file", b"content", 0o755)
    archive.data("a/b/file", b"again")
    archive.link("a/link", "b/file")
    archive.close()
    data = buffer.getvalue()
    assert data.count(b"070701") == 5  # a, a/b, the file, the link, the end
    assert b"content" in data
    assert b"again" not in data
    assert len(data) % 4 == 0
