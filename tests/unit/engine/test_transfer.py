"""Pull and push against a registry in memory: what is told, what is fetched, what is left."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.archives import archive_of

from skerry.base.architectures import architecture
from skerry.base.errors import (
    DigestMismatch,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnreachable,
    SystemFault,
    Unsupported,
)
from skerry.base.oci_image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    encode,
    parse_manifest,
)
from skerry.base.references import Reference, parse_reference
from skerry.engine.archives import Archives
from skerry.engine.copying import ARCHIVE, REGISTRY, Copying, Source
from skerry.engine.events import Events
from skerry.engine.sbom import Sbom
from skerry.engine.signing import Gate, Signing
from skerry.engine.transfer import Transfer, parse_platform, server_name
from skerry.engine.transfer_progress import Feed, bar, human_size, layer_message
from skerry.registry.client import Client, Document, ImageManifest
from skerry.store import Store, open_store, referrers
from skerry.store.formats.intake import Choice
from skerry.store.limits import Unpacking
from skerry.trust import keys
from skerry.trust.payload import encode_payload
from skerry.trust.signatures import make_signature, signature_tag

PIECE = 1000
UNKNOWN = "not found: MANIFEST_UNKNOWN: manifest unknown (HTTP 404)"


def layer(name: str, size: int = 3000) -> bytes:
    """A plain layer of one file."""
    return archive_of({name: name.encode()[:1] * size})


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Memory:
    """A registry in memory that counts what is asked."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.repositories: dict[str, set[str]] = {}
        self.manifests: dict[tuple[str, str], Document] = {}
        self.fetched: list[str] = []
        self.starts: list[int] = []
        self.cut = 0
        self.sent: list[str] = []
        self.mounted: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.started: asyncio.Event | None = None

    def put(self, repository: str, data: bytes) -> Descriptor:
        digest = digest_of(data)
        self.blobs[digest] = data
        self.repositories.setdefault(repository, set()).add(digest)
        return Descriptor(OCI_LAYER, digest, len(data))

    def image(self, repository: str, tag: str, layers: list[bytes], **changes: Any) -> Document:
        descriptors = [self.put(repository, data) for data in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Labels": {"tag": tag}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
        } | changes
        about = self.put(repository, json.dumps(config).encode())
        about = Descriptor(OCI_CONFIG, about.digest, about.size)
        data = encode(Manifest(2, about, descriptors, OCI_MANIFEST))
        document = Document(data, OCI_MANIFEST, digest_of(data))
        self.manifests[repository, tag] = self.manifests[repository, document.digest] = document
        return document

    def index(self, repository: str, tag: str, parts: dict[str, Document], kind: str) -> Document:
        """An index of images by architecture."""
        listed = [
            msgspec.structs.replace(each.descriptor, platform=Platform(architecture, "linux"))
            for architecture, each in parts.items()
        ]
        data = encode(Index(2, listed, kind))
        document = Document(data, kind, digest_of(data))
        self.manifests[repository, tag] = self.manifests[repository, document.digest] = document
        return document


class MemoryClient:
    """What `registry.client.Client` promises, over `Memory`."""

    def __init__(self, registry: Memory) -> None:
        self.registry = registry
        self.closed = False

    async def __aenter__(self) -> "MemoryClient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed = True

    async def image(
        self, repository: str, reference: str, platform: Platform | None = None
    ) -> ImageManifest:
        if self.registry.failure:
            raise self.registry.failure
        try:
            document = self.registry.manifests[repository, reference]
        except KeyError:
            raise RegistryNotFound("hub", f"{repository}:{reference}", UNKNOWN) from None
        return ImageManifest((document,), parse_manifest(document.data))

    async def blob(
        self, repository: str, descriptor: Descriptor, start: int = 0, **_: object
    ) -> AsyncIterator[bytes]:
        assert not self.closed
        self.registry.fetched.append(descriptor.digest)
        self.registry.starts.append(start)
        data = self.registry.blobs[descriptor.digest]
        if self.registry.started:
            self.registry.started.set()
        for at in range(start, len(data), PIECE):
            if self.registry.cut and at >= self.registry.cut:
                raise RegistryUnreachable("hub", repository, "the connection was cut")
            await asyncio.sleep(0)
            yield data[at : at + PIECE]
            if self.registry.gate:
                await self.registry.gate.wait()

    async def manifest(self, repository: str, reference: str, accept: object = ()) -> Document:
        try:
            return self.registry.manifests[repository, reference]
        except KeyError:
            raise RegistryNotFound("hub", f"{repository}:{reference}", UNKNOWN) from None

    async def resolve(self, repository: str, reference: str) -> Descriptor:
        return (await self.manifest(repository, reference)).descriptor

    async def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> list[Descriptor]:
        found = {
            document.digest: (document.descriptor, parse_manifest(document.data))
            for (name, _), document in self.registry.manifests.items()
            if name == repository and document.media_type == OCI_MANIFEST
        }
        return [
            each
            for each, manifest in found.values()
            if manifest.subject and manifest.subject.digest == digest
            if artifact_type in ("", manifest.artifact_type)
        ]

    async def read_blob(self, repository: str, descriptor: Descriptor, limit: int = 0) -> bytes:
        return self.registry.blobs[descriptor.digest]

    async def tags(self, repository: str) -> list[str]:
        return sorted(t for r, t in self.registry.manifests if r == repository and ":" not in t)

    async def has_blob(self, repository: str, digest: str) -> bool:
        return digest in self.registry.repositories.get(repository, ())

    async def mount_blob(self, repository: str, digest: str, from_: str) -> bool:
        if digest not in self.registry.repositories.get(from_, ()):
            return False
        self.registry.repositories.setdefault(repository, set()).add(digest)
        self.registry.mounted.append((digest, from_))
        return True

    async def push_blob(
        self, repository: str, descriptor: Descriptor, opener: Any, *, report: Any = None
    ) -> None:
        with opener(0) as file:
            data = file.read()
        if report:
            report(len(data))
        assert self.registry.put(repository, data).digest == descriptor.digest
        self.registry.sent.append(descriptor.digest)

    async def put_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str
    ) -> str:
        document = Document(data, media_type, digest_of(data))
        self.registry.manifests[repository, reference] = document
        self.registry.manifests[repository, document.digest] = document
        return document.digest


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def registry() -> Memory:
    return Memory()


class Over(Transfer):
    """The service over the registry in memory."""

    def __init__(self, store: Store, registry: Memory) -> None:
        super().__init__(store, Events(), "")
        self.memory = registry

    def client(self, registry: str, credential: object = None) -> Client:
        return cast("Client", MemoryClient(self.memory))


@pytest.fixture
def transfer(store: Store, registry: Memory) -> Over:
    return Over(store, registry)


async def told(messages: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message async for message in messages]


def lines(messages: list[dict[str, Any]], id: str = "") -> list[str]:
    """The statuses, of one layer or of none."""
    short = id.partition(":")[2][:12] if id else ""
    return [each["status"] for each in messages if each.get("id", "") == short and "status" in each]


def left(store: Store) -> tuple[list[str], list[str], list[str]]:
    """Blobs, layers and temporary files."""
    tmp = [path.name for path in Path(store.scratch.tmp).iterdir()]
    return store.blobs.all(), store.layers.all(), tmp


class TestPull:
    async def test_by_tag(self, transfer: Over, store: Store, registry: Memory) -> None:
        one, two = layer("one"), layer("two")
        document = registry.image("library/app", "latest", [one, two])
        messages = await told(transfer.pull("app:latest"))
        assert messages[0] == {"status": "Pulling from library/app", "id": "latest"}
        assert messages[-2:] == [
            {"status": f"Digest: {document.digest}"},
            {"status": "Status: Downloaded newer image for app:latest"},
        ]
        for data in (one, two):
            said = list(dict.fromkeys(lines(messages, digest_of(data))))
            assert said[0] == "Pulling fs layer"
            assert said[-1] == "Pull complete"
            assert said.index("Verifying Checksum") < said.index("Download complete")
        image = store.images.get("app")
        assert image.digests == (f"app@{document.digest}",)
        assert Path(store.layers.path(digest_of(one)), "one").read_bytes() == b"o" * 3000
        assert left(store)[2] == []

    async def test_again_fetches_nothing(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        registry.image("library/app", "latest", [layer("one")])
        await told(transfer.pull("app:latest"))
        registry.fetched.clear()
        messages = await told(transfer.pull("app:latest"))
        assert registry.fetched == []
        assert [each["status"] for each in messages][2:] == [
            "Status: Image is up to date for app:latest"
        ]

    async def test_fetches_only_new_layers(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        shared, new = layer("shared"), layer("new")
        registry.image("library/app", "v1", [shared])
        await told(transfer.pull("app:v1"))
        registry.fetched.clear()
        registry.image("library/app", "v2", [shared, new])
        messages = await told(transfer.pull("app:v2"))
        assert registry.fetched == [digest_of(new)]
        assert lines(messages, digest_of(shared)) == ["Already exists"]

    async def test_by_digest(self, transfer: Over, store: Store, registry: Memory) -> None:
        document = registry.image("team/app", "v1", [layer("one")])
        name = f"team/app@{document.digest}"
        messages = await told(transfer.pull(name))
        assert messages[-1] == {"status": f"Status: Downloaded newer image for {name}"}
        image = store.images.get(name)
        assert (image.tags, image.digests) == ((), (name,))
        again = await told(transfer.pull(name))
        assert again[-1] == {"status": f"Status: Image is up to date for {name}"}

    async def test_all_tags(self, transfer: Over, store: Store, registry: Memory) -> None:
        for tag in ("a", "b", "c"):
            registry.image("team/app", tag, [layer("base"), layer(tag)])
        await told(transfer.pull("team/app"))
        assert {tag for image in store.images.list() for tag in image.tags} == {
            "team/app:a",
            "team/app:b",
            "team/app:c",
        }
        assert registry.fetched.count(digest_of(layer("base"))) == 1

    async def test_a_layer_twice_in_an_image(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        same = layer("same")
        registry.image("team/app", "v1", [same, layer("x"), same])
        await told(transfer.pull("team/app:v1"))
        assert registry.fetched.count(digest_of(same)) == 1
        assert len(store.images.get("team/app:v1").layers) == 3

    async def test_two_clients_share_a_layer(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        shared = layer("shared", 50_000)
        registry.image("team/app", "v1", [shared])
        registry.image("team/app", "v2", [shared, layer("more")])
        one, two = await asyncio.gather(
            told(transfer.pull("team/app:v1")), told(transfer.pull("team/app:v2"))
        )
        assert registry.fetched.count(digest_of(shared)) == 1
        assert lines(one, digest_of(shared))[-1] == lines(two, digest_of(shared))[-1]

    async def test_the_first_of_two_leaves(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        shared = layer("shared", 50_000)
        registry.image("team/app", "v1", [shared])
        registry.gate, registry.started = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(told(transfer.pull("team/app:v1")))
        await registry.started.wait()
        second = asyncio.create_task(told(transfer.pull("team/app:v1")))
        flight = next(iter(transfer._layers._flights.values()))
        while len(flight._listeners) < 2:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        registry.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert registry.fetched.count(digest_of(shared)) == 1
        assert store.images.get("team/app:v1").tags == ("team/app:v1",)

    async def test_a_client_that_leaves_ends_the_pull(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        registry.image("team/app", "v1", [layer("one", 50_000)])
        registry.gate, registry.started = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(told(transfer.pull("team/app:v1")))
        await registry.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _, layers, tmp = left(store)
        assert (layers, tmp, store.images.list()) == ([], [], [])
        assert transfer._layers._flights == {}
        store.gc.collect()
        assert left(store)[0] == []


class TestBombs:
    """What would become far too much is refused, and nothing of it stays."""

    async def test_a_layer(self, transfer: Over, store: Store, registry: Memory) -> None:
        data = layer("large", 8 << 20)
        packed = gzip.compress(data)
        document = registry.image("team/app", "v1", [packed])
        config = json.loads(registry.blobs[parse_manifest(document.data).config.digest])
        config["rootfs"]["diff_ids"] = [digest_of(data)]
        about = registry.put("team/app", json.dumps(config).encode())
        about = Descriptor(OCI_CONFIG, about.digest, about.size)
        layers = [Descriptor(OCI_LAYER_GZIP, digest_of(packed), len(packed))]
        manifest = encode(Manifest(2, about, layers, OCI_MANIFEST))
        found = Document(manifest, OCI_MANIFEST, digest_of(manifest))
        registry.manifests["team/app", "v1"] = found
        limits = store.layers.limits
        store.layers.limits = limits._replace(unpacking=Unpacking(unquestioned=2 << 20))
        with pytest.raises(
            LimitExceeded, match=r"docker.io/team/app:v1: layer .* a bomb"
        ) as caught:
            await told(transfer.pull("team/app:v1"))
        assert "limits.toml" in caught.value.hint
        assert left(store) == ([], [], [])
        store.layers.limits = limits
        await told(transfer.pull("team/app:v1"))

    async def test_a_manifest_that_wants_the_whole_disk(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        document = registry.image("team/app", "v1", [layer("one")])
        manifest = parse_manifest(document.data)
        layers = [Descriptor(OCI_LAYER, each.digest, 1 << 50) for each in manifest.layers]
        data = encode(Manifest(2, manifest.config, layers, OCI_MANIFEST))
        registry.manifests["team/app", "v1"] = Document(data, OCI_MANIFEST, digest_of(data))
        registry.fetched.clear()
        with pytest.raises(SystemFault, match=r"team/app:v1: layers: no room for 1024 TiB"):
            await told(transfer.pull("team/app:v1"))
        assert left(store) == ([], [], []) and registry.fetched == []


class TestPullGoesOn:
    """A layer that came in half is not fetched from its start again."""

    async def cut(self, transfer: Over, registry: Memory) -> bytes:
        """A pull that the network ends behind two megabytes of a layer."""
        data = layer("large", 3 << 20)
        registry.image("team/app", "v1", [data])
        registry.cut = 2 << 20
        with pytest.raises(RegistryUnreachable):
            await told(transfer.pull("team/app:v1"))
        registry.cut = 0
        registry.starts.clear()
        return data

    async def test_with_the_next_pull(self, transfer: Over, store: Store, registry: Memory) -> None:
        data = await self.cut(transfer, registry)
        assert left(store)[1:] == ([], [])
        (kept,) = store.blobs.partials.idle()
        size = Path(kept).stat().st_size
        assert size >= 2 << 20
        await told(transfer.pull("team/app:v1"))
        assert registry.starts == [size]
        assert Path(store.blobs.path(digest_of(data))).read_bytes() == data
        assert list(Path(store.blobs.partials.folder).iterdir()) == []

    async def test_after_a_crash_in_the_middle_of_it(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        data = await self.cut(transfer, registry)
        (kept,) = store.blobs.partials.idle()
        # As a killed engine leaves it: somebody was writing, and all had come.
        Path(kept).unlink()
        Path(f"{kept}.0123456789ab").write_bytes(data)
        store.close()
        with open_store(store.root) as again:
            await told(Over(again, registry).pull("team/app:v1"))
            assert registry.starts == []
            assert again.images.get("team/app:v1").size > 0

    @pytest.mark.parametrize("wrong", [False, True])
    async def test_with_a_copy(
        self, transfer: Over, store: Store, registry: Memory, wrong: bool
    ) -> None:
        data = layer("large", 3 << 20)
        registry.image("team/app", "v1", [data])
        registry.cut = 2 << 20
        copying = Copying(store, Archives(store, Events()), transfer)

        async def copied() -> None:
            assert [line async for line in copying.to_image(Source(REGISTRY, "team/app:v1"), "")]

        with pytest.raises(RegistryUnreachable):
            await copied()
        (kept,) = store.blobs.partials.idle()
        size = Path(kept).stat().st_size
        if wrong:
            Path(kept).write_bytes(b"x" * size)
        registry.cut = 0
        registry.starts.clear()
        await copied()
        assert size in registry.starts
        assert Path(store.blobs.path(digest_of(data))).read_bytes() == data
        assert list(Path(store.blobs.partials.folder).iterdir()) == []

    async def test_a_wrong_beginning_costs_a_download(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        data = await self.cut(transfer, registry)
        (kept,) = store.blobs.partials.idle()
        Path(kept).write_bytes(b"x" * (1 << 20))
        await told(transfer.pull("team/app:v1"))
        assert registry.starts == [1 << 20, 0]
        assert Path(store.blobs.path(digest_of(data))).read_bytes() == data

    async def test_is_accounted_for_and_goes(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        await self.cut(transfer, registry)
        used = store.gc.usage()
        assert used.categories["temporary"].reclaimable >= 2 << 20
        store.gc.empty_trash()
        assert len(store.blobs.partials.idle()) == 1
        (kept,) = store.blobs.partials.idle()
        os.utime(kept, (1, 1))
        store.gc.empty_trash()
        assert store.blobs.partials.idle() == []
        await self.cut(transfer, registry)
        assert store.gc.collect().bytes >= 2 << 20
        assert store.gc.usage().categories["temporary"].reclaimable == 0


class TestPullRefused:
    async def test_wrong_bytes_leave_nothing(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        good, bad = layer("good"), layer("bad")
        registry.image("team/app", "v1", [good, bad])
        registry.blobs[digest_of(bad)] = layer("evil")
        with pytest.raises(DigestMismatch, match=digest_of(bad)) as caught:
            await told(transfer.pull("team/app:v1"))
        assert "docker.io/team/app:v1" in caught.value.message
        assert left(store) == ([], [], [])

    async def test_wrong_diff_id_leaves_nothing(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        rootfs = {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
        registry.image("team/app", "v1", [layer("one")], rootfs=rootfs)
        with pytest.raises(DigestMismatch) as caught:
            await told(transfer.pull("team/app:v1"))
        assert "docker.io/team/app:v1" in caught.value.message
        assert left(store) == ([], [], [])

    async def test_no_archive_leaves_nothing(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        registry.image("team/app", "v1", [b"no archive at all" * 100])
        with pytest.raises(InvalidInput) as caught:
            await told(transfer.pull("team/app:v1"))
        assert "docker.io/team/app:v1" in caught.value.message
        assert left(store) == ([], [], [])

    @pytest.mark.parametrize(
        "changes",
        [
            {"rootfs": {"type": "layers", "diff_ids": []}},
            {"rootfs": {"type": "odd", "diff_ids": []}},
            {"os": "windows"},
        ],
    )
    async def test_config_that_does_not_fit(
        self, transfer: Over, store: Store, registry: Memory, changes: dict[str, Any]
    ) -> None:
        registry.image("team/app", "v1", [layer("one")], **changes)
        with pytest.raises(InvalidInput, match="team/app:v1"):
            await told(transfer.pull("team/app:v1"))
        assert registry.fetched == []
        assert left(store) == ([], [], [])

    async def test_other_platform(self, transfer: Over, store: Store, registry: Memory) -> None:
        registry.image("team/app", "v1", [layer("one")])
        with pytest.raises(NotFound, match=r"linux/amd64.*does not match.*linux/arm64"):
            await told(transfer.pull("team/app:v1", platform="linux/arm64"))
        assert store.images.list() == []

    async def test_policy(self, transfer: Over, store: Store, registry: Memory) -> None:
        class No:
            async def admit(
                self, client: Client, reference: Reference, image: ImageManifest
            ) -> None:
                raise Forbidden(f"{reference.familiar}: not signed")

        transfer.policy = No()
        registry.image("team/app", "v1", [layer("one")])
        with pytest.raises(Forbidden):
            await told(transfer.pull("team/app:v1"))
        assert registry.fetched == []
        assert left(store) == ([], [], [])

    async def test_dockers_words(self, transfer: Over, registry: Memory) -> None:
        with pytest.raises(
            NotFound,
            match=r"^manifest for team/app:v1 not found: manifest unknown: manifest unknown$",
        ):
            await told(transfer.pull("team/app:v1"))
        registry.failure = RegistryUnauthorized(
            "docker.io", "team/app:v1", "authentication required"
        )
        with pytest.raises(
            NotFound,
            match="pull access denied for team/app, repository does not exist or may require "
            "'docker login': authentication required",
        ):
            await told(transfer.pull("team/app:v1"))
        registry.failure = RegistryUnreachable("docker.io", "team/app:v1", "no route")
        with pytest.raises(RegistryUnreachable, match="no route"):
            await told(transfer.pull("team/app:v1"))


class TestPush:
    async def test_push_and_again(self, transfer: Over, store: Store, registry: Memory) -> None:
        document = registry.image("library/app", "latest", [layer("one"), layer("two")])
        await told(transfer.pull("app:latest"))
        store.images.tag("app", "host:5000/team/copy:v1")
        messages = await told(transfer.push("host:5000/team/copy", tag="v1"))
        assert messages[0] == {"status": "The push refers to repository [host:5000/team/copy]"}
        assert messages[-2:] == [
            {"status": f"v1: digest: {document.digest} size: {len(document.data)}"},
            {
                "progressDetail": {},
                "aux": {"Tag": "v1", "Digest": document.digest, "Size": len(document.data)},
            },
        ]
        assert set(lines(messages, digest_of(layer("one")))) >= {"Preparing", "Pushed"}
        assert len(registry.sent) == 3
        assert registry.manifests["team/copy", "v1"].data == document.data
        assert f"host:5000/team/copy@{document.digest}" in store.images.get("app").digests
        registry.sent.clear()
        again = await told(transfer.push("host:5000/team/copy", tag="v1"))
        assert registry.sent == []
        assert lines(again, digest_of(layer("one"))) == ["Preparing", "Layer already exists"]

    async def test_plain_layers_are_gzipped(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        one = layer("one")
        with store.leases.hold():
            document = registry.image("elsewhere", "v1", [one])
            for digest in registry.repositories.pop("elsewhere"):
                store.blobs.put(registry.blobs[digest])
            made = store.images.add(document.data, tags=["host:5000/team/app:v1"])
        messages = await told(transfer.push("host:5000/team/app", tag="v1"))
        pushed = registry.manifests["team/app", "v1"]
        (sent,) = parse_manifest(pushed.data).layers
        assert sent.media_type == OCI_LAYER_GZIP
        assert gzip.decompress(registry.blobs[sent.digest]) == one
        image = store.images.get("host:5000/team/app:v1")
        assert (image.id, image.layers) == (made.id, made.layers)
        assert image.digests == (f"host:5000/team/app@{pushed.digest}",)
        assert set(store.blobs.all()) == {image.id, pushed.digest, sent.digest}
        assert lines(messages, digest_of(one))[0] == "Preparing"
        registry.sent.clear()
        await told(transfer.push("host:5000/team/app", tag="v1"))
        assert registry.sent == []

    async def test_mounts(self, transfer: Over, store: Store, registry: Memory) -> None:
        registry.image("team/app", "v1", [layer("one")])
        await told(transfer.pull("host:5000/team/app:v1"))
        store.images.tag("host:5000/team/app:v1", "host:5000/other/app:v1")
        messages = await told(transfer.push("host:5000/other/app", tag="v1"))
        assert (digest_of(layer("one")), "team/app") in registry.mounted
        assert "Mounted from team/app" in lines(messages, digest_of(layer("one")))

    async def test_all_tags(self, transfer: Over, store: Store, registry: Memory) -> None:
        registry.image("team/app", "v1", [layer("one")])
        await told(transfer.pull("team/app:v1"))
        for tag in ("a", "b"):
            store.images.tag("team/app:v1", f"host:5000/x:{tag}")
        await told(transfer.push("host:5000/x"))
        assert {("x", "a"), ("x", "b")} <= set(registry.manifests)

    async def test_refused(self, transfer: Over) -> None:
        with pytest.raises(NotFound, match="does not exist locally with the tag: team/app"):
            await told(transfer.push("team/app", tag="v1"))
        with pytest.raises(InvalidInput, match="digest reference"):
            await told(transfer.push(f"team/app@sha256:{'0' * 64}"))


class TestWords:
    def test_bar(self) -> None:
        assert bar(0, 0) == ""
        assert bar(500, 0) == "    500B"
        assert bar(500, 1000) == f"[{'=' * 25}>{' ' * 25}]     500B/1kB"
        assert bar(1000, 1000) == f"[{'=' * 50}>]      1kB/1kB"
        assert human_size(2_901_136) == "2.901MB"

    async def test_a_slow_reader_gets_the_newest_bytes(self) -> None:
        feed = Feed()
        for current in range(1, 1000):
            feed.tell(layer_message("a", "Downloading", current, 1000))
        feed.tell(layer_message("a", "Download complete"))
        feed.end()
        messages = [message async for message in feed.messages()]
        assert [each["progressDetail"] for each in messages] == [
            {"current": 999, "total": 1000},
            {},
        ]

    @pytest.mark.parametrize(
        ("text", "platform"),
        [
            ("", None),
            ("linux", None),
            ("arm64", Platform("arm64", "linux")),
            ("linux/x86_64", Platform("amd64", "linux")),
            ("linux/arm64/v8", Platform("arm64", "linux", variant="v8")),
        ],
    )
    def test_platforms(self, text: str, platform: Platform | None) -> None:
        assert parse_platform(text) == platform

    @pytest.mark.parametrize("text", ["windows/amd64", "linux//", "a/b/c/d", "linux/amd64\n"])
    def test_no_platforms(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            parse_platform(text)

    def test_servers(self) -> None:
        for hub in ("", "https://index.docker.io/v1/", "docker.io"):
            assert server_name(hub) == "docker.io"
        assert server_name("http://127.0.0.1:5000") == "127.0.0.1:5000"
        assert server_name("host:5000/v2/") == "host:5000"


class TestArtifacts:
    """A bill of materials that is kept here lives with its image and is pushed along."""

    async def test_it_goes_along_and_goes(
        self, transfer: Over, store: Store, registry: Memory
    ) -> None:
        registry.image("team/app", "v1", [layer("one")])
        await told(transfer.pull("team/app:v1"))
        bills = Sbom(store, cast(Any, transfer))
        first = await bills.keep("team/app:v1", "spdx-json")
        assert await bills.keep("team/app:v1", "spdx-json") == first
        await bills.keep("team/app:v1", "cyclonedx-json")
        assert len(bills.kept("team/app:v1")) == 2
        store.gc.collect()
        store.images.tag("team/app:v1", "host:5000/team/copy:v1")
        await told(transfer.push("host:5000/team/copy:v1"))
        kept = bills.kept("team/app:v1")
        subject = store.images.get("team/app:v1").manifest
        for each in kept:
            sent = registry.manifests["team/copy", each.digest]
            assert json.loads(sent.data)["subject"]["digest"] == subject
            assert set(each.blobs) <= registry.repositories["team/copy"]
        for name in ("team/app:v1", "host:5000/team/copy:v1"):
            store.images.remove(name)
        store.gc.collect()
        assert left(store)[0] == []
        assert store.records.all("referrer") == []


class Signed:
    """Two stores and a registry with an image that two have signed, one by the tag alone."""

    def __init__(self, root: Path, transfer: Over, store: Store, registry: Memory) -> None:
        self.root, self.transfer, self.store, self.registry = root, transfer, store, registry
        self.archives = Archives(store, Events())
        self.copying = Copying(store, self.archives, transfer)
        self.key, public = keys.generate()
        (root / "team.pub").write_bytes(public)

    async def sign(self, name: str) -> None:
        signing = Signing(self.transfer, str(self.root / "none"))
        for by in ("one", "two"):
            subject = await signing.resolve(name)
            payload = encode_payload(parse_reference(name), subject.digest, {"by": by})
            value = keys.sign(keys.load_private(self.key), payload)
            await signing.attach(name, make_signature(payload, value))
        manifests = self.registry.manifests
        # As other tools sign: below the tag alone.
        del manifests[next(at for at, each in manifests.items() if b'"subject"' in each.data)]

    def policy(self, archives: Archives, **rule: object) -> None:
        rule = {"rule": "signedBy", "keys": [str(self.root / "team.pub")]} | rule
        path = self.root / "policy.json"
        path.write_text(json.dumps({"version": 1, "default": rule}))
        archives.policy = Gate(str(self.root), "/nowhere")

    async def archive(self, source: Source) -> bytes:
        return b"".join([piece async for piece in self.copying.to_archive(source, "team/app:v1")])


@pytest.fixture
async def signed(tmp_path: Path, transfer: Over, store: Store, registry: Memory) -> Signed:
    registry.image("team/app", "v1", [layer("one")])
    made = Signed(tmp_path, transfer, store, registry)
    await made.sign("team/app:v1")
    return made


def index_of(archive: bytes) -> list[dict[str, Any]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile("index.json")
        assert file
        found: list[dict[str, Any]] = json.load(file)["manifests"]
    return found


class TestReferrersTravel:
    """Signatures and bills go along by copies and archives, and vouch for what a file brings."""

    async def test_from_a_registry_into_another_store_and_on(
        self, signed: Signed, store: Store, registry: Memory
    ) -> None:
        [_ async for _ in signed.copying.to_image(Source(REGISTRY, "team/app:v1"), "")]
        bills = Sbom(store, signed.transfer)
        await bills.keep("team/app:v1", "spdx-json")
        before = {each.digest for each in bills.kept("team/app:v1")}
        assert len(before) == 3
        store.gc.collect()
        data = b"".join(store.images.save(["team/app:v1"], "oci-archive", referrers=True))
        named, *about = index_of(data)
        assert "annotations" in named and not any("annotations" in each for each in about)
        assert {each["digest"] for each in about} == before
        assert len(index_of(b"".join(store.images.save(["team/app:v1"], "oci-archive")))) == 1
        with open_store(str(signed.root / "other")) as other:
            archives = Archives(other, Events())
            signed.policy(archives)
            await told(archives.load(io.BytesIO(data)))
            kept = referrers.about(other.images, other.images.get("team/app:v1").manifest)
            assert {each.digest for each in kept} == before
            other.gc.collect()
            over = Over(other, registry)
            other.images.tag("team/app:v1", "host:5000/copy:v1")
            await told(over.push("host:5000/copy:v1"))
        subject = store.images.get("team/app:v1").manifest
        found = await MemoryClient(registry).referrers("copy", subject)
        assert {each.digest for each in found} == before
        tag = registry.manifests["copy", signature_tag(subject)]
        assert len(parse_manifest(tag.data).layers) == 2

    async def test_what_only_passes_through_leaves_nothing(
        self, signed: Signed, store: Store, registry: Memory
    ) -> None:
        data = await signed.archive(Source(REGISTRY, "team/app:v1"))
        assert len(index_of(data)) == 3
        assert (
            len(index_of(await signed.archive(Source(REGISTRY, "team/app:v1", referrers=False))))
            == 1
        )
        source = Source(ARCHIVE, "team/app:v1", io.BytesIO(data))
        await told(signed.copying.to_registry(source, "host:5000/copy:v1"))
        (tag,) = [
            name
            for repository, name in registry.manifests
            if name.endswith(".sig") and repository == "copy"
        ]
        assert left(store) == ([], [], [])
        assert store.records.all("referrer") == []
        assert parse_manifest(registry.manifests["copy", tag].data).layers

    @pytest.mark.parametrize(
        ("name", "rule", "said"),
        [
            ("team/app:v1", {"threshold": 2, "keys": ["team.pub", "team.pub"]}, None),
            ("team/other:v1", {}, "the signature is for docker.io/team/app"),
            ("team/app:v1", {"keys": ["other.pub"]}, "was not made with a trusted key"),
        ],
    )
    async def test_a_signature_that_does_not_fit(
        self, signed: Signed, store: Store, name: str, rule: dict[str, Any], said: str | None
    ) -> None:
        data = await signed.archive(Source(REGISTRY, "team/app:v1"))
        (signed.root / "other.pub").write_bytes(keys.generate()[1])
        signed.policy(signed.archives, **rule)
        source = Source(ARCHIVE, "team/app:v1", io.BytesIO(data))
        with pytest.raises((Forbidden, InvalidInput), match=said):
            await told(signed.copying.to_image(source, name))
        assert left(store) == ([], [], [])
        assert store.records.all("referrer") == []

    async def test_what_lies_about_itself(self, signed: Signed, store: Store) -> None:
        """A referrer without its blob, and one about an image that is not in the archive."""
        data = await signed.archive(Source(REGISTRY, "team/app:v1"))
        listed = index_of(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        manifest = json.loads(members["blobs/sha256/" + listed[1]["digest"][7:]])
        missing = "blobs/sha256/" + manifest["layers"][0]["digest"][7:]
        lost = archive_of({name: each for name, each in members.items() if name != missing})
        with pytest.raises(NotFound, match="it has no blob"):
            await told(signed.archives.load(io.BytesIO(lost)))
        assert left(store) == ([], [], [])
        other = json.dumps({"schemaVersion": 2, "manifests": listed[1:]}).encode()
        alone = archive_of(members | {"index.json": other})
        with pytest.raises(InvalidInput, match="it holds no image"):
            await told(signed.archives.load(io.BytesIO(alone)))
        assert left(store) == ([], [], [])


class TestWholeIndexes:
    """`copy --all` and `copy --platform`."""

    @pytest.fixture
    def parts(self, registry: Memory) -> dict[str, Document]:
        return {
            each: registry.image("team/app", f"one-{each}", [layer(each)], architecture=each)
            for each in ("amd64", "arm64", "riscv64")
        }

    async def test_registry_to_archive_to_registry(
        self, signed: Signed, store: Store, registry: Memory, parts: dict[str, Document]
    ) -> None:
        """Digests survive, and so does what is signed: the index."""
        nested = registry.index("team/app", "nested", {"riscv64": parts.pop("riscv64")}, OCI_INDEX)
        root = registry.index("team/app", "all", parts | {"riscv64": nested}, OCI_INDEX)
        await signed.sign("team/app:all")
        about = {
            each.digest for each in await MemoryClient(registry).referrers("team/app", root.digest)
        }
        source = Source(REGISTRY, "team/app:all", choice=Choice(whole=True))
        signed.policy(signed.archives)
        signed.transfer.policy = signed.archives.policy
        data = await signed.archive(source)
        named, *others = index_of(data)
        assert (named["digest"], named["mediaType"]) == (root.digest, OCI_INDEX)
        assert {each["digest"] for each in others} >= about and len(others) == 2
        back = Source(ARCHIVE, "team/app:v1", io.BytesIO(data), choice=Choice(whole=True))
        await told(signed.copying.to_registry(back, "host:5000/copy:v1"))
        assert registry.manifests["copy", "v1"] == root
        for each in (*parts.values(), nested, root):
            assert registry.manifests["copy", each.digest] == each
        assert registry.repositories["copy"] > {digest_of(layer(each)) for each in parts}
        assert len(await MemoryClient(registry).referrers("copy", root.digest)) == 2
        await told(signed.copying.to_registry(source, "host:5000/straight:v1"))
        assert registry.manifests["straight", "v1"] == root
        assert left(store) == ([], [], [])

    async def test_one_platform_out_of_an_archive(
        self, signed: Signed, store: Store, registry: Memory, parts: dict[str, Document]
    ) -> None:
        registry.index("team/app", "all", parts, OCI_INDEX)
        data = await signed.archive(Source(REGISTRY, "team/app:all", choice=Choice(whole=True)))
        for choice, found in (
            (Choice(Platform("arm64", "linux")), parts["arm64"]),
            (Choice(), parts[architecture()]),
        ):
            source = Source(ARCHIVE, "", io.BytesIO(data), choice=choice)
            assert index_of(await signed.archive(source))[0]["digest"] == found.digest
        absent = Source(ARCHIVE, "", io.BytesIO(data), choice=Choice(Platform("s390x", "linux")))
        with pytest.raises(InvalidInput, match="holds no image"):
            await signed.archive(absent)

    async def test_an_index_vouches_for_its_images(
        self, signed: Signed, store: Store, registry: Memory, parts: dict[str, Document]
    ) -> None:
        registry.index("team/app", "all", parts, OCI_INDEX)
        await signed.sign("team/app:all")
        data = await signed.archive(Source(REGISTRY, "team/app:all", choice=Choice(whole=True)))
        signed.policy(signed.archives)
        await told(signed.archives.load(io.BytesIO(data)))
        image = store.images.get("team/app:v1")
        assert image.manifest == parts[architecture()].digest
        assert not referrers.about(store.images, image.manifest)
        named, *others = index_of(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        strange = registry.index(
            "team/app", "strange", parts | {"other": parts["arm64"]}, OCI_INDEX
        )
        members["blobs/sha256/" + strange.digest[7:]] = strange.data
        for listed in (
            [named],
            [named | {"digest": strange.digest, "size": len(strange.data)}, *others],
        ):
            index = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
            source = io.BytesIO(archive_of(members | {"index.json": index}))
            with pytest.raises(Forbidden, match="brings no signature"):
                await told(signed.archives.load(source))

    async def test_dockers_list_becomes_an_index_in_a_layout(
        self, signed: Signed, store: Store, registry: Memory, parts: dict[str, Document]
    ) -> None:
        del parts["riscv64"]
        for each, image in parts.items():
            document = msgspec.json.decode(image.data) | {"mediaType": DOCKER_MANIFEST}
            data = json.dumps(document).encode()
            parts[each] = Document(data, DOCKER_MANIFEST, digest_of(data))
            registry.manifests["team/app", parts[each].digest] = parts[each]
        root = registry.index("team/app", "all", parts, DOCKER_INDEX)
        source = Source(REGISTRY, "team/app:all", choice=Choice(whole=True))
        archive = await signed.archive(source)
        (named,) = index_of(archive)
        assert named["mediaType"] == OCI_INDEX and named["digest"] != root.digest
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            file = tar.extractfile("blobs/sha256/" + named["digest"][7:])
            assert file
            listed = json.load(file)["manifests"]
            assert {each["mediaType"] for each in listed} == {OCI_MANIFEST}
            assert [each["platform"]["architecture"] for each in listed] == ["amd64", "arm64"]
            for each in listed:
                assert tar.getmember("blobs/sha256/" + each["digest"][7:]).size == each["size"]

    async def test_what_holds_one_platform_takes_no_index(
        self, signed: Signed, store: Store, registry: Memory, parts: dict[str, Document]
    ) -> None:
        registry.index("team/app", "all", parts, OCI_INDEX)
        source = Source(REGISTRY, "team/app:all", choice=Choice(whole=True))
        with pytest.raises(Unsupported, match="the engine holds one platform"):
            await told(signed.copying.to_image(source, "x"))
        with pytest.raises(Unsupported, match="a docker-archive holds one platform"):
            [_ async for _ in signed.copying.to_archive(source, "x", "docker-archive")]
        assert left(store) == ([], [], [])

    @pytest.mark.parametrize("way", ["registry", "archive"])
    async def test_indexes_without_end(
        self, signed: Signed, store: Store, registry: Memory, way: str
    ) -> None:
        """Deep ones, and few documents that name one another a billion times."""
        part = registry.image("team/app", "leaf", [layer("leaf")])
        deep = wide = part
        for level in range(6):
            deep = registry.index("team/app", f"deep{level}", {"amd64": deep}, OCI_INDEX)
        for level in range(3):
            many = {f"a{n}": wide for n in range(1000)}
            wide = registry.index("team/app", f"wide{level}", many, OCI_INDEX)
        for root, said in ((deep, "nested deeper than 4"), (wide, "more than 1000 manifests")):
            if way == "registry":
                source = Source(REGISTRY, f"team/app@{root.digest}", choice=Choice(whole=True))
            else:
                documents = {each.digest: each.data for each in registry.manifests.values()}
                blobs = {
                    "blobs/sha256/" + digest[7:]: data
                    for digest, data in (documents | registry.blobs).items()
                }
                listed = encode(Index(2, [root.descriptor], OCI_INDEX))
                layout = {"oci-layout": b"{}", "index.json": listed}
                source = Source(
                    ARCHIVE, "", io.BytesIO(archive_of(blobs | layout)), choice=Choice(whole=True)
                )
            with pytest.raises(LimitExceeded, match=said):
                await signed.archive(source)
        assert left(store) == ([], [], [])
