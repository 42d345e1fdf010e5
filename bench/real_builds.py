"""The builds of examples/builds, cold, with packages from their mirrors, by each builder.

Debian's dockerd and buildah know neither mounts with RUN nor here-documents: all sides get one
folder with the same steps in the words of the classic Dockerfile (`classic`), so that none keeps a
download from one build to the next. The bases are there before the first round. Ours goes first:
what a cold mirror costs is ours to pay.
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
_AUTHORITIES = "authorities.pem"
_SECRET = re.compile(
    r"^RUN (?=(?:--mount=\S+\s+\\\n\s*)*--mount=type=secret,id=ca,target=(\S+))", re.M
)
_MOUNT = re.compile(r"--mount=\S+\s+(?:\\\n\s*)?")
_SCRIPT = re.compile(r"^RUN <<END\n(.*?)\nEND$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^COPY <<END (\S+)\n(.*?\n)END$", re.MULTILINE | re.DOTALL)
_FLAGS = re.compile(r"--(?:checksum|chmod)=\S+\s+(?:\\\n\s*)?")


def classic(folder: Path) -> None:
    """Rewrite a folder's Dockerfile in the classic words; what it holds goes into files, and so
    do the authorities that this machine trusts."""
    path = folder / "Dockerfile"
    known = AUTHORITIES.read_bytes() if AUTHORITIES.exists() else b""
    (folder / _AUTHORITIES).write_bytes(known)
    text = _SECRET.sub(rf"COPY {_AUTHORITIES} \1\nRUN ", path.read_text())
    text = _FLAGS.sub("", _MOUNT.sub("", text))
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
    folder = home / "classic"
    shutil.copytree(EXAMPLES / name, folder)
    classic(folder)
    peer, third = world.dockerd, Buildah(world, home)
    if BASE in (folder / "Dockerfile").read_text():
        archive = str(home / "debian.tar")
        world.skerry.skerry("bootstrap", BASE, timeout=400)
        world.skerry.skerry("save", "-o", archive, BASE, timeout=120)
        peer.docker("load", "-i", archive, timeout=120)
        third.take(archive)
    words = ("build", "-q", "--no-cache", "--network", "host", "-t", f"real-{name}", str(folder))

    def ours() -> None:
        spawn([str(SKERRY), *words], world.skerry.environment())

    def docker() -> None:
        environment = peer.environment() | {"DOCKER_BUILDKIT": "0"}
        spawn([DOCKER, "-H", peer.host, *words], environment)

    def buildah() -> None:
        third.build(folder, "--no-cache")

    cases = [Case(OURS, ours), Case(PEER, docker), Case(BUILDAH, buildah)]
    return interleave(f"build_real_{name}", cases, [], runs=runs, warm=0)
