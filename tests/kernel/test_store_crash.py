"""kill -9 at any instant: what was recorded is whole, what was not is gone."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.store import Store, open_store

pytestmark = pytest.mark.root

PROGRAM = """
import os, sys
from skerry.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    base = store.bootstrap.busybox(tag=f"base:{number}")
    overlay = store.snapshots.prepare(f"c{number}", base)
    for name in range(200):
        with open(f"{overlay.upper}/f{name}", "w") as file:
            file.write(f"{number} {name}" * 50)
    store.images.commit(base, f"c{number}", {}, tags=[f"app:{number}"])
    store.snapshots.remove(f"c{number}")
    if number % 2:
        store.images.remove(f"app:{number}")
        store.gc.collect()
    print(number, flush=True)
"""


def check(store: Store) -> None:
    """Everything that is listed is there, verified; nothing else is."""
    images = store.images.list()
    content = {digest for image in images for digest in image.content()}
    for image in images:
        assert store.images.config(image).rootfs.diff_ids == list(image.layers)
        store.blobs.read(image.manifest)
        for blob in image.blobs:
            store.blobs.read(blob, 1 << 30)
        if image.tags and image.tags[0].startswith("app:"):
            files = os.listdir(store.layers.path(image.layers[-1]))
            assert len(files) == 200
    assert set(store.blobs.all()) == content
    assert set(store.layers.all()) == {diff_id for image in images for diff_id in image.layers}
    assert os.listdir(store.scratch.tmp) == []
    index = json.loads(Path(store.root, "index.json").read_bytes())
    assert {each["digest"] for each in index["manifests"]} == {each.manifest for each in images}
    du = subprocess.run(["du", "-s", "-B1", store.root], capture_output=True, check=True).stdout
    assert store.gc.usage().total == int(du.split()[0])


def test_killed_at_any_instant(tmp_path: Path) -> None:
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs busybox-static")
    root = str(tmp_path / "root")
    rng = random.Random(7)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, root], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            for _ in range(rng.randrange(2)):
                process.stdout.readline()
            # Into the middle of whatever comes next; there is nothing to wait for.
            try:
                process.wait(rng.random() * 0.4)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with open_store(root) as store:
            check(store)
            for id_ in store.snapshots.list():
                store.snapshots.remove(id_)
    with open_store(root) as store:
        store.gc.collect(unused=True)
        assert store.images.list() == []
        assert store.blobs.all() == []
        assert store.layers.all() == []
        assert os.listdir(store.scratch.trash) == []
