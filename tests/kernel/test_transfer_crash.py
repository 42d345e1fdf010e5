"""The engine killed with `kill -9` during pulls and pushes: nothing is lost, nothing stays."""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator

import pytest
from bench.daemons import DOCKER, Skerry
from bench.transfer import DebianRegistry, Layer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("docker-registry") is None, reason="needs the Debian package docker-registry"
    ),
]

ROUNDS = 5
SEED = int(os.environ.get("SKERRY_TEST_SEED", "0")) or random.randrange(1, 10**6)


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


def layer(number: int) -> Layer:
    """Four megabytes that do not compress."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for part in range(64):
            data = random.Random(number * 100 + part).randbytes(64 << 10)
            info = tarfile.TarInfo(f"layer{number}/file{part}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    plain = out.getvalue()
    packed = gzip.compress(plain, compresslevel=1)
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (packed, plain)]
    return Layer(packed, digests[0], digests[1])


def interrupted(engine: Skerry, chance: random.Random, *words: str) -> None:
    """Start a docker command and kill the engine soon after; then start it again."""
    client = subprocess.Popen(
        [DOCKER, "-H", engine.host, *words],
        env=engine.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Any instant will do; this spreads them over the whole transfer.
    time.sleep(chance.uniform(0.02, 0.4))
    engine.stop(signal.SIGKILL)
    client.wait(120)
    engine.start()


def contents(engine: Skerry) -> tuple[set[str], set[str], list[str]]:
    """Blobs and layers on disk, and names in `tmp`."""
    root = engine.root
    blobs = {f"sha256:{path.name}" for path in (root / "blobs/sha256").iterdir()}
    layers = {f"sha256:{path.name}" for path in (root / "layers").iterdir()}
    return blobs, layers, [path.name for path in (root / "tmp").iterdir()]


def referred(engine: Skerry) -> tuple[set[str], set[str]]:
    """Blobs and layers that the recorded images need, going by the OCI layout on disk."""
    blobs: set[str] = set()
    layers: set[str] = set()
    folder = engine.root / "blobs/sha256"
    index = json.loads((engine.root / "index.json").read_text())
    for each in index["manifests"]:
        manifest = json.loads((folder / each["digest"][7:]).read_text())
        config = json.loads((folder / manifest["config"]["digest"][7:]).read_text())
        blobs |= {each["digest"], manifest["config"]["digest"]}
        blobs |= {one["digest"] for one in manifest["layers"]}
        layers |= set(config["rootfs"]["diff_ids"])
    return blobs, layers


def test_pulls(own_engine: Skerry, registry: DebianRegistry) -> None:
    chance = random.Random(SEED)
    layers = [layer(number) for number in range(6)]
    name = registry.put("crash/pull", "v1", layers)
    for _ in range(ROUNDS):
        interrupted(own_engine, chance, "pull", "-q", name)
        assert contents(own_engine) == (*referred(own_engine), []), f"SKERRY_TEST_SEED={SEED}"
        if own_engine.docker("image", "inspect", name, check=False).returncode == 0:
            own_engine.docker("rmi", name)
    own_engine.docker("pull", "-q", name)
    for number, each in enumerate(layers):
        tree = own_engine.root / "layers" / each.diff_id[7:] / f"layer{number}"
        for part in (0, 63):
            expected = random.Random(number * 100 + part).randbytes(64 << 10)
            assert (tree / f"file{part}").read_bytes() == expected
    assert contents(own_engine) == (*referred(own_engine), [])


def test_pushes(own_engine: Skerry, registry: DebianRegistry) -> None:
    chance = random.Random(SEED)
    name = registry.put("crash/push", "v1", [layer(number) for number in range(10, 16)])
    own_engine.docker("pull", "-q", name)
    with DebianRegistry() as other:
        target = name.replace(registry.name, other.name)
        own_engine.docker("tag", name, target)
        before = contents(own_engine)
        for _ in range(ROUNDS):
            interrupted(own_engine, chance, "push", "-q", target)
            assert contents(own_engine) == before, f"SKERRY_TEST_SEED={SEED}"
        own_engine.docker("push", "-q", target)
        own_engine.docker("rmi", name, target)
        own_engine.docker("pull", "-q", target)
        assert contents(own_engine) == before
