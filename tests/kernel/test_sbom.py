"""Bills of materials of real images: layers put together, hostile trees. Debian's own list is in
`test_bootstrap`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.archives import archive_of

from skerry.base.digests import sha256
from skerry.base.oci_image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest, encode
from skerry.engine.events import Events
from skerry.engine.sbom import Sbom, examine
from skerry.engine.transfer import Transfer
from skerry.store import Store, open_store

pytestmark = pytest.mark.root

APK = b"P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n"
METADATA = b"Metadata-Version: 2.1\nName: %s\nVersion: 1.0\n\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "root"))
    yield opened
    opened.close()


def add(store: Store, layers: list[bytes], name: str) -> None:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(data) for data in layers]},
    }
    data = json.dumps(config).encode()
    with store.leases.hold():
        for each in (*layers, data):
            store.blobs.put(each)
        about = Descriptor(OCI_CONFIG, sha256(data), len(data))
        listed = [Descriptor(OCI_LAYER, sha256(each), len(each)) for each in layers]
        store.images.add(encode(Manifest(2, about, listed, OCI_MANIFEST)), tags=[name])


def service(store: Store, root: Path) -> Sbom:
    return Sbom(store, Transfer(store, Events(), str(root)))


async def listed(store: Store, root: Path, name: str) -> list[tuple[str, str]]:
    made = json.loads(await service(store, root).make(name, "cyclonedx-json"))
    return [(each["name"], each["version"]) for each in made["components"]]


async def test_upper_layers_hide_what_is_below(store: Store, tmp_path: Path) -> None:
    site = "usr/lib/python3/site-packages"
    bottom = archive_of(
        {
            "lib/apk/db/installed": APK,
            f"{site}/gone-1.0.dist-info/METADATA": METADATA % b"gone",
            f"{site}/kept-1.0.dist-info/METADATA": METADATA % b"kept",
            "old/x.egg-info": METADATA % b"hidden",
            "app/node_modules/@s/a/package.json": b'{"name":"@s/a","version":"2.0.0"}',
            "app/node_modules/a/lib/package.json": b'{"name":"inner","version":"2.0.0"}',
        }
    )
    top = archive_of(
        {
            f"{site}/.wh.gone-1.0.dist-info": b"",
            "old/.wh..wh..opq": b"",
            "old/y.egg-info/PKG-INFO": METADATA % b"shown",
        }
    )
    add(store, [bottom, top], "layered")
    assert await listed(store, tmp_path, "layered") == [
        ("musl", "1.2.4-r2"),
        ("@s/a", "2.0.0"),
        ("kept", "1.0"),
        ("shown", "1.0"),
    ]
    add(store, [bottom], "single")
    assert ("gone", "1.0") in await listed(store, tmp_path, "single")
    first = await service(store, tmp_path).make("layered")
    assert first == await service(store, tmp_path).make("layered")


def test_links_and_pipes_lead_nowhere(tmp_path: Path) -> None:
    """What an image's database points to is looked for in the image; a pipe is not waited for."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"Package: secret\nVersion: 1\n")
    root = tmp_path / "image"
    (root / "var/lib/dpkg/status.d").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(secret)
    (root / "var/lib/dpkg/status.d/a").symlink_to("../../../../../../../etc/passwd")
    os.mkfifo(root / "var/lib/dpkg/status.d/b")
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib/apk/db").mkdir(parents=True)
    (root / "usr/lib/apk/db/installed").write_bytes(APK)
    loop = root / "x.dist-info"
    loop.mkdir()
    (loop / "METADATA").symlink_to("METADATA")
    (root / "outside").symlink_to(tmp_path)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _, found = examine(fd)
    finally:
        os.close(fd)
    assert [each.name for each in found] == ["musl"]
