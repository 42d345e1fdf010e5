"""Disks of containers' machines: the layers as one file system, the writable layer as a qcow2.

    <root>/machines/layers/<key>.erofs    a chain of layers (see `layer_disk`), shared, read-only
    <root>/machines/blank.raw             an empty ext4, sparse
    <root>/machines/blank.qcow2           an empty overlay over it; copied for each container
    <root>/machines/rehearsal.erofs       a shell, for `rehearsal`

The key is over the layers' folders in their order. A chain is one file system because a machine has
few slots for disks and images have many layers; what two images share is on disk twice.
All of it blocks: callers use a thread. Files appear by rename only.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from skerry.base.errors import InvalidInput, SystemFault, Unavailable
from skerry.base.isolation import WHOLE, Overlay
from skerry.machine import lean, orderly
from skerry.machine.full.confine import Bind
from skerry.machine.full.disks import confined, judge
from skerry.machine.full.qemu import interpreter
from skerry.machine.kit import shared_libraries
from skerry.machine.qemu import SLOT_SIZE
from skerry.machine.rehearsal import FILES, PROGRAM
from skerry.machine.template import Rehearsal

_PATIENCE = 1800.0
_CHECK_SECONDS = 600
_HINTS = {
    "mkfs.erofs": "install erofs-utils",
    "mkfs.ext4": "install e2fsprogs",
    "qemu-img": "install qemu-utils",
}
_GROWTH, _SLACK = 2, 64 << 20
_HALF_MADE = ".make-"
_CHECKED = (0, 2, 3)
"""Exit codes of `qemu-img check` that has read all of the disk."""


class Disks:
    """The disks below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layers = folder / "layers"
        for half in folder.glob(f"{_HALF_MADE}*"):  # Of an engine that was killed.
            shutil.rmtree(half, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """Where they all are."""
        return self._folder

    @property
    def blank(self) -> Path:
        """The empty file system."""
        return self._folder / "blank.raw"

    def prepare(self) -> None:
        """Make the folder and the blank disks, unless they are there."""
        self._layers.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty = self._folder / "blank.qcow2"
        if empty.exists():
            return
        with self._locked():
            if empty.exists():
                return
            fresh = self._folder / ".blank.new"
            with open(fresh, "wb") as file:
                file.truncate(SLOT_SIZE)
            options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
            with tempfile.TemporaryDirectory(prefix=_HALF_MADE, dir=self._folder) as tree:
                # What every guest would have to make at its start.
                for path in (f"{tree}/upper", f"{tree}/work"):
                    os.mkdir(path)
                    os.chmod(path, 0o755)
                # Many programs ask for it to know whether they are in a container.
                os.close(os.open(f"{tree}/upper/.dockerenv", os.O_CREAT | os.O_WRONLY, 0o755))
                _run(
                    "mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=32", "-E", options,
                    "-d", tree, str(fresh),
                )  # fmt: skip
            fresh.rename(self.blank)
            fresh = self._folder / ".qcow2.new"
            _run(
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.blank),
                str(fresh),
            )  # fmt: skip
            fresh.rename(empty)

    def writable(self, path: Path) -> None:
        """The writable disk at `path`, made if it is not there, checked if it was left open."""
        if path.exists():
            repair(path)
            return
        fresh = path.with_name(f".{path.name}.new")
        shutil.copyfile(self._folder / "blank.qcow2", fresh)
        fresh.chmod(0o600)
        fresh.rename(path)

    def layers(self, overlay: Overlay) -> Path:
        """The erofs of a chain of layers, made now if it is not there."""
        path = self._layers / f"{key_of(overlay)}.erofs"
        if path.exists():
            return path
        with self._locked(path.name):
            if not path.exists():
                self._make(overlay, path)
        return path

    def _make(self, overlay: Overlay, path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=_HALF_MADE, dir=self._folder) as scratch:
            fresh, place = f"{scratch}/image", f"{scratch}/root"
            os.mkdir(place)
            wanted = json.dumps([fresh, place, overlay.lower])
            _run(*lean.command("layer_disk", wanted), needs="mkfs.erofs")
            if os.path.getsize(fresh) > SLOT_SIZE:
                raise SystemFault(f"an image of more than {SLOT_SIZE >> 30} GiB")
            os.truncate(fresh, SLOT_SIZE)
            os.rename(fresh, path)

    def rehearsal(self) -> Path:
        """An erofs with a shell and what it is linked with, for `rehearsal`."""
        path = self._folder / "rehearsal.erofs"
        if path.exists():
            return path
        with self._locked(path.name):
            if path.exists():
                return path
            with tempfile.TemporaryDirectory(prefix=_HALF_MADE, dir=self._folder) as tree:
                os.chmod(tree, 0o755)
                for source in (PROGRAM, *shared_libraries([PROGRAM])):
                    copy = Path(f"{tree}{source}")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, copy)
                os.mkdir(f"{tree}/etc")
                for name in FILES:
                    Path(tree, "etc", name).touch()
                self._make(Overlay((tree,)), path)
        return path

    def practice(self, plan: bytes) -> Rehearsal:
        """A rehearsal on the disks for it."""
        self.prepare()
        empty = self._folder / "blank.qcow2"
        return Rehearsal(plan.hex(), str(self.rehearsal()), str(self.blank), str(empty))

    def floor(self, chain: Sequence[Path]) -> str:
        """What lies below these frozen disks: the blank one, or nothing (empty) when the last of
        them came from elsewhere and stands on nothing."""
        whole = bool(chain) and chain[-1].with_name(WHOLE).exists()
        return "" if whole else str(self.blank)

    def flatten(self, chain: Sequence[Path], target: Path) -> None:
        """Frozen disks, top-most first, as one that stands on nothing."""
        source: dict[str, object] | None = None
        binds = [Bind(str(each)) for each in chain]
        if floor := self.floor(chain):
            source = {"driver": "raw", "file": _as_file(Path(floor))}
            binds.append(Bind(floor))
        for each in reversed(chain):
            source = {"driver": "qcow2", "backing": source, "file": _as_file(each)}
        target.touch(0o600, exist_ok=False)
        words = ("convert", "-O", "qcow2", f"json:{json.dumps(source)}", str(target))
        _qemu_img(words, [*binds, Bind(str(target), True)], seconds=int(_PATIENCE))

    def take_in(self, source: Path, target: Path) -> None:
        """A stranger's disk as one of ours that stands on nothing; InvalidInput when it is none, or
        refers to anything beside itself."""
        try:
            out = _qemu_img(
                ("info", "--output=json", "-f", "qcow2", str(source)), [Bind(str(source))]
            )
        except SystemFault as fault:
            raise InvalidInput(f"snapshot archive: its disk cannot be read: {fault}") from None
        found = judge(out, "the disk in the snapshot archive")
        if found.size != SLOT_SIZE:
            raise InvalidInput(f"snapshot archive: a disk of {found.size} bytes")
        target.touch(0o600, exist_ok=False)
        words = ("convert", "-f", "qcow2", "-O", "qcow2", str(source), str(target))
        # One cluster that is named a million times must not become as many.
        most = _GROWTH * source.stat().st_size + _SLACK
        try:
            _qemu_img(words, [Bind(str(source)), Bind(str(target), True)], most_file=most)
        except SystemFault as fault:
            raise InvalidInput(f"snapshot archive: its disk is damaged: {fault}") from None
        target.with_name(WHOLE).touch(0o600)

    def _locked(self, name: str = "blank") -> "_Lock":
        return _Lock(self._folder / f".{name}.lock")

    def unused(self, chains: list[Overlay]) -> list[Path]:
        """The layers' disks of other chains."""
        wanted = set()
        for chain in chains:
            with suppress(OSError):  # Its layers are going as well.
                wanted.add(f"{key_of(chain)}.erofs")
        return [path for path in self._layers.glob("*.erofs") if path.name not in wanted]


class _Lock:
    """An exclusive lock on a file, for a `with` block; the file goes with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> None:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fd = fd
                return
            os.close(fd)

    def __exit__(self, *exc: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def key_of(overlay: Overlay) -> str:
    """The name of a chain: by its folders, and when each of them was made."""
    digest = hashlib.sha256(b"3\n")
    for path in overlay.lower:
        status = os.stat(path)
        digest.update(f"{path} {status.st_ino} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:40]


def repair(disk: Path) -> None:
    """Give back the clusters of a disk that belong to nobody, when QEMU did not close it; blocks.

    Data is never repaired: ext4's journal knows better. A hostile hypervisor may have written the
    disk's tables, so qemu-img runs behind a wall, without a capability, and sees this file only.
    """
    if not orderly.is_marked(str(disk)):
        return
    image = json.dumps({"driver": "qcow2", "backing": None, "file": _as_file(disk)})
    words = ("check", "-q", "-r", "leaks", f"json:{image}")
    with suppress(SystemFault):
        _qemu_img(words, [Bind(str(disk), True)], fine=_CHECKED)
        orderly.clear(str(disk))


def _as_file(disk: Path) -> dict[str, object]:
    return {"driver": "file", "filename": str(disk), "locking": "off"}


def _qemu_img(
    words: Sequence[str],
    binds: list[Bind],
    *,
    seconds: int = _CHECK_SECONDS,
    fine: tuple[int, ...] = (0,),
    most_file: int = 0,
) -> bytes:
    """Run qemu-img behind a wall, without a capability, with these files only; what it says.
    SystemFault when it ends with a code that is not `fine`."""
    with tempfile.TemporaryDirectory(prefix="skerry-img-") as root:
        wanted = confined(words, binds, root, seconds, most_file=most_file)
        try:
            done = subprocess.run(
                interpreter("confine", json.dumps(wanted)), stdin=subprocess.DEVNULL,
                capture_output=True, timeout=seconds, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"cannot run qemu-img {words[0]}: {error}") from None
    if done.returncode not in fine:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise SystemFault(f"qemu-img {words[0]}: {said or done.returncode!r:.500}")
    return done.stdout


def _run(*command: str, needs: str = "") -> None:
    name = needs or command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot run {name}: {error}", hint=_HINTS.get(name, "")) from None
    if done.returncode:
        raise SystemFault(f"{name} failed: {done.stderr.strip()[-500:]}", hint=_HINTS.get(name, ""))
