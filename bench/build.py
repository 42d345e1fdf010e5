"""Building Dockerfiles: one docker command (its classic builder) against both engines, which is
what the promises are about; beside it buildah, and `skerry build` as a whole process."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.daemons import DOCKER, SKERRY, Daemon, MissingPiece, remove_folder, short_folder
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.world import World

OURS = "docker build, skerry"
PEER = "docker build, dockerd"
BUILDAH = "buildah build"
OWN = "skerry build"
RUNS = 30
STAGES = 12
FILES = 20_000
_SALT = itertools.count()


class Buildah:
    """A buildah with a storage of its own, which has busybox out of dockerd."""

    def __init__(self, world: World, home: Path) -> None:
        program = shutil.which("buildah")
        if program is None:
            raise MissingPiece("buildah is not installed")
        self._words = [program, "--root", str(home / "store"), "--runroot", str(home / "run")]
        archive = home / "busybox.tar"
        world.dockerd.docker("save", "-o", str(archive), "busybox")
        self.take(str(archive))

    def take(self, archive: str) -> None:
        """Load an image."""
        self._run("pull", "-q", f"docker-archive:{archive}")

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [*self._words, *words], capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise MissingPiece(f"buildah {words[0]}: {done.stderr.strip()[-300:]}")

    def build(self, folder: Path, *words: str) -> None:
        """Build a folder with its layers cached."""
        # Its chroot isolation, the only one that works in here, knows the host's network alone.
        more = ("--layers", "--isolation", "chroot", "--network", "host", "-q")
        self._run("build", *more, *words, "-t", "bench-build", str(folder))


def _docker(daemon: Callable[[], Daemon], folder: Path, *words: str) -> None:
    running = daemon()
    environment = running.environment() | {"DOCKER_BUILDKIT": "0"}
    line = [DOCKER, "-H", running.host, "build", "-q", "--network", "none", "-t", "bench-build"]
    spawn([*line, *words, str(folder)], environment)


def _compare(
    world: World,
    name: str,
    prepare: Callable[[Path], None],
    ratio: float,
    *,
    runs: int,
    change: Callable[[Path], tuple[str, ...]],
    warm: int = 1,
) -> Outcome:
    """One folder for each side; `change` is called before each build and gives further words."""
    home = short_folder("bb-")
    try:
        folders = {
            label: home / str(number) for number, label in enumerate((OURS, PEER, BUILDAH, OWN))
        }
        for folder in folders.values():
            folder.mkdir()
            prepare(folder)
        made: list[Buildah] = []

        def buildah() -> None:
            if not made:
                made.append(Buildah(world, home))
            made[0].build(folders[BUILDAH], *change(folders[BUILDAH]))

        def ours() -> None:
            _docker(lambda: world.skerry, folders[OURS], *change(folders[OURS]))

        def peer() -> None:
            _docker(lambda: world.dockerd, folders[PEER], *change(folders[PEER]))

        def own() -> None:
            words = ("build", "-q", "--network", "none", "-t", "bench-own")
            more = change(folders[OWN])
            line = [str(SKERRY), *words, *more, str(folders[OWN])]
            spawn(line, world.skerry.environment())

        return interleave(
            name,
            [Case(OURS, ours), Case(PEER, peer), Case(BUILDAH, buildah), Case(OWN, own)],
            [Target(OURS, PEER, ratio)],
            runs=runs,
            warm=warm,
        )
    finally:
        remove_folder(home)


def _write(folder: Path, lines: list[str]) -> None:
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def _steps(folder: Path) -> None:
    lines = ["FROM busybox", "ARG SALT=0"]
    lines += [f"RUN echo $SALT {number} > /file{number}" for number in range(RUNS)]
    _write(folder, lines)


def _salted(_folder: Path) -> tuple[str, ...]:
    return ("--build-arg", f"SALT={os.getpid()}.{next(_SALT)}")


def build_cached(world: World, runs: int) -> Outcome:
    """The same Dockerfile of 30 steps again and again."""
    return _compare(world, "build_cached", _steps, 0.3, runs=runs, change=lambda _: ())


def build_runs(world: World, runs: int) -> Outcome:
    """30 small RUN steps, none of them in the cache."""
    return _compare(world, "build_runs", _steps, 0.4, runs=max(3, runs // 5), change=_salted)


def _fan_out(folder: Path) -> None:
    lines = []
    for number in range(STAGES):
        lines += [
            f"FROM busybox AS part{number}",
            "ARG SALT=0",
            f"RUN echo $SALT {number} > /part && dd if=/dev/zero bs=1M count=24 2>/dev/null"
            " | sha256sum >> /part",
        ]
    lines.append("FROM busybox")
    lines += [f"COPY --from=part{number} /part /part{number}" for number in range(STAGES)]
    _write(folder, lines)


def build_fan_out(world: World, runs: int) -> Outcome:
    """12 stages that need nothing of one another, and one that takes from all."""
    return _compare(world, "build_fan_out", _fan_out, 0.6, runs=max(3, runs // 5), change=_salted)


def _many_files(folder: Path) -> None:
    for number in range(FILES):
        path = folder / f"d{number % 100}"
        path.mkdir(exist_ok=True)
        (path / f"f{number}").write_text(f"{number}\n" * (number % 97))
    _write(folder, ["FROM busybox", "COPY . /app", "CMD true"])


def _one_changed(folder: Path) -> tuple[str, ...]:
    (folder / "d7" / "f7").write_text(f"{os.getpid()} {next(_SALT)}\n")
    return ()


def build_context(world: World, runs: int) -> Outcome:
    """A context of 20,000 files of which one has changed since the last build."""
    return _compare(
        world, "build_context", _many_files, 0.5, runs=max(3, runs // 5), change=_one_changed
    )
