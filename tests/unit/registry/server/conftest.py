"""A server on a port of its own, in the test's event loop, and a client that speaks raw HTTP."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from skerry.base.digests import sha256
from skerry.engine.archives import Archives
from skerry.engine.events import Events
from skerry.engine.hub import HubStorage
from skerry.registry.server import listening
from skerry.registry.server.application import Application
from skerry.registry.server.directory import Directory
from skerry.registry.server.storage import Limits
from skerry.store import Store

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error's code."""
        return str(self.json["errors"][0]["code"])


class Peer:
    """A client of one running server."""

    def __init__(self, storage: Directory, session: aiohttp.ClientSession, url: str) -> None:
        self.storage = storage
        self.session = session
        self.url = url

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send; header names have `_` for `-`."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.session.request(
            method, self.url + path, data=body, headers=named, allow_redirects=False
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def push_blob(self, repository: str, data: bytes) -> str:
        """A blob in one request; its digest."""
        digest = sha256(data)
        found = await self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert found.status == 201, found.body
        return digest

    async def push_image(self, repository: str, tag: str, *, salt: str = "", **more: Any) -> str:
        """A config, a layer and a manifest; the manifest's digest."""
        config, layer = b'{"salt":"%s"}' % salt.encode(), b"layer " + salt.encode()
        for each in (config, layer):
            await self.push_blob(repository, each)
        data = manifest(config, layer, **more)
        found = await self("PUT", f"/v2/{repository}/manifests/{tag}", data, Content_Type=OCI)
        assert found.status == 201, found.body
        return found.headers["Docker-Content-Digest"]


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    """Of these bytes."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def manifest(config: bytes, *layers: bytes, **more: Any) -> bytes:
    """An image manifest's bytes."""
    found = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(e, "application/vnd.oci.image.layer.v1.tar") for e in layers],
        **more,
    }
    return json.dumps(found).encode()


Serve = Callable[..., Any]


@pytest.fixture(params=["folder", "store"])
async def serve(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """`await serve(options, limits=, users=)`: a `Peer` of a server on a folder or a store."""
    opened: list[Any] = []
    closing: list[Store] = []

    async def start(*args: Any, limits: Limits | None = None, **named: Any) -> Peer:
        limits = limits or Limits()
        root = str(tmp_path / f"s{len(opened)}")
        if request.param == "store":
            store = Store(root)
            storage: Directory = HubStorage(root, store, Archives(store, Events()), limits)
            closing.append(store)
        else:
            storage = Directory(root, limits, sync=False)
        application = Application(storage, *args, **named)
        door = listening.Door(application, limits)
        sock = listening.listen("127.0.0.1:0")
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = await door.open(sock)
        session = aiohttp.ClientSession()
        opened.append((server, door, application, storage, session))
        return Peer(storage, session, url)

    yield start
    for server, door, application, storage, session in opened:
        await session.close()
        server.close()
        await door.close()
        application.close()
        storage.close()
    for store in closing:
        store.close()


@pytest.fixture
async def peer(serve: Serve) -> Peer:
    """A server with the defaults."""
    found: Peer = await serve()
    return found
