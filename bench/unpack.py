"""Loading an image whose one layer holds 100 MB of small files."""

import gzip
import io
import itertools
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from bench import images
from bench.daemons import DOCKER, Daemon
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.world import World

TOTAL = 100 * 1024 * 1024
FILES_PER_FOLDER = 40
_BLOCK = 512


def unpack(world: World, runs: int) -> Outcome:
    """`docker load` of the same archive into both engines, layers plain and gzipped.

    Each round loads a layer that the engine has not seen, and nothing is removed in between: ext4
    is slow at making files right after mass deletes.
    """
    layer = small_files()
    rounds = itertools.count()

    def archive(packed: bool) -> Path:
        salted = salt(layer, next(rounds))
        data = gzip.compress(salted, compresslevel=1) if packed else salted
        plain = [salted] if packed else None
        return images.docker_archive(world.home / "layer.tar", "bench-layer", [data], plain)

    def load(daemon: Callable[[], Daemon], packed: bool) -> Callable[[], float]:
        return lambda: _load(daemon(), archive(packed))

    cases = [
        Case(f"load {kind}, {name}", load(daemon, packed))
        for kind, packed in (("plain", False), ("gzip", True))
        for name, daemon in (
            ("skerry", lambda: world.skerry),
            ("dockerd", lambda: world.dockerd),
        )
    ]
    return interleave(
        "unpack",
        cases,
        [
            Target("load plain, skerry", "load plain, dockerd", 1.0),
            Target("load gzip, skerry", "load gzip, dockerd", 1.0),
        ],
        runs=max(2, min(runs, 5)),
        warm=1,
    )


def _load(daemon: Daemon, archive: Path) -> float:
    import time

    begin = time.perf_counter()
    spawn([DOCKER, "-H", daemon.host, "load", "-q", "-i", str(archive)], daemon.environment())
    return (time.perf_counter() - begin) * 1000


def small_files(total: int = TOTAL) -> bytes:
    """A tar of `total` bytes of files between 0.5 and 40 KB, without its end mark.

    The same bytes each time, about as compressible as program text.
    """
    chance = random.Random(20)
    words = [chance.randbytes(chance.randint(3, 9)).hex().encode() for _ in range(4000)]
    text = b" ".join(chance.choices(words, k=200_000))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        written = 0
        for number in itertools.count():
            folder = f"srv/{number // FILES_PER_FOLDER:04d}"
            if number % FILES_PER_FOLDER == 0:
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            size = min(int(chance.lognormvariate(9, 0.8)) + 512, 40_000)
            start = chance.randrange(len(text) - size)
            info = tarfile.TarInfo(f"{folder}/file{number:06d}")
            info.size = size
            tar.addfile(info, io.BytesIO(text[start : start + size]))
            written += size
            if written >= total:
                end = out.tell()
                break
    return out.getvalue()[:end]


def salt(layer: bytes, number: int) -> bytes:
    """The layer with one more file and an end mark, so that its digest is a new one."""
    content = f"round {number}".encode()
    info = tarfile.TarInfo("round")
    info.size = len(content)
    return layer + info.tobuf() + content.ljust(_BLOCK, b"\0") + bytes(2 * _BLOCK)
