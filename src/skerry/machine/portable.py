"""A machine's snapshot as files that another engine can take in.

    disk.qcow2   what its container has written, whole: nothing lies below it
    memory.zst   its memory, compressed (RFC 8878); only of a machine that was kept with it
    devices      QEMU's stream of its devices, likewise

Memory and devices go on only in the same guest, under the same QEMU, on the same processor, above
the same image of the layers (the guest's kernel has parts of that in its caches): `MadeOf` says
which these were, and `refuse` compares. All of it comes from strangers: numbers are bounded, memory
never becomes longer than was said, qemu-img reads the disk behind a wall (`Disks.take_in`), and
what QEMU reads later it reads in its jail. Everything here blocks.
"""

import hashlib
import os
import re
import subprocess
from typing import Any, Final, NamedTuple

import zstandard

from skerry.base.errors import InvalidInput, LimitExceeded, Unavailable, Unsupported
from skerry.machine import qemu
from skerry.machine.shape import MIB, MOST_CPUS, MOST_MEMORY, Shape

MEMORY: Final = "memory.zst"
DEVICES: Final = "devices"
MOST_DEVICES: Final = 64 << 20

_WORD: Final = re.compile(r"[ -~]{0,200}")
_PIECE: Final = 1 << 20
_HOLE: Final = 64 << 10
_WINDOW: Final = 1 << 27
_LEVEL: Final = 1
_CLOCK: Final = 0.01
"""How far the rates of two hosts' counters may differ: a guest keeps the one that it booted with.
Measured twice on one host they differ by less than a thousandth."""


class MadeOf(NamedTuple):
    """What a saved machine needs to be the same. Empty words and 0 are not known."""

    kit: str
    """`Kit.contents`."""
    accel: str
    cpu: str
    tsc_khz: int
    memory: int
    """Bytes."""
    cpus: int
    qemu: str = ""
    """The version that has saved it."""
    layers: str = ""
    """SHA-256 of the disk with the layers below its own."""
    shares: int = 0
    """Volumes and binds, which are not in a snapshot."""
    more: int = 0
    """Bytes of memory that was plugged in, behind the other."""

    @property
    def shape(self) -> Shape:
        """Of the machine that can take it in."""
        return Shape(self.memory, self.cpus)


def made_of(kit: str, shape: Shape, accel: qemu.Accel) -> MadeOf:
    """A machine of this shape."""
    return MadeOf(kit, accel.name, accel.cpu, accel.tsc_khz, shape.memory, shape.cpus)


def parse(said: object) -> MadeOf:
    """What an archive says; InvalidInput for what no machine is made of."""
    if not isinstance(said, dict) or not said.keys() <= set(MadeOf._fields):
        raise InvalidInput("snapshot archive: it does not say what its machine is made of")
    try:
        found = MadeOf(**said)
    except TypeError:
        raise InvalidInput(
            "snapshot archive: it does not say all that its machine is made of"
        ) from None
    words = (found.kit, found.accel, found.cpu, found.qemu, found.layers)
    numbers = (found.tsc_khz, found.memory, found.cpus, found.shares, found.more)
    if not all(isinstance(each, str) and _WORD.fullmatch(each) for each in words) or not all(
        type(each) is int and each >= 0 for each in numbers
    ):
        raise InvalidInput("snapshot archive: its machine is made of what cannot be")
    in_range = 0 < found.memory <= MOST_MEMORY and 0 < found.cpus <= MOST_CPUS
    in_range = in_range and found.more <= MOST_MEMORY and found.more % MIB == 0
    if not in_range or found.memory % MIB or found.tsc_khz >= 1 << 32:
        raise InvalidInput(
            f"snapshot archive: a machine of {found.memory} bytes and {found.cpus} processors"
        )
    return found


def leave_out_shares(found: MadeOf) -> None:
    """Unsupported when the machine's programs know folders that do not travel with it."""
    if found.shares:
        raise Unsupported(
            "a machine with volumes or binds cannot be carried with its memory",
            hint="export a snapshot without it (--disk-only), and the volumes beside",
        )


def refuse(found: MadeOf, here: MadeOf) -> None:
    """Unsupported, with what differs, when memory of such a machine cannot go on here."""
    leave_out_shares(found)
    reasons = [
        f"{what} {one or 'not known'}, here is {other or 'none'}"
        for what, one, other in (
            ("guest kit", found.kit, here.kit),
            ("QEMU", found.qemu, here.qemu),
            ("accelerator", found.accel, here.accel),
            ("processor", found.cpu, here.cpu),
        )
        if one != other
    ]
    if abs(found.tsc_khz - here.tsc_khz) > here.tsc_khz * _CLOCK:
        reasons.append(f"clock of {found.tsc_khz} kHz, here are {here.tsc_khz}")
    if found.layers != here.layers:
        reasons.append("another image of its layers (by another mkfs.erofs)")
    if reasons:
        raise Unsupported(
            f"the machine in the archive cannot go on here: it has {'; '.join(reasons)}",
            hint="import it where it came from, or export a snapshot without memory (--disk-only)",
        )


def qemu_version() -> str:
    """Of the QEMU that is installed, as `query-version` says it."""
    try:
        said = subprocess.run(
            [qemu.BINARY, "--version"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot run QEMU: {error}") from None
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    return found[1] if found else ""


def told_version(said: Any) -> str:
    """The same out of the answer to `query-version`."""
    try:
        return "{major:d}.{minor:d}.{micro:d}".format(**said["qemu"])
    except (KeyError, TypeError, ValueError):
        return ""


def digest(path: str) -> str:
    """SHA-256 of a sparse file's data with their places."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        fd, size, at = file.fileno(), os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: holes up to the end.
            end = os.lseek(fd, start, os.SEEK_HOLE)
            # What of the zeros are holes is the file system's own affair, so pieces are even.
            at = start // _HOLE * _HOLE
            while at < end:
                data = os.pread(fd, _HOLE, at)
                if data.count(0) != len(data):
                    found.update(b"%d " % at)
                    found.update(data)
                at += _HOLE
    return found.hexdigest()


def compress(source: str, target: str) -> None:
    """A machine's memory for the way."""
    with open(source, "rb") as memory, open(target, "xb") as packed:
        zstandard.ZstdCompressor(level=_LEVEL).copy_stream(memory, packed)


def expand(source: str, target: str, size: int) -> None:
    """Memory of exactly `size` bytes as a sparse file; InvalidInput when it is not so long."""
    with open(source, "rb") as packed, open(target, "xb") as memory:
        fd, at = memory.fileno(), 0
        os.fchmod(fd, 0o600)
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(packed)
            while data := reader.read(_PIECE):
                if at + len(data) > size:
                    raise InvalidInput("snapshot archive: more memory than its machine has")
                for start in range(0, len(data), _HOLE):
                    piece = data[start : start + _HOLE]
                    if piece.count(0) != len(piece):
                        _write(fd, piece, at + start)
                at += len(data)
        except zstandard.ZstdError as error:
            raise InvalidInput(f"snapshot archive: its memory is damaged: {error}") from None
        if at != size:
            raise InvalidInput("snapshot archive: less memory than its machine has")
        os.ftruncate(fd, size)


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(fd, data, at)
        at, data = at + done, data[done:]


def take_devices(source: str, target: str) -> None:
    """The devices' stream; LimitExceeded when none is so long."""
    if os.path.getsize(source) > MOST_DEVICES:
        raise LimitExceeded("snapshot archive: more devices than a machine has")
    os.rename(source, target)
