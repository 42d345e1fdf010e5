"""Kernels as they are found, and the archive that goes with them."""

import io
import lzma
import struct
from pathlib import Path

import pytest
import zstandard
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


def named(release: bytes) -> bytes:
    """A bzImage whose header says its release, as `strings` would find it."""
    head = bytearray(bzimage(b""))
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300 : 0x300 + len(release)] = release
    return bytes(head)


def package(folder: Path, release: str, modules: dict[str, bytes]) -> Path:
    """A kernel with modules as a package brings them; the path of its image."""
    (folder / "boot").mkdir()
    image = folder / "boot" / "anything"
    image.write_bytes(named(f"{release} (builder) #1".encode()))
    place = folder / "lib/modules" / release / "kernel"
    place.mkdir(parents=True)
    for name, data in modules.items():
        (place / name).write_bytes(data)
    return image


def test_a_kernel_of_ones_own_has_the_modules_of_its_release(tmp_path: Path) -> None:
    needs = b"\x7fELF\0depends=first-one\0"
    first = b"\x7fELF\0depends=\0"
    image = package(
        tmp_path,
        "6.9.1-own",
        {"needs.ko": needs, "first_one.ko.xz": lzma.compress(first)},
    )
    found = linux.own(image).module_files(["needs", "built_in"])
    assert found == [("first_one.ko", first), ("needs.ko", needs)]
    compressed = zstandard.compress(needs)
    (tmp_path / "lib/modules/6.9.1-own/kernel/packed.ko.zst").write_bytes(compressed)
    assert linux.own(image).module_files(["packed"])[-1] == ("packed.ko", needs)
    (tmp_path / "lib/modules/6.9.1-own/kernel/packed.ko.zst").write_bytes(compressed[:-6])
    with pytest.raises(InvalidInput, match="damaged"):
        linux.own(image).module_files(["packed"])


def test_a_kernel_alone_has_its_drivers_built_in(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(b"\x7fELF and more")
    assert linux.own(image) == linux.Linux(image, None)
    assert linux.own(image).module_files(["ext4"]) == []


def test_what_is_no_kernel_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("root:x:0:0\n" * 100)
    for name, reason in (("text", "neither a bzImage nor ELF"), ("none", "No such file")):
        with pytest.raises(InvalidInput, match=reason):
            linux.own(tmp_path / name)


@given(st.binary(max_size=300))
def test_a_release_never_leaves_its_folder(said: bytes) -> None:
    assert "/" not in linux.release(named(said))


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


def signed(data: bytes, signature: bytes = b"s" * 300) -> bytes:
    """As scripts/sign-file.c leaves a module."""
    head = struct.pack(">8xI", len(signature))
    return data + signature + head + b"~Module signature appended~\n"


def test_a_bare_module_has_neither_a_signature_nor_btf_to_read() -> None:
    bare = linux.Module("a.ko", signed(b"\x7fELF code\0.BTF\0.text\0")).bare()
    assert bare == linux.Module("a.ko", b"\x7fELF code\0.btf\0.text\0")
    assert bare.bare() == bare


@given(st.binary(max_size=200))
def test_any_bytes_can_be_bared(data: bytes) -> None:
    assert linux.Module("a.ko", signed(data)).bare().data == data.replace(b"\0.BTF\0", b"\0.btf\0")
    marked = data + b"~Module signature appended~\n"
    assert len(linux.Module("a.ko", marked).bare().data) <= len(marked)
