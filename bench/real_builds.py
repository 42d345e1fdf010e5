"""The builds of examples/builds, cold, with packages from their mirrors, by each builder.

Debian's dockerd and buildah know neither mounts with RUN nor here-documents: they get the same
steps in the words of the classic Dockerfile (`classic`).
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.build import BUILDAH, Buildah
from bench.daemons import DOCKER, REPOSITORY, SKERRY, remove_folder, short_folder
from bench.measure import Case, Outcome, interleave, spawn
from bench.world import World

EXAMPLES = REPOSITORY / "examples/builds"
NAMES = ("python", "c", "node", "nginx", "postgres", "redis", "fanout")
OURS = "skerry build"
PEER = "docker build, dockerd"
BASE = "debian:bookworm"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_MOUNT = re.compile(r"--mount=\S+\s+(?:\\\n\s*)?")
_SCRIPT = re.compile(r"^RUN <<END\n(.*?)\nEND$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^COPY <<END (\S+)\n(.*?\n)END$", re.MULTILINE | re.DOTALL)
_FLAGS = re.compile(r"--(?:checksum|chmod)=\S+\s+(?:\\\n\s*)?")


def classic(folder: Path) -> None:
    """Rewrite a folder's Dockerfile in the classic words; what it holds goes into files."""
    path = folder / "Dockerfile"
    text = _FLAGS.sub("", _MOUNT.sub("", path.read_text()))
    text = _SCRIPT.sub(lambda found: "RUN " + " && \\\n    ".join(found[1].split("\n")), text)
    for number, found in enumerate(_FILE.finditer(text)):
        (folder / f"document{number}").write_text(found[2])
        text = text.replace(found[0], f"COPY document{number} {found[1]}")
    path.write_text(text)


def real(name: str) -> Callable[[World, int], Outcome]:
    """The row of one example. It promises nothing: a mirror's pace is in it."""

    def row(world: World, runs: int) -> Outcome:
        home = short_folder("rb-")
        try:
            return _row(world, name, home, max(1, runs // 10))
        finally:
            remove_folder(home)

    row.__doc__ = f"examples/builds/{name}, cold."
    return row


def _row(world: World, name: str, home: Path, runs: int) -> Outcome:
    plain, own = home / "classic", EXAMPLES / name
    shutil.copytree(own, plain)
    classic(plain)
    made: list[Buildah] = []
    based: set[str] = set()

    def base() -> str:
        world.skerry.skerry("bootstrap", BASE, timeout=400)
        archive = str(home / "debian.tar")
        world.skerry.skerry("save", "-o", archive, BASE, timeout=120)
        return archive

    def ours() -> None:
        if OURS not in based:
            based.add(OURS)
            world.skerry.skerry("bootstrap", BASE, timeout=400)
        words = ["build", "-q", "--no-cache", "--network", "host", "-t", f"real-{name}"]
        if AUTHORITIES.exists():
            words += ["--secret", f"id=ca,src={AUTHORITIES}"]
        spawn([str(SKERRY), *words, str(own)], world.skerry.environment())

    def peer() -> None:
        running = world.dockerd
        if PEER not in based:
            based.add(PEER)
            running.docker("load", "-i", base(), timeout=120)
        words = ("build", "-q", "--no-cache", "--network", "host", "-t", f"real-{name}")
        environment = running.environment() | {"DOCKER_BUILDKIT": "0"}
        spawn([DOCKER, "-H", running.host, *words, str(plain)], environment)

    def buildah() -> None:
        if not made:
            made.append(Buildah(world, home))
            made[0].take(base())
        made[0].build(plain, "--no-cache")

    cases = [Case(OURS, ours), Case(PEER, peer), Case(BUILDAH, buildah)]
    return interleave(f"build_real_{name}", cases, [], runs=runs, warm=1)
