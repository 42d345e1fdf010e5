"""What an engine leaves on the host, found from the outside: from /proc and the cgroup trees.

A process belongs to an engine when its command line, environment, working folder, mounts or open
files lie below the engine's folders. That holds for the engine, its spawner, keepers and the
programs in containers (their root is an overlay whose upper folder is there), whatever their
parent has become.
"""

import glob
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
_ENGINE_GROUP = re.compile(r"/skerry/([0-9a-f]{64})(/|$)")
_HOMES = ("/tmp/s?-*/root/containers/*", "/tmp/s?-*/containers/*", "/run/s?-*/containers/*",
          "/dev/shm/s?-*/containers/*")  # fmt: skip


FIRST = ("-p", "127.0.0.1::80")
"""Options for a first container, after which an engine has everything that it keeps."""


class Footprint(NamedTuple):
    """Everything that has to go when containers go; each entry reads as a line of a report."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]

    def beyond(self, earlier: "Footprint") -> list[str]:
        """What is here and was not in `earlier`, sorted."""
        return sorted(
            entry for now, then in zip(self, earlier, strict=True) for entry in now - then
        )


def take(folders: Iterable[Path], run_roots: Iterable[Path] = ()) -> Footprint:
    """The footprint of the engines that live in `folders`; `run_roots` are listed file by file."""
    inside = [str(folder).encode() for folder in folders]
    ours = {pid: name for pid in _pids() if (name := _belongs(pid, inside)) is not None}
    kept = {pid: name for pid, name in ours.items() if not _stands_by(pid)}
    return Footprint(
        mounts=frozenset(_mounts(inside)),
        cgroups=frozenset(_cgroups(set(ours), inside)),
        processes=frozenset(f"process {pid} {name}" for pid, name in kept.items()),
        files=frozenset(f"file {path}" for root in run_roots for path in _files(root)),
    )


def settle(
    earlier: Footprint,
    folders: Iterable[Path],
    run_roots: Iterable[Path] = (),
    seconds: float = 60,
) -> list[str]:
    """Wait until nothing is beyond `earlier`; what still is after `seconds` is returned."""
    folders, run_roots = list(folders), list(run_roots)
    deadline = time.monotonic() + seconds
    while True:
        left = take(folders, run_roots).beyond(earlier)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def processes(folders: Iterable[Path]) -> dict[int, str]:
    """Pid to command line of every process that belongs to the engines in `folders`."""
    inside = [str(folder).encode() for folder in folders]
    return {pid: name for pid in _pids() if (name := _belongs(pid, inside)) is not None}


def _pids() -> list[int]:
    # The host's init has the mounts of all in a namespace of its own, when we are in another.
    others = {1, os.getpid()}
    return [
        pid
        for entry in os.listdir("/proc")
        if entry.isdigit() and (pid := int(entry)) not in others
    ]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _belongs(pid: int, inside: list[bytes]) -> str | None:
    base = f"/proc/{pid}"
    command = _read(f"{base}/cmdline")
    if not command:
        return None  # a kernel thread or a zombie: a zombie is its parent's, not a leak
    name = command.replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    if any(folder in command for folder in inside):
        return name
    places = [_link(f"{base}/cwd"), *(_link(f"{base}/fd/{fd}") for fd in _list(f"{base}/fd"))]
    if any(place.startswith(folder) for place in places for folder in inside):
        return name
    # The host's own mount table also lists our mounts, so only a private namespace tells.
    if _link(f"{base}/ns/mnt") != _link("/proc/self/ns/mnt"):
        mounts = _read(f"{base}/mountinfo")
        if any(folder in mounts for folder in inside):
            return name
    return None


def _stands_by(pid: int) -> bool:
    """A part of a living spawner, which makes a fresh one after each request: a keeper to be, and
    its starter."""
    base = f"/proc/{pid}"
    if _read(f"{base}/comm") != b"skerry-standby\n":
        return False
    parent = re.search(rb"^PPid:\t(\d+)$", _read(f"{base}/status"), re.MULTILINE)
    if parent is None:
        return False
    above = int(parent[1])
    return _read(f"/proc/{above}/comm") == b"skerry-spawner\n" or _stands_by(above)


def _link(path: str) -> bytes:
    try:
        return os.readlink(path).encode()
    except OSError:
        return b""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _mounts(inside: list[bytes]) -> list[str]:
    lines = _read("/proc/self/mountinfo").splitlines()
    return [
        f"mount {line.split()[4].decode(errors='replace')}"
        for line in lines
        if any(folder in line for folder in inside)
    ]


def _cgroups(ours: set[int], inside: list[bytes]) -> list[str]:
    """Groups of engines' containers that are empty or hold one of our processes.

    Another engine's tests may run beside these, so a group is left out that holds somebody else's
    processes or is a container's of an engine elsewhere; an empty one of a container that has just
    been removed there is gone before `settle` gives up.
    """
    elsewhere = _containers_elsewhere(inside)
    found = []
    for folder, _, _ in os.walk(CGROUPS):
        match = _ENGINE_GROUP.search(folder)
        if match is None:
            continue
        pids = {int(pid) for pid in _read(f"{folder}/cgroup.procs").split()}
        if pids & ours or not (pids or match[1] in elsewhere):
            found.append(f"cgroup {folder}")
    return found


def _containers_elsewhere(inside: list[bytes]) -> set[str]:
    """Ids in the folders of engines that tests and benchmarks have started, but not in `inside`."""
    return {
        os.path.basename(found)
        for pattern in _HOMES
        for found in glob.glob(pattern)
        if not any(found.encode().startswith(folder) for folder in inside)
    }


def _files(root: Path) -> list[str]:
    return [
        os.path.join(folder, name)
        for folder, folders, files in os.walk(root)
        for name in [*folders, *files]
    ]
