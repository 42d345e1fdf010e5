"""Our registry client against Debian's `docker-registry` and against our own server."""

import asyncio
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from bench.ports import free_port

from skerry.base.digests import sha256
from skerry.base.errors import (
    InvalidInput,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from skerry.base.oci_image import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    encode,
)
from skerry.registry.auth import Credential, Credentials, anonymous
from skerry.registry.client import Client, Limits
from skerry.registry.config import Registries, RegistrySettings

PROGRAM = "/usr/bin/docker-registry"
QUICK = Limits(pause=0.01, longest_pause=0.02)

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}", secret: test}}
{more}
"""


class Registry:
    """A registry on a loopback port, with a folder of its own."""

    def __init__(self, kind: str, folder: Path, passwords: Path | None = None) -> None:
        self.kind = kind
        self.name = f"127.0.0.1:{free_port()}"
        if kind == "docker-registry":
            if not os.access(PROGRAM, os.X_OK):
                pytest.skip("needs the Debian package docker-registry")
            command = self._docker_registry(folder, passwords)
        else:
            command = [sys.executable, "-m", "skerry", "registry", "serve", "--listen", self.name]
            command += ["--storage", str(folder / "data"), "--no-sync"]
            command += ["--htpasswd", str(passwords)] if passwords else []
        # What the environment calls REGISTRY_… would change the configuration.
        env = {key: value for key, value in os.environ.items() if "REGISTRY" not in key}
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                host, _, port = self.name.partition(":")
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                ended = self._process.poll() is not None
                assert not ended and time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)

    def _docker_registry(self, folder: Path, passwords: Path | None) -> list[str]:
        more = f"auth: {{htpasswd: {{realm: test, path: {passwords}}}}}" if passwords else ""
        config = folder / "config.yml"
        port = self.name.rpartition(":")[2]
        config.write_text(CONFIG.format(root=folder / "data", port=port, more=more))
        return [PROGRAM, "serve", str(config)]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


KINDS = ["docker-registry", "skerry"]


@pytest.fixture(scope="module", params=KINDS)
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    running = Registry(request.param, tmp_path_factory.mktemp("registry"))
    yield running
    running.stop()


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[Client]:
    async with Client(registry.name, Registries(), anonymous(), limits=QUICK) as made:
        yield made


def descriptor(data: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, sha256(data), len(data))


async def push(client: Client, repository: str, data: bytes, chunk: int = 0) -> Descriptor:
    made = descriptor(data)
    await client.push_blob(repository, made, lambda offset: io.BytesIO(data[offset:]), chunk=chunk)
    return made


async def pulled(client: Client, repository: str, made: Descriptor) -> bytes:
    async with aclosing(client.blob(repository, made)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def push_image(client: Client, repository: str, tag: str, docker: bool = False) -> Descriptor:
    config = await push(client, repository, b'{"architecture":"amd64","os":"linux"}')
    layer = await push(client, repository, os.urandom(1000))
    kinds = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP)
        if docker
        else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
    )
    data = encode(
        Manifest(
            2,
            Descriptor(kinds[1], config.digest, config.size),
            [Descriptor(kinds[2], layer.digest, layer.size)],
            kinds[0],
        )
    )
    digest = await client.put_manifest(repository, tag or sha256(data), data, kinds[0])
    return Descriptor(kinds[0], digest, len(data))


class TestBlobs:
    @pytest.mark.parametrize("chunk", [0, 100_000, 65_536])
    async def test_what_was_pushed_comes_back(self, client: Client, chunk: int) -> None:
        data = os.urandom(300_000)
        made = await push(client, "blobs/one", data, chunk)
        assert await client.has_blob("blobs/one", made.digest)
        assert await pulled(client, "blobs/one", made) == data

    async def test_an_empty_blob(self, client: Client) -> None:
        made = await push(client, "blobs/empty", b"")
        assert await pulled(client, "blobs/empty", made) == b""

    async def test_from_the_middle(self, client: Client) -> None:
        data = os.urandom(200_000)
        made = await push(client, "blobs/middle", data)
        async with aclosing(client.blob("blobs/middle", made, 150_000)) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == data[150_000:]

    async def test_chunks_from_an_async_source_with_reports(self, client: Client) -> None:
        data = os.urandom(500_000)

        async def source(offset: int) -> AsyncIterator[bytes]:
            for start in range(offset, len(data), 70_000):
                yield data[start : start + 70_000]

        seen: list[int] = []
        made = descriptor(data)
        await client.push_blob("blobs/reported", made, source, report=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == len(data)
        assert await client.has_blob("blobs/reported", made.digest)

    async def test_mounted_from_another_repository(self, client: Client) -> None:
        made = await push(client, "mount/from", os.urandom(1000))
        assert not await client.has_blob("mount/to", made.digest)
        assert await client.mount_blob("mount/to", made.digest, "mount/from")
        assert await client.has_blob("mount/to", made.digest)
        assert not await client.mount_blob("mount/to", sha256(b"nowhere"), "mount/from")

    async def test_deleted(self, client: Client) -> None:
        made = await push(client, "blobs/deleted", os.urandom(100))
        await client.delete_blob("blobs/deleted", made.digest)
        assert not await client.has_blob("blobs/deleted", made.digest)

    async def test_a_wrong_digest_is_not_stored(self, client: Client) -> None:
        wrong = Descriptor(OCI_LAYER_GZIP, sha256(b"other"), 4)
        with pytest.raises(Exception, match=r"blobs/wrong@sha256"):
            await client.push_blob("blobs/wrong", wrong, lambda _: io.BytesIO(b"data"))
        assert not await client.has_blob("blobs/wrong", wrong.digest)

    async def test_eight_at_once(self, client: Client) -> None:
        contents = [os.urandom(100_000 + n) for n in range(8)]
        made = await asyncio.gather(*(push(client, "blobs/many", data) for data in contents))
        back = await asyncio.gather(*(pulled(client, "blobs/many", one) for one in made))
        assert back == contents

    async def test_an_interrupted_source_is_taken_up_again(self, client: Client) -> None:
        data = os.urandom(3 << 20)
        opened: list[int] = []

        async def source(offset: int) -> AsyncIterator[bytes]:
            opened.append(offset)
            for start in range(offset, len(data), 1 << 18):
                yield data[start : start + (1 << 18)]
                if len(opened) == 1 and start >= 1 << 20:
                    raise OSError("the disk hiccups")

        made = descriptor(data)
        await client.push_blob("blobs/hiccup", made, source, chunk=1 << 20)
        assert opened[0] == 0
        assert len(opened) > 1
        assert await pulled(client, "blobs/hiccup", made) == data


class TestManifests:
    @pytest.mark.parametrize("docker", [False, True])
    async def test_an_image(self, client: Client, docker: bool) -> None:
        made = await push_image(client, "images/one", "v1", docker)
        assert await client.resolve("images/one", "v1") == made
        assert (await client.manifest("images/one", made.digest)).descriptor == made
        image = await client.image("images/one", "v1")
        assert image.root == image.document
        assert len(image.manifest.layers) == 1

    @pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_INDEX])
    async def test_one_platform_of_an_index(self, client: Client, kind: str) -> None:
        docker = kind == DOCKER_INDEX
        amd = await push_image(client, "images/multi", "", docker)
        arm = await push_image(client, "images/multi", "", docker)
        entries = [
            Descriptor(amd.media_type, amd.digest, amd.size, platform=Platform("amd64", "linux")),
            Descriptor(
                arm.media_type,
                arm.digest,
                arm.size,
                platform=Platform("arm64", "linux", variant="v8"),
            ),
        ]
        data = encode(Index(2, entries, kind))
        digest = await client.put_manifest("images/multi", "all", data, kind)
        image = await client.image("images/multi", "all", Platform("arm64", "linux"))
        assert image.document.digest == arm.digest
        assert image.root.digest == digest
        with pytest.raises(RegistryNotFound, match="no image for linux/riscv64") as caught:
            await client.image("images/multi", "all", Platform("riscv64", "linux"))
        assert "linux/amd64, linux/arm64/v8" in caught.value.hint

    async def test_tags_over_pages(self, client: Client) -> None:
        for number in range(5):
            await push_image(client, "images/tagged", f"t{number}")
        assert sorted(await client.tags("images/tagged")) == [f"t{n}" for n in range(5)]
        assert "images/tagged" in await client.catalog()
        assert len(await client.catalog(1)) == 1

    async def test_search_by_catalog(self, client: Client) -> None:
        await push_image(client, "images/findme", "v1")
        assert [found.name for found in await client.search("findme")] == ["images/findme"]

    async def test_deleted(self, client: Client) -> None:
        made = await push_image(client, "images/gone", "v1")
        await client.delete_manifest("images/gone", made.digest)
        with pytest.raises(RegistryNotFound, match=r"images/gone:v1.*not found"):
            await client.manifest("images/gone", "v1")

    async def test_unknown(self, client: Client, registry: Registry) -> None:
        with pytest.raises(RegistryNotFound, match=rf"^{registry.name}/no/such:v1: not found"):
            await client.image("no/such", "v1")

    async def test_names_that_cannot_be(self, client: Client) -> None:
        for repository, tag in (("../x", "v"), ("a", "../v"), ("A", "v"), ("a", "sha256:x")):
            with pytest.raises(InvalidInput):
                await client.manifest(repository, tag)

    async def test_referrers(self, client: Client) -> None:
        """By API of ours, by tag scheme of docker-registry 2.8."""
        image = await push_image(client, "images/signed", "v1")
        config = await push(client, "images/signed", b"{}")
        empty = Descriptor("application/vnd.oci.empty.v1+json", config.digest, 2)
        assert await client.referrers("images/signed", image.digest) == []
        made = []
        for kind in ("application/x.one", "application/x.two"):
            data = encode(
                Manifest(2, empty, [empty], OCI_MANIFEST, artifact_type=kind, subject=image)
            )
            made.append(
                await client.put_manifest("images/signed", sha256(data), data, OCI_MANIFEST)
            )
        found = await client.referrers("images/signed", image.digest)
        assert sorted(one.digest for one in found) == sorted(made)
        (two,) = await client.referrers("images/signed", image.digest, "application/x.two")
        assert two.digest == made[1]


class TestReaching:
    async def test_through_a_mirror_that_has_less(self, registry: Registry) -> None:
        """An image that the mirror lacks comes from the registry itself."""
        dead = f"127.0.0.1:{free_port()}"
        settings = RegistrySettings(
            "example.test", registry.name, (dead, f"{registry.name}/mirrored"), plain_http=True
        )
        known = Registries({"example.test": settings})
        async with Client(registry.name, Registries(), anonymous(), limits=QUICK) as direct:
            mirrored = await push_image(direct, "mirrored/app", "v1")
            own = await push_image(direct, "app", "v2")
        async with Client("example.test", known, anonymous(), limits=QUICK) as client:
            assert await client.resolve("app", "v1") == mirrored
            assert await client.resolve("app", "v2") == own
            with pytest.raises(RegistryNotFound, match=r"^example.test/app:v3"):
                await client.resolve("app", "v3")

    async def test_nobody_there(self) -> None:
        name = f"127.0.0.1:{free_port()}"
        async with Client(name, Registries(), anonymous(), limits=QUICK) as client:
            with pytest.raises(RegistryUnreachable, match=rf"^{name}/app:v1: cannot connect"):
                await client.image("app", "v1")

    @pytest.mark.parametrize("kind", KINDS)
    async def test_basic_authentication(self, tmp_path: Path, kind: str) -> None:
        # bcrypt of "secret", cost 4
        passwords = tmp_path / "htpasswd"
        passwords.write_text("user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n")
        running = Registry(kind, tmp_path, passwords)
        try:
            right = Credentials(given=Credential("user", "secret"))
            async with Client(running.name, Registries(), right, limits=QUICK) as client:
                assert (await client.login()).identity_token == ""
                made = await push_image(client, "private/app", "v1")
                assert await client.resolve("private/app", "v1") == made
            wrong = Credentials(given=Credential("user", "wrong"))
            async with Client(running.name, Registries(), wrong, limits=QUICK) as client:
                with pytest.raises(RegistryUnauthorized, match="user are not accepted"):
                    await client.login()
                with pytest.raises(RegistryUnauthorized, match="user are not accepted"):
                    await client.resolve("private/app", "v1")
            async with Client(running.name, Registries(), anonymous(), limits=QUICK) as client:
                with pytest.raises(RegistryUnauthorized, match="authentication required"):
                    await client.resolve("private/app", "v1")
        finally:
            running.stop()


class Cutter:
    """A TCP proxy that cuts a connection after so many bytes, whichever way they go; at most
    `times` connections."""

    def __init__(self, target: str, limit: int, times: int = 1000) -> None:
        self._target = target
        self._limit = limit
        self._times = times
        self.cuts = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        left = [self._limit]
        try:
            await asyncio.gather(
                self._pass(reader, far_writer, left), self._pass(far_reader, writer, left)
            )
        except ConnectionError:
            pass
        finally:
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        while data := await reader.read(65536):
            left[0] -= len(data)
            if left[0] < 0 and self.cuts < self._times:
                self.cuts += 1
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()


class TestCuts:
    """Connections end after a megabyte; what is transferred has several."""

    async def test_a_download_goes_on(self, client: Client, registry: Registry) -> None:
        data = os.urandom(5 << 20)
        made = await push(client, "cuts/down", data)
        cutter = Cutter(registry.name, 1 << 20)
        async with cutter as name, Client(name, Registries(), anonymous(), limits=QUICK) as cut:
            assert await pulled(cut, "cuts/down", made) == data
        assert cutter.cuts >= 5

    @pytest.mark.parametrize("chunk", [0, 512 << 10])
    async def test_an_upload_goes_on(self, client: Client, registry: Registry, chunk: int) -> None:
        """docker-registry 2.8 cancels an upload that was cut inside a request ("resumed at wrong
        offset"), so there it can only be begun anew, and gets through once the cuts end."""
        data = os.urandom(5 << 20)
        times = 3 if registry.kind == "docker-registry" else 1000
        cutter = Cutter(registry.name, 1 << 20, times)
        async with cutter as name, Client(name, Registries(), anonymous(), limits=QUICK) as cut:
            made = await push(cut, f"cuts/up{chunk}", data, chunk)
        assert await pulled(client, f"cuts/up{chunk}", made) == data
        assert cutter.cuts >= 3
