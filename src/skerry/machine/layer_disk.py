"""A chain of layers as one file system in a file, for a machine to read: erofs, or else ext4.

Runs as a process of its own, in a mount namespace of its own where the chain is mounted. The same
layers give the same bytes of erofs, wherever and whenever. What Debian's mkfs.erofs (1.5) cannot
hold becomes an ext4: a name of 255 bytes, a path beyond PATH_MAX, and many holes, which it would
write out as zeros. ext4 by mke2fs keeps whole seconds of times, until 2038.
"""

import json
import os
import stat
import struct
import subprocess
import sys

from skerry.base.errors import SystemFault
from skerry.base.isolation import Overlay
from skerry.base.light import NamedTuple
from skerry.kernel import mounts, namespaces
from skerry.machine.qemu import SLOT_SIZE

_MOST_HOLES, _LONGEST = 256 << 20, 254
"""A longer name mkfs.erofs 1.5 cuts off, and takes the file of that name if there is one."""
_UUID = "00000000-0000-0000-0000-000000000000"
_SUPERBLOCK, _CHECKSUM_AT, _COMPAT_AT, _TIME_AT = 1024, 4, 8, 24
_COMPAT_CHECKSUM = 1
_BLOCK = 512
_EXT4 = "^has_journal,^resize_inode,^orphan_file,ea_inode"


class Survey(NamedTuple):
    """A tree's entries, bytes of its files that are holes, bytes of its longest name."""

    entries: int
    holes: int
    longest: int


def main() -> None:
    """Argument: JSON of the file, an empty folder to mount at, and the layers' folders, top-most
    first. What went wrong is on stderr."""
    target, place, lower = json.loads(sys.argv[1])
    namespaces.unshare(namespaces.FLAGS["mount"])
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    if len(lower) == 1:
        mounts.mount(lower[0], place, flags=mounts.MS_BIND)
    else:
        mounts.mount_overlay(Overlay(tuple(lower)), place)
    try:
        make(target, place)
    except (SystemFault, OSError) as error:
        sys.exit(str(error))


def make(target: str, tree: str) -> None:
    """Make the file of a tree; SystemFault with what the programs said."""
    found = survey(tree)
    refused = ""
    if found.holes <= _MOST_HOLES and found.longest <= _LONGEST:
        try:
            _run("mkfs.erofs", "--quiet", "-x1", "-U", _UUID, target, tree)
            settle(target)
            return
        except SystemFault as fault:
            refused = f"{fault}; "
    try:
        _make_ext4(target, tree, found.entries)
    except SystemFault as fault:
        raise SystemFault(f"{refused}{fault}") from None


def survey(tree: str) -> Survey:
    """What decides how a tree is kept."""
    entries = holes = longest = 0
    for _, folders, files, fd in os.fwalk(os.fsencode(tree)):
        entries += len(folders) + len(files)
        longest = max(longest, *map(len, folders), *map(len, files), 0)
        for name in files:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                holes += max(status.st_size - status.st_blocks * _BLOCK, 0)
    return Survey(entries, holes, longest)


def settle(target: str) -> None:
    """Take out of an erofs when it was made (erofs_fs.h, struct erofs_super_block), which its
    checksum covers; $SOURCE_DATE_EPOCH would change the times of files."""
    with open(target, "r+b", buffering=0) as file:
        head = bytearray(os.pread(file.fileno(), 64, _SUPERBLOCK))
        (compat,) = struct.unpack_from("<I", head, _COMPAT_AT)
        struct.pack_into("<I", head, _COMPAT_AT, compat & ~_COMPAT_CHECKSUM)
        struct.pack_into("<I", head, _CHECKSUM_AT, 0)
        struct.pack_into("<QI", head, _TIME_AT, 0, 0)
        os.pwrite(file.fileno(), head, _SUPERBLOCK)


def _make_ext4(target: str, tree: str, entries: int) -> None:
    try:
        with open(target, "wb") as file:
            file.truncate(SLOT_SIZE)
    except OSError as error:
        raise SystemFault(f"{target}: {error.strerror}") from None
    hash_seed = f"root_owner=0:0,hash_seed={_UUID},lazy_itable_init=1,nodiscard"
    _run(
        "mkfs.ext4", "-q", "-F", "-m", "0", "-O", _EXT4, "-U", _UUID, "-E", hash_seed,
        "-N", str(entries + 1024), "-d", tree, target,
    )  # fmt: skip
    if not os.path.lexists(f"{tree}/lost+found"):
        _run("debugfs", "-w", "-R", "rmdir lost+found", target)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise SystemFault(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise SystemFault(f"{command[0]} failed: {said[-500:] or done.returncode}")
