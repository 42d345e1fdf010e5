"""Blobs, and what opening the store does after a crash."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, DigestMismatch, InvalidInput, NotFound
from skerry.store import Store, open_store

HELLO = "sha256:" + hashlib.sha256(b"hello").hexdigest()


def test_a_blob_has_its_name_when_it_is_whole(store: Store) -> None:
    with store.blobs.ingest() as writer:
        writer.write(b"hel")
        assert not store.blobs.has(HELLO)
        writer.write(b"lo")
        assert writer.commit(HELLO, 5) == HELLO
    assert store.blobs.has(HELLO)
    assert store.blobs.size(HELLO) == 5
    assert store.blobs.read(HELLO) == b"hello"
    with store.blobs.open(HELLO) as file:
        assert file.read() == b"hello"
    assert store.blobs.all() == [HELLO]


@pytest.mark.parametrize(("data", "size"), [(b"hellO", 5), (b"hello!", 6), (b"hello", 4)])
def test_other_bytes_than_declared(store: Store, data: bytes, size: int) -> None:
    with pytest.raises(DigestMismatch), store.blobs.ingest() as writer:
        writer.write(data)
        writer.commit(HELLO, size)
    assert store.blobs.all() == []
    assert os.listdir(store.scratch.tmp) == []


def test_left_without_commit(store: Store) -> None:
    with store.blobs.ingest() as writer:
        writer.write(b"hello")
    assert store.blobs.all() == []
    assert os.listdir(store.scratch.tmp) == []


def test_the_same_twice(store: Store) -> None:
    assert store.blobs.put(b"hello") == store.blobs.put(b"hello") == HELLO
    assert os.listdir(store.scratch.tmp) == []


def test_a_blob_that_changed_on_disk_is_noticed(store: Store) -> None:
    store.blobs.put(b"hello")
    Path(store.blobs.path(HELLO)).write_bytes(b"jello")
    with pytest.raises(DigestMismatch):
        store.blobs.read(HELLO)


def test_missing_and_malformed(store: Store) -> None:
    for call in (store.blobs.open, store.blobs.size, store.blobs.read):
        with pytest.raises(NotFound, match="no such blob"):
            call("sha256:" + "0" * 64)
    for digest in ("sha256:../../etc", "md5:00", "sha512:" + "0" * 128, ""):
        with pytest.raises(InvalidInput):
            store.blobs.path(digest)
    store.blobs.put(b"hello")
    with pytest.raises(InvalidInput, match="more than 4 bytes"):
        store.blobs.read(HELLO, 4)


def test_the_layout_is_there_from_the_start(store: Store) -> None:
    root = Path(store.root)
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((root / "index.json").read_bytes())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert root.stat().st_mode & 0o777 == 0o700


def test_one_owner_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.store.store.LOCK_SECONDS", 0.05)
    with pytest.raises(Conflict, match="another engine has it open"):
        open_store(store.root)
    store.close()
    open_store(store.root).close()


def test_what_a_killed_process_left_is_put_away(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    program = (
        "import os, signal, sys; from skerry.store import open_store\n"
        "s = open_store(sys.argv[1]); s.blobs.put(b'hello')\n"
        "w = s.blobs.ingest(); w.write(b'half')\n"
        "f = s.scratch.folder('layer'); p = f.__enter__(); open(p + '/x', 'w').close()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, root], check=False).returncode == -9
    assert len(os.listdir(f"{root}/tmp")) == 2
    with open_store(root) as store:
        assert os.listdir(store.scratch.tmp) == []
        assert store.blobs.all() == []
        store.gc.collect()
        assert os.listdir(store.scratch.trash) == []


def test_the_index_is_mended_at_open(tmp_path: Path) -> None:
    root = tmp_path / "root"
    open_store(str(root)).close()
    (root / "index.json").write_text('{"schemaVersion":2,"manifests":[{"gone":1}]}')
    open_store(str(root)).close()
    assert json.loads((root / "index.json").read_bytes())["manifests"] == []
