"""Disk images: strangers' ones are examined and copied, our own made, grown and checked.

Every run of qemu-img is behind the wall of `confine`, as the machine's own user, and sees the files
that it was given and nothing else: a backing file or an extent that a hostile image names is not
there. Our own disks are qcow2 without exception, so a guest that writes a qcow2 header into its
disk changes nothing.
"""

import asyncio
import errno
import fcntl
import json
import os
import struct
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, LimitExceeded, NotFound, SystemFault
from skerry.machine import jail
from skerry.machine.full.confine import Bind, Confined
from skerry.machine.full.qemu import interpreter
from skerry.machine.full.spec import MAX_DISK

QEMU_IMG = "/usr/bin/qemu-img"
FORMATS = frozenset(("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc"))
EXPORTS = {"vmdk": "subformat=streamOptimized", "qcow2": "", "raw": "", "vdi": "", "vhdx": ""}
_CHECKED = frozenset(("qcow2", "vmdk", "vdi", "vhdx"))
_LEAKS = 3
"""Exit code of `qemu-img check`: clusters that nobody uses, which harm nobody."""
_CHECK_SECONDS = 600
_INFO_SECONDS = 30
_COPY_SECONDS = 6 * 3600
_ANSWER = 4 << 20
_MEMORY = 4 << 30
_WRITER = 101
_ROOM = 4 << 20
"""Bytes; what failed with less is taken for a full file system."""


class Image(NamedTuple):
    """What an image is: its format, the size that a guest sees, in bytes."""

    format: str
    size: int


def confined(
    words: Sequence[str], binds: list[Bind], root: str, seconds: int,
    *, uid: int = 0, walled: bool = True, most_file: int = 0,
) -> Confined:  # fmt: skip
    """The wall around one run of qemu-img, on the empty folder `root`: as the user `uid`, or as
    root without a capability. Its filter is QEMU's own (`jail`). Not `walled`: with limits only.
    `most_file` bounds what it writes, in bytes; 0 does not."""
    limits = {"as": _MEMORY, "cpu": seconds, "core": 0, "nofile": jail.FILES}
    if most_file:
        limits["fsize"] = most_file
    return {
        "argv": [QEMU_IMG, *words],
        "uid": uid,
        "walled": walled,
        "root": root,
        "binds": binds,
        "network": "none",
        "limits": limits,
        "seccomp": jail.seccomp_program().hex() if walled else "",
    }


def is_full(path: str) -> bool:
    """Whether the file system of a file to be made has hardly any room."""
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _ROOM


class Tools(NamedTuple):
    """As whom qemu-img runs. `uid` 0: as the caller, without a wall."""

    uid: int

    async def _run(
        self, words: list[str], binds: list[Bind], seconds: int, fine: Sequence[int] = ()
    ) -> bytes:
        with tempfile.TemporaryDirectory(prefix="skerry-img-") as root:
            wanted = confined(words, binds, root, seconds, uid=self.uid, walled=bool(self.uid))
            argv = interpreter("confine", json.dumps(wanted))
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, err = await asyncio.wait_for(process.communicate(), seconds)
            except TimeoutError:
                raise LimitExceeded(
                    f"qemu-img {words[0]} took longer than {seconds} seconds"
                ) from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode and process.returncode not in fine:
            said = err.decode("utf-8", "replace").strip().replace("\n", "; ")
            # Some formats' writers turn the reason into another one, others say it many times.
            if os.strerror(errno.ENOSPC) in said or any(
                is_full(bind.path) for bind in binds if bind.writable
            ):
                raise SystemFault(f"qemu-img {words[0]}: no space left on device")
            raise SystemFault(f"qemu-img {words[0]}: {said or process.returncode!r:.1000}")
        return out[:_ANSWER]

    async def examine(self, path: str, form: str = "") -> Image:
        """A stranger's image; InvalidInput when it is none or points outside itself."""
        given = ["-f", form] if form else []
        try:
            out = await self._run(
                ["info", "--output=json", *given, path], [Bind(path)], _INFO_SECONDS
            )
        except SystemFault as error:
            raise InvalidInput(f"{path} cannot be read as a disk image: {error.message}") from None
        return judge(out, path)

    async def copy_in(self, source: str, image: Image, target: str) -> None:
        """A stranger's image as a fresh qcow2 of ours. `target` is made here. InvalidInput when it
        is damaged: what is missing at its end would become zeros."""
        if image.format in _CHECKED:
            try:
                given = ["check", "-f", image.format, source]
                await self._run(given, [Bind(source)], _CHECK_SECONDS, fine=(_LEAKS,))
            except SystemFault as error:
                raise InvalidInput(
                    f"{source} is damaged, perhaps cut off: {error.message:.300}",
                    hint="fetch it again, or mend a copy: qemu-img check -r all IMAGE",
                ) from None
        _make(target, self.uid)
        words = ["convert", "-f", image.format, "-O", "qcow2", "-W", source, target]
        await self._run(words, [Bind(source), Bind(target, True)], _COPY_SECONDS)

    async def create(self, target: str, size: int) -> None:
        """An empty disk."""
        _make(target, self.uid)
        await self._run(
            ["create", "-q", "-f", "qcow2", target, str(size)], [Bind(target, True)], 60
        )

    async def overlay(self, target: str, chain: list[str]) -> None:
        """A disk that holds what differs from `chain`, ours, top-most first."""
        _make(target, self.uid)
        base = os.path.relpath(chain[0], os.path.dirname(target))
        words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, target]
        await self._run(words, [Bind(target, True), *map(Bind, chain)], 60)

    async def flatten(self, chain: list[str], target: str, form: str = "qcow2") -> None:
        """One file without a backing file that has all of `chain`, top-most first."""
        _make(target, self.uid)
        options = ["-o", EXPORTS[form]] if EXPORTS[form] else []
        words = ["convert", "-f", "qcow2", "-O", form, *options, chain[0], target]
        await self._run(words, [Bind(target, True), *map(Bind, chain)], _COPY_SECONDS)

    async def grow(self, chain: list[str], size: int) -> None:
        """Make the top-most larger."""
        words = ["resize", "-q", "-f", "qcow2", chain[0], str(size)]
        await self._run(words, [Bind(chain[0], True), *map(Bind, chain[1:])], 60)

    async def check(self, chain: list[str]) -> dict[str, Any]:
        """`qemu-img check` of the top-most; SystemFault when it is damaged."""
        words = ["check", "--output=json", "-f", "qcow2", chain[0]]
        out = await self._run(words, list(map(Bind, chain)), _CHECK_SECONDS)
        found: dict[str, Any] = json.loads(out)
        return found


def judge(out: bytes, path: str) -> Image:
    """What `qemu-img info --output=json` says, when such an image may be taken."""
    try:
        info = json.loads(out)
        form, size = info["format"], info["virtual-size"]
        special = info.get("format-specific", {}).get("data", {})
        if not (isinstance(size, int) and isinstance(form, str) and isinstance(special, dict)):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidInput(f"{path}: qemu-img's answer is not understood") from None
    if form not in FORMATS:
        raise InvalidInput(
            f"{path}: {form!r:.40} is not a format of disks that is taken",
            hint=f"convert it to one of {', '.join(sorted(FORMATS))}",
        )
    outside = ("backing-filename", "full-backing-filename")
    if any(info.get(key) for key in outside) or special.get("data-file"):
        raise InvalidInput(
            f"{path} refers to another file",
            hint="make it whole first: qemu-img convert -O qcow2 IMAGE WHOLE",
        )
    if info.get("encrypted"):
        raise InvalidInput(f"{path} is encrypted", hint="decrypt it first with qemu-img convert")
    extents = special.get("extents") or []
    if any(not isinstance(each, dict) or each.get("filename") != path for each in extents):
        raise InvalidInput(
            f"{path} is kept in several files",
            hint="make it one first: qemu-img convert -O qcow2 IMAGE WHOLE",
        )
    if not 0 < size <= MAX_DISK:
        raise LimitExceeded(f"{path}: a disk of {size} bytes, at most {MAX_DISK} are taken")
    return Image(form, size)


def _make(path: str, uid: int) -> None:
    """An empty file that only the machine's user can open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise SystemFault(f"cannot make {path}: {error.strerror}") from None
    try:
        if uid:
            os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


def freeze(path: str) -> None:
    """Nobody writes to this layer any more; other machines' disks may stand on it."""
    try:
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, 0o444)
    except OSError as error:
        raise SystemFault(f"cannot freeze {path}: {error.strerror}") from None


def check_unused(path: str) -> None:
    """Conflict when a program has the image open for writing and says so as QEMU does: by a lock
    on byte 101, `block/file-posix.c`. A copy made meanwhile would be no disk of any moment."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _WRITER, 1, 0)
    with open(path, "rb") as file:
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    if struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK:
        raise Conflict(
            f"{path} is in use: a machine that runs writes to it", hint="stop that one first"
        )


def readable(path: str, scratch: str, uid: int) -> str:
    """`path`, or a copy in `scratch` when the machine's user could not read the original.

    NotFound, InvalidInput, Conflict. The caller removes `scratch`.
    """
    import shutil
    import stat

    try:
        status = os.stat(path)
        kind = status.st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise InvalidInput(f"{path} is neither a file nor a disk")
        check_unused(path)
        if not uid or kind & 0o004:
            return path
        copy = os.path.join(scratch, "copy")
        shutil.copyfile(path, copy)
        os.chown(copy, uid, uid)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    return copy
