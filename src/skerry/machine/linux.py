"""The guest's kernel: Debian's cloud kernel, fetched by apt without privileges, or the user's own.

The package is unpacked into a folder of ours and never installed: the host's /boot, its boot loader
and its list of packages stay as they are. apt checks the package against the archive's signature.
"""

import ctypes
import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import zstandard

from skerry.base.errors import InvalidInput, SystemFault, Unavailable

PACKAGE = "linux-image-cloud-amd64"
_PATIENCE = 600.0
# Documentation/arch/x86/boot.rst
_SETUP_SECTS, _MAGIC_AT, _VERSION_AT, _PAYLOAD_AT = 0x1F1, 0x202, 0x20E, 0x248
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
_ELF = b"\x7fELF"
_MOST_KERNEL = 256 << 20
# scripts/sign-file.c, linux/module_signature.h
_SIGNED, _SIGNED_LENGTH, _SIGNATURE_HEAD = b"~Module signature appended~\n", struct.Struct(">I"), 12
_SETUP_MOST = 64 * 512
"""All of a bzImage's setup sectors."""


class Linux(NamedTuple):
    """An unpacked kernel."""

    image: Path
    """A bzImage, or an ELF vmlinux."""
    modules: Path | None
    """`lib/modules/<release>`; None when all drivers are built in."""

    def module_files(self, names: Iterable[str]) -> list["Module"]:
        """The modules with those they depend on, in the order in which they load; built-in ones
        are left out."""
        every = {
            path.name.partition(".ko")[0].replace("-", "_"): path
            for path in (self.modules.rglob("*.ko*") if self.modules else ())
        }
        ordered: dict[str, Module] = {}

        def add(name: str) -> None:
            name = name.replace("-", "_")
            path = every.get(name)
            if path is None or name in ordered:
                return
            module = Module(f"{name}.ko", _module_data(path))
            found = re.search(rb"\0depends=([^\0]*)\0", module.data)
            for needed in found[1].decode().split(",") if found else ():
                add(needed)
            ordered[name] = module

        for name in names:
            add(name)
        return list(ordered.values())


class Module(NamedTuple):
    """A module's file name and its contents, unpacked."""

    name: str
    data: bytes

    def bare(self) -> "Module":
        """Without its signature and with its BTF under a name that nobody asks for: to check the
        one and to read the other (and the kernel's own, which comes first) takes an emulated
        processor longer than all the rest of loading. A kernel that insists on signatures refuses
        it."""
        data = self.data
        end = len(data) - len(_SIGNED)
        if end >= _SIGNATURE_HEAD and data.endswith(_SIGNED):
            (length,) = _SIGNED_LENGTH.unpack_from(data, end - _SIGNED_LENGTH.size)
            data = data[: max(end - _SIGNATURE_HEAD - length, 0)]
        return Module(self.name, data.replace(b"\0.BTF\0", b"\0.btf\0"))


def _module_data(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".zst":
            frame = zstandard.ZstdDecompressor().decompressobj()
            data = frame.decompress(data)
            if not frame.eof:
                raise InvalidInput(f"{path} is damaged: it is cut short")
    except (lzma.LZMAError, zstandard.ZstdError) as error:
        raise InvalidInput(f"{path} is damaged: {error}") from None
    return data


def own(path: Path) -> Linux:
    """The user's own kernel, with the modules of its release that lie where packages put them:
    `../lib/modules/<release>`, or the folder it is in itself. Without any, its drivers are built
    in. InvalidInput when it is no kernel or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_SETUP_MOST)
    except OSError as error:
        raise InvalidInput(f"kernel {path}: {error.strerror}") from None
    if not head.startswith(_ELF) and not _is_bzimage(head):
        raise InvalidInput(f"kernel {path} is not a Linux kernel: neither a bzImage nor ELF")
    name = release(head) or path.name.partition("-")[2]
    folder, above = path.parent, path.parent.parent
    for place in (above / "lib/modules" / name, above / "usr/lib/modules" / name, folder):
        if name and (place / "kernel").is_dir():
            return Linux(path, place)
    return Linux(path, None)


def release(head: bytes) -> str:
    """The release that a bzImage's header names, as `uname -r` will say it; empty for none."""
    if not _is_bzimage(head):
        return ""
    (at,) = struct.unpack_from("<H", head, _VERSION_AT)
    words = head[at + 512 : at + 512 + 256].partition(b"\0")[0].split() if at else []
    found = words[0].decode("ascii", "replace") if words else ""
    return found if re.fullmatch(r"[A-Za-z0-9._+~-]+", found) else ""


def _is_bzimage(data: bytes) -> bool:
    return len(data) >= 0x260 and data[_MAGIC_AT : _MAGIC_AT + 4] == b"HdrS"


def unpacked(folder: Path) -> Linux:
    """The kernel of an unpacked package; NotFound-like InvalidInput when there is none."""
    images = sorted(folder.glob("boot/vmlinuz-*"))
    modules = sorted([*folder.glob("lib/modules/*"), *folder.glob("usr/lib/modules/*")])
    if not images or not modules:
        raise InvalidInput(f"no kernel in {folder}")
    return Linux(images[-1], modules[-1])


def fetch(folder: Path) -> Linux:
    """Download and unpack the distribution's kernel below `folder`, unless it is there.

    Unavailable when apt cannot get it. Blocks for the time of a download (some 60 MB).
    """
    here = sorted(folder.glob("linux-image-*"))
    if here:
        return unpacked(here[-1])
    package = _versioned_package()
    target, fresh = folder / package, folder / f".{package}.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _run("apt-get", "-q", "download", package, cwd=fresh)
        (archive,) = fresh.glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), str(fresh))
        archive.unlink()
        if not target.is_dir():
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return unpacked(target)


def _versioned_package() -> str:
    asked = _run("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-[0-9][^\s]*)", asked)
    if not found:
        raise Unavailable(
            f"apt knows no package {PACKAGE}",
            hint="run `apt-get update`, or give a kernel with --kernel",
        )
    return found[1]


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot run {command[0]}: {error}") from None
    if done.returncode:
        raise Unavailable(
            f"{command[0]} failed: {done.stderr.strip()[-500:]}",
            hint="the guest's kernel comes from the distribution's packages",
        )
    return done.stdout


def elf_image(data: bytes) -> bytes:
    """The vmlinux within a bzImage, which boots without the decompressor; `data` itself when it is
    ELF already or packed in another way than LZ4.

    InvalidInput when it is no kernel at all.
    """
    if data.startswith(_ELF):
        return data
    if not _is_bzimage(data):
        raise InvalidInput("not a Linux kernel: neither a bzImage nor ELF")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = (max(data[_SETUP_SECTS], 1) + 1 if data[_SETUP_SECTS] else 5) * 512 + offset
    # The last four bytes are the size of the contents, for the decompressor in the kernel.
    payload = data[start : start + length - 4]
    if not payload.startswith(_LZ4_LEGACY):
        return data
    image = _unpack_lz4(payload[4:])
    return image if image.startswith(_ELF) else data


def _unpack_lz4(payload: bytes) -> bytes:
    """LZ4's legacy frame: blocks of 8 MiB, each with its length in front."""
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        return b""
    out = ctypes.create_string_buffer(_LZ4_BLOCK)
    parts: list[bytes] = []
    at = 0
    while at + 4 <= len(payload) and len(parts) * _LZ4_BLOCK < _MOST_KERNEL:
        (size,) = struct.unpack_from("<I", payload, at)
        block = payload[at + 4 : at + 4 + size]
        at += 4 + size
        if not size or len(block) != size:
            break
        made = library.LZ4_decompress_safe(block, out, size, _LZ4_BLOCK)
        if made < 0:
            raise SystemFault("the kernel's LZ4 payload is damaged")
        parts.append(out.raw[:made])
    return b"".join(parts)
