"""The container's files and processes, for whoever asks from the host.

Packing and unpacking happen in children of the agent, which goes on meanwhile. A child reports on a
pipe: nothing at the end, or an error as `wire.error_to_wire` has it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from skerry.base.errors import KernelFault, NotFound
from skerry.base.isolation import Overlay
from skerry.kernel import mounts
from skerry.kernel.descriptors import open_in_root
from skerry.runtime import wire
from skerry.store.extract import Extractor, Options
from skerry.store.pack import PackOptions, pack
from skerry.store.tar_reader import TarReader

ROOT = "/run/root"
UPPER = "/rw/upper"
_CHUNK = 256 * 1024
_MOST_ROWS = 512 * 1024
_SHORT = 64


class Work(NamedTuple):
    """A child that works, and where it reports."""

    pid: int
    report: int


def mount_root() -> None:
    """The container's root, for a machine in which it does not run."""
    os.makedirs(ROOT, exist_ok=True)
    mounts.mount_overlay(Overlay(("/layers",), UPPER, "/rw/work"), ROOT)


def unmount_root() -> None:
    """Let go of it."""
    with suppress(KernelFault):
        mounts.umount(ROOT, mounts.MNT_DETACH)


def _child(work: Callable[[], None], closing: int) -> Work:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(writing)
        return Work(pid, reading)
    try:
        os.close(closing)
        work()
    except BaseException as error:
        with suppress(OSError):
            os.write(writing, json.dumps(wire.error_to_wire(error)).encode()[:8000])
    finally:
        os._exit(0)


def pack_upper(contents: list[str] | None) -> tuple[int, Work]:
    """What the container has written, as a layer of an image (OCI's whiteouts), with what long
    files contain only at and below these paths (`PackOptions.contents`)."""
    wanted = None if contents is None else tuple(contents)
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        fd = os.open(UPPER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with open(writing, "wb") as pipe:
            options = PackOptions(whiteouts=True, top=True, prefix="./", contents=wanted)
            for piece in pack(fd, options):
                pipe.write(piece)

    made = _child(work, reading)
    os.close(writing)
    os.set_blocking(reading, False)
    return reading, made


def unpack(init: int, head: dict[str, Any]) -> tuple[int, Work]:
    """Take a plain tar into a folder of the container: of the running one whose init is `init`, or
    of the one that `mount_root` mounted."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        place = f"/proc/{init}/root" if init else ROOT
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = str(head["path"])
        try:
            target = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
        except KernelFault as fault:
            raise NotFound(f"Could not find the file {path} in the container: {fault}") from None
        owner = head.get("owner")
        options = Options(
            whiteouts=False,
            owners=owner is None,
            owner=tuple(owner) if owner else (0, 0),
            keep_kinds=bool(head.get("keep_kinds")),
        )
        with Extractor(target, TarReader(_chunks(reading), "archive"), options) as extractor:
            extractor.run()
        os.sync()

    made = _child(work, writing)
    os.close(reading)
    os.set_blocking(writing, False)
    return writing, made


def _chunks(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _CHUNK):
        yield data


def processes(pids: list[int]) -> list[list[str]]:
    """UID, PID, PPID, C, STIME, TTY, TIME, CMD of processes (proc_pid_stat(5)), as `ps -ef`."""
    ticks, rows = os.sysconf("SC_CLK_TCK"), []
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for pid in sorted(pids)[:4096]:
        try:
            with open(f"/proc/{pid}/stat") as file:
                comm, _, rest = file.read().partition("(")[2].rpartition(")")
            with open(f"/proc/{pid}/cmdline", "rb") as raw:
                command = raw.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
            uid = os.stat(f"/proc/{pid}").st_uid
        except (OSError, ValueError):
            continue
        fields = rest.split()
        seconds = (int(fields[11]) + int(fields[12])) // ticks
        started = time.localtime(boot + int(fields[19]) / ticks)
        spent = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        tty = f"pts/{int(fields[4]) & 0xFF}" if int(fields[4]) else "?"
        row = [str(uid), str(pid), fields[1], "0", time.strftime("%H:%M", started), tty, spent]
        rows.append([*row, command or f"[{comm}]"])
    return rows


def pack_rows(rows: list[list[str]]) -> bytes:
    """Rows of `processes` as JSON; long commands are cut when there is too much of them."""
    data = json.dumps(rows).encode()
    if len(data) > _MOST_ROWS:
        data = json.dumps([[*row[:-1], row[-1][:_SHORT]] for row in rows]).encode()
    return data
