"""Base images: reproducible, complete, and from a mirror only when its signature is good."""

import gzip
import hashlib
import http.server
import io
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.base.errors import (
    DigestMismatch,
    Forbidden,
    InvalidInput,
    NotFound,
    SkerryError,
    SystemFault,
    Unavailable,
)
from skerry.engine.events import Events
from skerry.engine.sbom import Sbom
from skerry.engine.transfer import Transfer
from skerry.store import Store, open_store

pytestmark = pytest.mark.root

VERSION = "3.20.3"
ARCH = {"x86_64": "x86_64", "aarch64": "aarch64"}.get(platform.machine(), platform.machine())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


def is_empty(store: Store) -> bool:
    store.gc.collect()
    return not (
        store.images.list()
        or store.blobs.all()
        or store.layers.all()
        or os.listdir(store.scratch.tmp)
    )


# --- busybox -----------------------------------------------------------------------------------


def test_busybox(store: Store) -> None:
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs busybox-static")
    said: list[object] = []
    id_ = store.bootstrap.busybox(progress=said.append)
    image = store.images.get("busybox")
    assert image.id == id_
    assert said
    assert image.config["Cmd"] == ["sh"]
    assert image.config["Env"][0].startswith("PATH=")
    assert image.config["Labels"]["org.opencontainers.image.title"] == "busybox"
    assert len(store.images.history(image)) == 1
    root = Path(store.layers.path(image.layers[0]))
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640
    assert (root / "bin/sh").stat().st_ino == (root / "bin/busybox").stat().st_ino
    assert "nobody" in (root / "etc/passwd").read_text()
    out = subprocess.run(
        ["chroot", str(root), "sh", "-c", "id -un; ls /"], capture_output=True, check=True
    )
    assert out.stdout.split()[0] == b"root"


def test_busybox_is_the_same_image_every_time(store: Store, tmp_path: Path) -> None:
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs busybox-static")
    first = store.bootstrap.busybox()
    old = os.umask(0o077)
    try:
        with open_store(str(tmp_path / "other")) as other:
            assert other.bootstrap.busybox(tag="mine:1") == first
            assert other.images.get("mine:1").manifest == store.images.get(first).manifest
    finally:
        os.umask(old)


def test_no_busybox_here(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no") as caught:
        store.bootstrap.busybox(binary=str(tmp_path / "none"))
    assert "busybox-static" in caught.value.hint
    with pytest.raises(SystemFault):
        store.bootstrap.busybox(binary="/bin/false")
    with pytest.raises(InvalidInput):
        store.bootstrap.busybox(tag="Not A Name")
    assert is_empty(store)


# --- alpine, from a mirror on loopback ---------------------------------------------------------


class Mirror:
    """A small mirror: a folder behind HTTP, and the key that signs what is in it."""

    def __init__(self, folder: Path, home: Path, address: str) -> None:
        self.folder = folder
        self.home = home
        self.address = address
        self.key = str(home / "key.asc")
        self.name = f"alpine-minirootfs-{VERSION}-{ARCH}.tar.gz"
        self.releases = folder / "v3.20/releases" / ARCH

    def gpg(self, *arguments: str) -> None:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes"]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    def publish(self, version: str = VERSION, content: bytes | None = None) -> None:
        self.releases.mkdir(parents=True, exist_ok=True)
        archive = self.releases / self.name
        archive.write_bytes(content or rootfs(version))
        for kind in ("sha256", "sha512"):
            digest = hashlib.new(kind, archive.read_bytes()).hexdigest()
            (self.releases / f"{self.name}.{kind}").write_text(f"{digest}  {self.name}\n")
        self.gpg("--armor", "--detach-sign", "-o", f"{archive}.asc", str(archive))
        (self.releases / "latest-releases.yaml").write_text(
            f'---\n-\n  title: "Standard"\n  flavor: alpine-standard\n  version: {VERSION}\n'
            f'-\n  title: "Mini root filesystem"\n  desc: |\n    Minimal root filesystem.\n'
            f"  branch: v3.20\n  arch: {ARCH}\n  version: {VERSION}\n"
            f"  flavor: alpine-minirootfs\n  file: {self.name}\n"
        )
        latest = self.folder / "latest-stable"
        if not latest.exists():
            latest.symlink_to("v3.20")


def rootfs(version: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("./etc/alpine-release", version + "\n"), ("./bin/sh", "#!")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_725_000_000
            tar.addfile(info, io.BytesIO(data.encode()))
    return gzip.compress(out.getvalue(), mtime=0)


@pytest.fixture(scope="module")
def signing_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GnuPG home with one key, exported to `key.asc`."""
    if not shutil.which("gpg") or not shutil.which("gpgv"):
        pytest.skip("needs gpg and gpgv")
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    mirror = Mirror(home, home, "")
    mirror.gpg("--passphrase", "", "--quick-gen-key", "Test <t@example.org>", "ed25519", "sign")
    mirror.gpg("--armor", "--export", "-o", mirror.key)
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@pytest.fixture
def mirror(tmp_path: Path, signing_home: Path) -> Iterator[Mirror]:
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        made = Mirror(folder, signing_home, f"http://127.0.0.1:{server.server_port}")
        made.publish()
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("version", "tag"),
    [("latest", "alpine:3.20.3"), ("3.20", "alpine:3.20"), ("v3.20.3", "alpine:v3.20.3")],
)
def test_alpine(store: Store, mirror: Mirror, version: str, tag: str) -> None:
    id_ = store.bootstrap.alpine(version, mirror.address, key=mirror.key)
    image = store.images.get(tag)
    assert image.id == id_
    assert image.config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert image.created == "2024-08-30T06:40:00Z"
    assert Path(store.layers.path(image.layers[0]), "etc/alpine-release").exists()
    assert image.blobs == ("sha256:" + hashlib.sha256(rootfs(VERSION)).hexdigest(),)
    assert store.bootstrap.alpine("3.20", mirror.address + "/", key=mirror.key) == id_


Spoil = Callable[[Mirror], object]


def other_key(mirror: Mirror) -> None:
    """Signed by a key that nobody trusts here."""
    mirror.gpg("--passphrase", "", "--quick-gen-key", "Other <o@example.org>", "ed25519", "sign")
    archive = mirror.releases / mirror.name
    mirror.gpg(
        "-u", "o@example.org", "--armor", "--detach-sign", "-o", f"{archive}.asc", str(archive)
    )


def tampered(mirror: Mirror) -> None:
    """Another archive with right checksums under the old signature."""
    signature = (mirror.releases / f"{mirror.name}.asc").read_bytes()
    mirror.publish(content=rootfs(VERSION + "x"))
    (mirror.releases / f"{mirror.name}.asc").write_bytes(signature)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda m: (m.releases / m.name).write_bytes(rootfs("9.9.9")), DigestMismatch, "sha256 is"),
        (
            lambda m: (m.releases / f"{m.name}.sha512").write_text("0" * 128),
            DigestMismatch,
            "sha512 is",
        ),
        (lambda m: (m.releases / f"{m.name}.sha256").write_text(""), DigestMismatch, "is empty"),
        (tampered, Forbidden, "signature is not good"),
        (other_key, Forbidden, "signature is not good"),
        (
            lambda m: (m.releases / f"{m.name}.asc").write_text("nonsense"),
            Forbidden,
            "signature is not good",
        ),
        (lambda m: (m.releases / f"{m.name}.asc").unlink(), NotFound, "404"),
        (lambda m: (m.releases / m.name).unlink(), NotFound, "404"),
        (lambda m: m.publish(version="3.1.0"), InvalidInput, "holds Alpine 3.1.0"),
        (lambda m: m.publish(content=b"not gzip, not tar"), InvalidInput, "minirootfs"),
        (lambda m: m.publish(content=rootfs(VERSION)[:-40]), InvalidInput, "minirootfs"),
    ],
)
def test_alpine_from_a_bad_mirror(
    store: Store, mirror: Mirror, spoil: Spoil, error: type[SkerryError], words: str
) -> None:
    spoil(mirror)
    with pytest.raises(error, match=words) as caught:
        store.bootstrap.alpine(VERSION, mirror.address, key=mirror.key)
    assert mirror.address in caught.value.message or "minirootfs" in caught.value.message
    assert is_empty(store)


def test_alpines_own_key_is_the_default(store: Store, mirror: Mirror) -> None:
    with pytest.raises(Forbidden, match="signature is not good"):
        store.bootstrap.alpine(VERSION, mirror.address)
    assert is_empty(store)


def test_alpine_requests_that_cannot_be(store: Store, mirror: Mirror, tmp_path: Path) -> None:
    alpine = store.bootstrap.alpine
    with pytest.raises(InvalidInput, match="not a version"):
        alpine("../../etc", mirror.address, key=mirror.key)
    with pytest.raises(InvalidInput, match="http"):
        alpine(VERSION, "file:///etc", key=mirror.key)
    with pytest.raises(NotFound, match="read the key"):
        alpine(VERSION, mirror.address, key=str(tmp_path / "none"))
    with pytest.raises(NotFound, match="404"):
        alpine("3.99", mirror.address, key=mirror.key)
    with pytest.raises(Unavailable):
        alpine(VERSION, "http://127.0.0.1:9", key=mirror.key)
    (mirror.releases / "latest-releases.yaml").write_text("---\n-\n  flavor: other\n")
    with pytest.raises(NotFound, match="lists no alpine-minirootfs"):
        alpine("3.20", mirror.address, key=mirror.key)
    (mirror.releases / "latest-releases.yaml").write_text(
        "---\n-\n  flavor: alpine-minirootfs\n  version: ../../../x\n"
    )
    with pytest.raises(InvalidInput, match="is not a version"):
        alpine("3.20", mirror.address, key=mirror.key)
    assert is_empty(store)


# --- debian ------------------------------------------------------------------------------------


def test_debian_requests_that_cannot_be(store: Store) -> None:
    for suite, include, mirror in (
        ("../x", (), ""),
        ("--help", (), ""),
        ("bookworm", ("--hook=x",), ""),
        ("bookworm", ("a b",), ""),
        ("bookworm", (), "file:///x"),
    ):
        with pytest.raises(InvalidInput):
            store.bootstrap.debian(suite, include, mirror=mirror)
    assert is_empty(store)


def test_debian_from_a_mirror_that_is_none(store: Store, mirror: Mirror, tmp_path: Path) -> None:
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap")
    with pytest.raises(SystemFault, match="make a Debian tree: ") as caught:
        store.bootstrap.debian("bookworm", mirror=mirror.address)
    assert "mirror" in caught.value.hint
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert is_empty(store)


@pytest.mark.slow
async def test_debian_is_the_same_image_every_time(store: Store, tmp_path: Path) -> None:
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap")
    try:
        first = store.bootstrap.debian("bookworm", ["less"])
    except SystemFault as fault:
        if not re.search("resolve|connect|unreachable|Failed to fetch", fault.message):
            raise
        pytest.skip(f"no Debian mirror can be reached: {fault.message:.200}")
    image = store.images.get("debian:bookworm")
    assert image.config["Cmd"] == ["bash"]
    root = Path(store.layers.path(image.layers[0]))
    assert (root / "usr/bin/less").exists()
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "etc/hostname").read_bytes() == b""
    assert os.listdir(root / "var/lib/apt/lists") == []
    assert "deb.debian.org" in (root / "etc/apt/sources.list").read_text()
    await _its_bill_of_materials_is_what_dpkg_query_says(store, root, tmp_path)
    store.images.remove("debian:bookworm")
    store.gc.collect()
    assert store.bootstrap.debian("bookworm", ["less"]) == first


async def _its_bill_of_materials_is_what_dpkg_query_says(
    store: Store, root: Path, folder: Path
) -> None:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"]
    done = subprocess.run(["chroot", root, *query], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    wanted = sorted((name, version) for state, name, version in lines if state == "installed")
    assert len(wanted) > 50
    assert "less" in dict(wanted)
    bills = Sbom(store, Transfer(store, Events(), str(folder)))
    made = json.loads(await bills.make("debian:bookworm", "cyclonedx-json"))
    assert sorted((each["name"], each["version"]) for each in made["components"]) == wanted
