"""docker, podman and skopeo push to and pull from our registry; kill -9 loses nothing."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from bench.daemons import DOCKER, PYTHON, REPOSITORY
from bench.ports import free_port

pytestmark = pytest.mark.root
DEADLINE = 120.0
_PARTS = ("layer.v1.tar", "config.v1+json")


class Server:
    """`skerry registry serve` in a process of its own."""

    def __init__(self, storage: Path, *options: str) -> None:
        self.port = free_port()
        self.place = f"127.0.0.1:{self.port}"
        self.storage = storage
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [str(PYTHON), "-m", "skerry", "registry", "serve", "--listen", self.place]
        command += ["--storage", str(self.storage), "--log-level", "warning", *self._options]
        self.process = subprocess.Popen(command, cwd=REPOSITORY)
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None and time.monotonic() < deadline, "it does not start"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server."""
    found = Server(tmp_path / "storage")
    found.start()
    yield found
    found.stop()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one image, `t`: busybox."""
    root, layer, folder = tmp_path / "rootfs", tmp_path / "layer.tar", tmp_path / "oci"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    subprocess.run(["tar", "-cf", layer, "-C", root, "."], check=True)
    image = f"{folder}:t"
    for words in (["init", "--layout", str(folder)], ["new", "--image", image]):
        subprocess.run(["umoci", *words], check=True, capture_output=True)
    add = ["umoci", "raw", "add-layer", "--image", image, str(layer)]
    subprocess.run(add, check=True, capture_output=True)
    return folder


def run(*words: str, **named: Any) -> str:
    """A command's stdout; its stderr is the failure's text."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **named)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def test_skopeo(server: Server, layout: Path, tmp_path: Path) -> None:
    place = f"docker://{server.place}/a/b:t"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:t", place)
    run("skopeo", "copy", "--src-tls-verify=false", place, f"oci:{tmp_path}/back:t")
    before = {path.name for path in (layout / "blobs/sha256").iterdir()}
    image = json.loads((layout / "index.json").read_text())["manifests"][-1]["digest"]
    back = {path.name for path in (tmp_path / "back/blobs/sha256").iterdir()}
    assert image.removeprefix("sha256:") in back <= before
    other = f"docker://{server.place}/other:t"
    run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", place, other)
    run("skopeo", "delete", "--tls-verify=false", other)
    tags = json.loads(run("skopeo", "list-tags", "--tls-verify=false", place.rpartition(":")[0]))
    assert tags["Tags"] == ["t"]


def test_podman(server: Server, layout: Path, short_tmp: Path) -> None:
    # podman refuses a runroot of more than 50 characters.
    podman = ["podman", "--root", str(short_tmp / "p"), "--runroot", str(short_tmp / "r")]
    podman += ["--storage-driver", "vfs"]
    name = f"{server.place}/pod/man:t"
    pulled = run(*podman, "pull", "-q", f"oci:{layout}:t").strip()
    run(*podman, "tag", pulled, name)
    run(*podman, "push", "--tls-verify=false", name)
    run(*podman, "rmi", "-af")
    assert run(*podman, "pull", "-q", "--tls-verify=false", name).strip() == pulled


def test_docker(server: Server, layout: Path, tmp_path: Path, dockerd: Any) -> None:
    name = f"{server.place}/dock/er:t"
    archive = tmp_path / "docker.tar"
    run("skopeo", "copy", f"oci:{layout}:t", f"docker-archive:{archive}:{name}")
    docker = [DOCKER, "--host", dockerd.host, "--config", str(tmp_path / "dockercfg")]
    run(*docker, "load", "-i", str(archive))
    held = run(*docker, "inspect", "--format", "{{.Id}}", name)
    try:
        run(*docker, "push", name)
        run(*docker, "rmi", name)
        run(*docker, "pull", name)
        assert run(*docker, "inspect", "--format", "{{.Id}}", name) == held
        again = f"{server.place}/dock/mounted:t"
        run(*docker, "tag", name, again)
        assert "Mounted from dock/er" in run(*docker, "push", again)
        run(*docker, "rmi", again)
    finally:
        subprocess.run([*docker, "rmi", "-f", name], capture_output=True, check=False)


class Served(Protocol):
    """A server that can be killed and started again on its port."""

    port: int

    def start(self) -> None: ...

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None: ...


def image() -> tuple[bytes, bytes]:
    """A layer and the config of an image that nobody has seen."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo("data")
        entry.size = 200_000
        archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    diff_ids = ["sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
    return layer.getvalue(), json.dumps(config).encode()


class Pusher(threading.Thread):
    """Pushes images until told to stop; remembers what was acknowledged."""

    def __init__(self, server: Served, number: int, stop: threading.Event, tags: int) -> None:
        """It moves so many tags from image to image."""
        super().__init__()
        self.server = server
        self.name_ = f"r{number}/x"
        self.stop = stop
        self.count = tags
        self.blobs: set[str] = set()
        self.tags: dict[str, str] = {}
        self.since: dict[str, list[str]] = {}
        """What each tag was sent from its last acknowledgement on."""
        self.failure: str = ""

    def run(self) -> None:
        """Keep pushing; an error of the connection is the kill that the test is about."""
        round_ = 0
        while not self.stop.is_set():
            round_ += 1
            try:
                self._push(round_)
                self._pull()
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
            except AssertionError as error:
                self.failure = str(error)
                return

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
        peer = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        with contextlib.closing(peer):
            peer.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = peer.getresponse()
            return answer.status, answer.read()

    def _push(self, round_: int) -> None:
        pieces = image()
        digests = ["sha256:" + hashlib.sha256(data).hexdigest() for data in pieces]
        for data, digest in zip(pieces, digests, strict=True):
            path = f"/v2/{self.name_}/blobs/uploads/?digest={digest}"
            status, body = self._ask("POST", path, data)
            assert status == 201, body
            self.blobs.add(digest)
        kind = "application/vnd.oci.image.manifest.v1+json"
        layer, config = (
            {"mediaType": f"application/vnd.oci.image.{part}", "digest": digest, "size": len(data)}
            for part, data, digest in zip(_PARTS, pieces, digests, strict=True)
        )
        document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
        data = json.dumps(document).encode()
        tag = f"t{round_ % self.count}"
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.since.setdefault(tag, []).append(digest)
        status, body = self._ask("PUT", f"/v2/{self.name_}/manifests/{tag}", data, kind)
        assert status == 201, body
        self.tags[tag] = digest
        self.since[tag] = [digest]
        self.blobs.add(self.tags[tag])

    def _pull(self) -> None:
        digest = next(iter(self.blobs - set(self.tags.values())), "")
        status, body = self._ask("GET", f"/v2/{self.name_}/blobs/{digest}")
        if status == 404:
            # Manifests are no blobs; only layers and configs are asked for here.
            status, body = self._ask("GET", f"/v2/{self.name_}/manifests/{digest}")
        assert status == 200, f"{digest}: {status}"
        assert "sha256:" + hashlib.sha256(body).hexdigest() == digest


def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    server = Server(tmp_path / "storage")
    server.start()
    try:
        push_and_kill(server, kills=8, tags=5)
    finally:
        server.stop()


def push_and_kill(server: Served, *, kills: int, tags: int) -> None:
    """Sixteen push and pull while the server is killed; then all that was acknowledged is there."""
    stop = threading.Event()
    pushers = [Pusher(server, number, stop, tags) for number in range(16)]
    try:
        for pusher in pushers:
            pusher.start()
        for _ in range(kills):
            seen = sum(len(each.blobs) for each in pushers)
            deadline = time.monotonic() + DEADLINE
            while sum(len(each.blobs) for each in pushers) < seen + 40:
                assert time.monotonic() < deadline, [each.failure for each in pushers]
                time.sleep(0.01)
            server.stop(signal.SIGKILL)
            server.start()
        stop.set()
        for pusher in pushers:
            pusher.join()
        assert not [each.failure for each in pushers if each.failure]
        for pusher in pushers:
            for digest in pusher.blobs:
                answers = [
                    pusher._ask("GET", f"/v2/{pusher.name_}/{kind}/{digest}")
                    for kind in ("blobs", "manifests")
                ]
                whole = [body for status, body in answers if status == 200]
                assert whole, f"{digest} was acknowledged and is lost"
                assert "sha256:" + hashlib.sha256(whole[0]).hexdigest() == digest
            for tag in pusher.tags:
                status, body = pusher._ask("GET", f"/v2/{pusher.name_}/manifests/{tag}")
                assert status == 200, body
                # What was sent and not acknowledged may have arrived, nothing older may be back.
                found = "sha256:" + hashlib.sha256(body).hexdigest()
                assert found in pusher.since[tag]
    finally:
        stop.set()
        for pusher in pushers:
            pusher.join()
