"""Pulls and copies from registries that lie, over real connections: an error that names registry,
reference and reason, in little time, and a store that is as it was, file by file."""

import asyncio
import gzip
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from tests.archives import archive_of

from skerry.base.digests import sha256
from skerry.base.errors import SkerryError
from skerry.base.oci_image import (
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
)
from skerry.engine.archives import Archives
from skerry.engine.copying import REGISTRY, Copying, Source
from skerry.engine.events import Events
from skerry.engine.transfer import Transfer
from skerry.registry.auth import Credential, Credentials, anonymous
from skerry.registry.client import Client
from skerry.registry.config import Registries, RegistrySettings
from skerry.store import Store, open_store

USER = Credential("user", "secret")
AMD64 = Platform("amd64", "linux")


def tar(size: int = 5000) -> bytes:
    return archive_of({"file": b"x" * size})


def bearer(request: web.BaseRequest, more: str = "") -> web.Response:
    """Ask for a token of this very server's."""
    realm = f'Bearer realm="http://{request.host}/token"{more}'
    return web.Response(status=401, headers={"WWW-Authenticate": realm})


class Image:
    """A good image, of which each case spoils something."""

    def __init__(self) -> None:
        self.layer = tar()
        self.diff_id = sha256(self.layer)
        self.packed = gzip.compress(self.layer, mtime=0)
        self.config: dict[str, Any] = {"architecture": "amd64", "os": "linux"}
        self.blobs: dict[str, bytes] = {}
        self.documents: dict[str, bytes] = {}
        self.kind = OCI_MANIFEST
        self.layers = [self.put(self.packed, OCI_LAYER_GZIP)]

    def put(self, data: bytes, kind: str) -> Descriptor:
        self.blobs[sha256(data)] = data
        return Descriptor(kind, sha256(data), len(data))

    def manifest(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [self.diff_id] * len(self.layers)}
        config = json.dumps({"rootfs": rootfs} | self.config).encode()
        return encode(Manifest(2, self.put(config, OCI_CONFIG), self.layers, OCI_MANIFEST))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        place, _, name = request.path.rpartition("/")
        if place.endswith("/manifests"):
            data = self.documents.get(name) or (self.manifest() if name == "v1" else None)
            kind = self.kind
            if data and name != "v1":
                kind = json.loads(data).get("mediaType", kind)
            return web.Response(body=data, content_type=kind) if data else web.Response(status=404)
        if place.endswith("/blobs") and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.Response(status=200 if request.path == "/v2/" else 404)


Spoil = Callable[[Image], Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]] | None]


class Case(NamedTuple):
    spoil: Spoil
    reason: str


CASES: dict[str, Case] = {}


def case(reason: str) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        CASES[spoil.__name__] = Case(spoil, reason)
        return spoil

    return add


def document(image: Image, data: bytes, kind: str = OCI_MANIFEST) -> None:
    image.documents["v1"], image.kind = data, kind


@case("20000 layers, at most 500")
def layers_without_number(image: Image) -> None:
    document(image, encode(Manifest(2, image.layers[0], image.layers * 20_000, OCI_MANIFEST)))


@case("more than 4 indexes inside one another")
def indexes_in_indexes(image: Image) -> None:
    inner, kind = image.manifest(), OCI_MANIFEST
    for _ in range(7):
        image.documents[sha256(inner)] = inner
        entry = Descriptor(kind, sha256(inner), len(inner), platform=AMD64)
        inner, kind = encode(Index(2, [entry], OCI_INDEX)), OCI_INDEX
    document(image, inner, OCI_INDEX)


@case("more than 4096 manifests")
def a_wide_index(image: Image) -> None:
    entry = Descriptor(OCI_MANIFEST, image.layers[0].digest, 1)
    document(image, encode(Index(2, [entry] * 5000, OCI_INDEX)), OCI_INDEX)


@case("the key 'layers' comes twice")
def a_key_that_comes_twice(image: Image) -> None:
    document(image, image.manifest()[:-1] + b',"layers":[]}')


@case("malformed")
def numbers_that_are_none(image: Image) -> None:
    data = image.manifest()
    document(image, data.replace(b'"size":', b'"size":NaN,"x":', 1))


@case("nested deeper than 64")
def deep_json(image: Image) -> None:
    document(image, image.manifest()[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}")


@case("is neither an image nor an index")
def another_media_type(image: Image) -> None:
    document(image, image.manifest().replace(OCI_MANIFEST.encode(), b"text/html"), "text/html")


@case("sent as application/vnd.oci.image.index")
def a_media_type_that_lies(image: Image) -> None:
    document(image, image.manifest(), OCI_INDEX)


def without_end(place: str) -> Any:
    """Answers to paths with `place` in them never end."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if place not in request.path:
            return None
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    return answer


@case("longer than 8388608 bytes")
def a_manifest_without_end(image: Image) -> Any:
    return without_end("/manifests/")


@case("malformed")
def a_compressed_manifest(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if "/manifests/" not in request.path:
            return None
        headers = {"Content-Encoding": "gzip", "Content-Type": OCI_MANIFEST}
        return web.Response(body=gzip.compress(image.manifest()), headers=headers)

    return answer


@case("digest is sha256")
def a_digest_header_that_lies(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if "/manifests/" not in request.path:
            return None
        headers = {"Docker-Content-Digest": sha256(b"other"), "Content-Type": OCI_MANIFEST}
        return web.Response(body=image.manifest(), headers=headers)

    return answer


@case("not a digest: 'sha256:../../etc/passwd'")
def a_digest_that_is_a_path(image: Image) -> None:
    image.layers = [image.layers[0].__class__(OCI_LAYER, "sha256:../../etc/passwd", 5)]


@case("diff ids for 1 layers")
def too_few_diff_ids(image: Image) -> None:
    image.config["rootfs"] = {"type": "layers", "diff_ids": []}


@case("size 9223372036854775808 of sha256|Expected `int`|out of range|Integer value")
def a_size_beyond_all(image: Image) -> None:
    data = image.manifest()
    size = b'"size":%d}]' % len(image.packed)
    assert size in data
    document(image, data.replace(size, b'"size":%d}]' % (1 << 63)))


@case("blob|bytes, the descriptor says|bytes more")
def a_layer_that_is_longer(image: Image) -> None:
    image.blobs[image.layers[0].digest] += b"more"


@case("digest is sha256")
def a_layer_with_other_content(image: Image) -> None:
    digest = image.layers[0].digest
    image.blobs[digest] = image.blobs[digest][:-1] + b"\xff"


@case("uncompressed: digest is sha256")
def a_diff_id_that_lies(image: Image) -> None:
    image.diff_id = sha256(b"other")


@case("digest is sha256|more bytes|the descriptor says")
def a_layer_without_end(image: Image) -> Any:
    return without_end(image.layers[0].digest)


@case("the descriptor says|cut in the middle|digest is")
def a_compressed_layer(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if not request.path.endswith(image.layers[0].digest):
            return None
        body = gzip.compress(image.packed)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    return answer


@case("config: digest is sha256|config.* bytes|the descriptor says")
def a_config_with_other_content(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if "/blobs/" not in request.path or request.path.endswith(image.layers[0].digest):
            return None
        return web.Response(body=b"{}")

    return answer


@case("redirects more than 8 times")
def redirects_without_end(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        return web.Response(
            status=307, headers={"Location": f"{request.path}?{os.urandom(4).hex()}"}
        )

    return answer


@case("not accepted")
def tokens_that_are_never_enough(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response({"token": os.urandom(4).hex()})
        return bearer(request, ',service="x"')

    return answer


@case("token of more than")
def a_token_without_end(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response({"token": "x" * (2 << 20)})
        return bearer(request)

    return answer


@case("the answer is no HTTP|answer")
def a_huge_header(image: Image) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
        return web.Response(headers={"X": "y" * (256 << 10)})

    return answer


class Victim:
    """A store and the services over it, which asks one registry."""

    def __init__(self, store: Store, servers: Any, name: str, who: Credential | None) -> None:
        self.store = store
        self.transfer = Asking(store, servers, name, who)
        self.copying = Copying(store, Archives(store, Events()), self.transfer)

    def everything(self) -> list[tuple[str, str]]:
        """Every file with its content's hash, and the records."""
        self.store.scratch.empty_trash()
        root = Path(self.store.root)
        found = [
            (str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.startswith("skerry.db")
        ]
        database = sqlite3.connect(root / "skerry.db")
        try:
            return found + [(str(row), "") for row in database.execute("SELECT * FROM record")]
        finally:
            database.close()


class Asking(Transfer):
    def __init__(self, store: Store, servers: Any, name: str, who: Credential | None) -> None:
        super().__init__(store, Events(), store.root)
        one = RegistrySettings(name, name, plain_http=True)
        # None of the cases waits for an end of patience, and the machine may be busy.
        patient = servers.quick._replace(connect=60, answer=60, idle=60, document=60, list=60)
        self._given = Registries({name: one}), patient, who

    def client(self, registry: str, credential: object = None) -> Client:
        registries, limits, mine = self._given
        who = Credentials(given=mine) if mine else anonymous()
        return Client(registry, registries, who, limits=limits)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all cases: each leaves it as it was."""
    with open_store(str(tmp_path_factory.mktemp("hostile") / "root")) as opened:
        yield opened


async def drained(lines: AsyncIterator[Any]) -> None:
    async for _ in lines:
        pass


async def serve(servers: Any, image: Image, spoiled: Any) -> str:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        found = await spoiled(request) if spoiled else None
        return found or await image.answer(request)

    name: str = await servers.web(handler)
    return name


async def test_the_good_image_comes(servers: Any, tmp_path: Path) -> None:
    """Or the cases below would prove nothing."""
    name = await serve(servers, Image(), None)
    with open_store(str(tmp_path / "root")) as fresh:
        await drained(Victim(fresh, servers, name, None).transfer.pull(f"{name}/app:v1"))
        assert fresh.images.get(f"{name}/app:v1").size == 5000


@pytest.mark.parametrize("way", ["pull", "copy"])
@pytest.mark.parametrize("what", list(CASES))
async def test_a_hostile_registry(servers: Any, store: Store, what: str, way: str) -> None:
    image = Image()
    spoiled = CASES[what].spoil(image)
    name = await serve(servers, image, spoiled)
    victim = Victim(store, servers, name, USER if "token" in what else None)
    before = victim.everything()
    target = f"{name}/app:v1"
    if way == "pull":
        lines = victim.transfer.pull(target)
    else:
        lines = victim.copying.to_image(Source(REGISTRY, target), "mine:v1")
    with pytest.raises(SkerryError, match=CASES[what].reason) as caught:
        await asyncio.wait_for(drained(lines), 120)
    assert name in caught.value.message and "app" in caught.value.message
    assert victim.everything() == before
