"""Pulling and pushing an image of eight layers by way of Debian's `docker-registry` on loopback."""

import contextlib
import gzip
import hashlib
import http.client
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from typing import Any, NamedTuple

from bench import unpack
from bench.daemons import DOCKER, Daemon, MissingPiece, remove_folder, short_folder
from bench.measure import Case, Outcome, Target, interleave, spawn
from bench.ports import free_port
from bench.world import World

LAYERS = 8
TOTAL = 300 * 1024 * 1024
_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Layer(NamedTuple):
    """A gzipped layer and the digest of what is in it."""

    data: bytes
    digest: str
    diff_id: str


class DebianRegistry:
    """A `docker-registry` on a loopback port, with a folder of its own.

    `htpasswd` is a line `user:bcrypt hash`; without it everybody may do everything.
    """

    def __init__(self, htpasswd: str = "") -> None:
        program = shutil.which("docker-registry")
        if program is None:
            raise MissingPiece("docker-registry is not installed")
        self.home = short_folder("sr-")
        self.port = free_port()
        self.name = f"127.0.0.1:{self.port}"
        config = self.home / "config.json"
        storage = {"filesystem": {"rootdirectory": str(self.home / "data")}}
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": storage,
        }
        settings["http"] = {"addr": self.name}
        if htpasswd:
            users = self.home / "htpasswd"
            users.write_text(htpasswd + "\n")
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(users)}}
        config.write_text(json.dumps(settings))
        # What the environment calls REGISTRY_… would change the configuration.
        env = {key: value for key, value in os.environ.items() if "REGISTRY" not in key}
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, "serve", config], stdout=log, stderr=log, env=env
            )

    def __enter__(self) -> "DebianRegistry":
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise MissingPiece("docker-registry does not answer") from None
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, *exc: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        remove_folder(self.home)

    def put(self, repository: str, tag: str, layers: list[Layer]) -> str:
        """Store an image; its reference."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        }
        about = json.dumps(config).encode()
        blobs = [(each.digest, each.data) for each in layers] + [(_digest(about), about)]
        for digest, data in blobs:
            if self._ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] != 200:
                place = self._ask("POST", f"/v2/{repository}/blobs/uploads/")[1]["Location"]
                path = place.partition(self.name)[2] or place
                mark = "&" if "?" in path else "?"
                self._ask("PUT", f"{path}{mark}digest={digest}", data, 201)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": _digest(about), "size": len(about)},
            "layers": [
                {"mediaType": _GZIP, "digest": each.digest, "size": len(each.data)}
                for each in layers
            ],
        }
        body = json.dumps(manifest).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", body, 201, _MANIFEST)
        return f"{self.name}/{repository}:{tag}"

    def _ask(
        self, method: str, path: str, body: bytes = b"", status: int = 0, kind: str = ""
    ) -> tuple[int, dict[str, str]]:
        peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(peer):
            headers = {"Content-Type": kind or "application/octet-stream"}
            peer.request(method, path, body or None, headers if body else {})
            answer = peer.getresponse()
            text = answer.read()
            if status and answer.status != status:
                raise MissingPiece(f"docker-registry: {method} {path}: {text[:200]!r}")
            return answer.status, dict(answer.getheaders())


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Bases:
    """Eight layers of small files; each can be made anew by one more file."""

    def __init__(self) -> None:
        files = unpack.small_files(TOTAL // LAYERS)
        self._layers = [
            (renamed, gzip.compress(renamed, compresslevel=5))
            for renamed in (_below(files, f"layer{number}") for number in range(LAYERS))
        ]

    def layer(self, at: int, salt: str) -> Layer:
        """Layer `at` with a file that holds `salt`."""
        plain, packed = self._layers[at]
        info = tarfile.TarInfo(f"salt{at}")
        info.size = len(salt)
        end = info.tobuf() + salt.encode().ljust(512, b"\0") + bytes(1024)
        seen = hashlib.sha256(plain)
        seen.update(end)
        # gzip files may be joined; so the large part is compressed once for all rounds.
        data = packed + gzip.compress(end)
        return Layer(data, _digest(data), f"sha256:{seen.hexdigest()}")


def _below(archive: bytes, folder: str) -> bytes:
    """The same members in another folder, without an end mark."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive + bytes(1024))) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in source:
            member.name = f"{folder}/{member.name}"
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        end = out.tell()
    return out.getvalue()[:end]


class Round:
    """The images of one round, in the registry before anything is timed."""

    def __init__(self, bases: Bases, registry: DebianRegistry, number: int) -> None:
        layers = [bases.layer(at, f"round {number}") for at in range(LAYERS)]
        self.first = registry.put("bench/image", f"r{number}", layers)
        layers[-1] = bases.layer(LAYERS - 1, f"round {number} again")
        self.second = registry.put("bench/image", f"s{number}", layers)


def transfer(world: World, runs: int) -> Outcome:
    """`docker pull` and `docker push` of the same bytes with both engines, in turn.

    Each round's layers are new to the engines and to the registry that is pushed to; nothing is
    removed in between, as mass deletes slow down whoever makes files next.
    """
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(DebianRegistry())
        target = stack.enter_context(DebianRegistry())
        other = stack.enter_context(DebianRegistry())
        bases = Bases()
        numbers = itertools.count()
        rounds: list[Round] = []

        def begin() -> None:
            rounds.append(Round(bases, registry, next(numbers)))

        def pull(daemon: Daemon, which: str) -> float:
            return _timed(daemon, "pull", "-q", getattr(rounds[-1], which))

        def push(daemon: Daemon, to: DebianRegistry) -> float:
            name = rounds[-1].first.replace(registry.name, to.name)
            daemon.docker("tag", rounds[-1].first, name)
            return _timed(daemon, "push", "-q", name)

        def first() -> float:
            begin()
            return pull(world.skerry, "first")

        cases = [
            Case("pull, skerry", first),
            Case("pull, dockerd", lambda: pull(world.dockerd, "first")),
            Case("pull 1 new layer of 8, skerry", lambda: pull(world.skerry, "second")),
            Case("pull 1 new layer of 8, dockerd", lambda: pull(world.dockerd, "second")),
            Case("push, skerry", lambda: push(world.skerry, target)),
            Case("push, dockerd", lambda: push(world.dockerd, other)),
        ]
        return interleave(
            "transfer",
            cases,
            [
                Target("pull, skerry", "pull, dockerd", 0.7),
                Target("pull 1 new layer of 8, skerry", "pull, skerry", 0.2),
                Target("pull 1 new layer of 8, skerry", "pull, dockerd", 0.2),
                Target("pull 1 new layer of 8, skerry", "pull 1 new layer of 8, dockerd", 1.0),
                Target("push, skerry", "push, dockerd", 0.8),
            ],
            runs=max(2, min(runs, 5)),
            warm=1,
        )


def _timed(daemon: Daemon, *words: str) -> float:
    # What others wrote must not be waited for here.
    os.sync()
    start = time.perf_counter()
    spawn([DOCKER, "-H", daemon.host, *words], daemon.environment())
    return (time.perf_counter() - start) * 1000
