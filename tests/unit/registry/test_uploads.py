"""Uploads that are cut, lost, answered oddly."""

import io
import os
import re

import pytest
from aiohttp import web

from skerry.base.digests import sha256
from skerry.base.errors import RegistryError, RegistryProtocol
from skerry.base.oci_image import Descriptor

BLOB = os.urandom(1_000_000)
LAYER = Descriptor("application/octet-stream", sha256(BLOB), len(BLOB))


class Uploads:
    """The upload half of a registry. `plan` holds what to do to each request with a body:
    a number of bytes after which the connection is cut, or a status to answer with."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.stored = b""
        self.plan: list[int] = []
        self.statuses: list[int] = []
        self.log: list[str] = []
        self.sessions = 0
        self.gone = False

    async def handler(self, request: web.BaseRequest) -> web.StreamResponse:
        where = f"{request.method} {request.headers.get('Content-Range', '')}".strip()
        self.log.append(where)
        if request.method == "POST":
            self.sessions += 1
            self.gone = False
            self.data.clear()
            return self.told(202)
        if self.gone:
            return web.Response(status=404)
        if request.method == "GET":
            return self.told(204)
        if request.method == "PATCH":
            start = int(request.headers["Content-Range"].partition("-")[0])
            if start != len(self.data):
                return self.told(416)
        cut = self.plan.pop(0) if self.plan and request.can_read_body else None
        async for chunk in request.content.iter_any():
            self.data += chunk
            if cut is not None and len(self.data) >= cut:
                del self.data[cut:]
                assert request.transport
                request.transport.abort()
                return web.Response()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        if request.method == "PATCH":
            return self.told(202)
        assert request.query["digest"] == LAYER.digest
        self.stored = bytes(self.data)
        return web.Response(status=201, headers={"Docker-Content-Digest": sha256(self.stored)})

    def told(self, status: int) -> web.Response:
        headers = {
            "Location": f"/v2/app/blobs/uploads/{self.sessions}?state=a%2Fb",
            "Range": f"0-{max(0, len(self.data) - 1)}",
        }
        return web.Response(status=status, headers=headers)


def opener(offset: int) -> io.BytesIO:
    return io.BytesIO(BLOB[offset:])


@pytest.mark.parametrize("chunk", [0, 300_000])
async def test_whole(servers, chunk: int) -> None:
    registry = Uploads()
    client = await servers.client(await servers.web(registry.handler))
    await client.push_blob("app", LAYER, opener, chunk=chunk)
    assert registry.stored == BLOB
    patches = [each for each in registry.log if each.startswith("PATCH")]
    assert patches == (
        ["PATCH 0-299999", "PATCH 300000-599999", "PATCH 600000-899999", "PATCH 900000-999999"]
        if chunk
        else []
    )


@pytest.mark.parametrize("chunk", [0, 400_000])
async def test_a_cut_is_taken_up_where_it_was(servers, chunk: int) -> None:
    registry = Uploads()
    registry.plan = [250_000, 500_000]
    client = await servers.client(await servers.web(registry.handler))
    sent: list[int] = []

    def counted(offset: int) -> io.BytesIO:
        sent.append(offset)
        return opener(offset)

    await client.push_blob("app", LAYER, counted, chunk=chunk)
    assert registry.stored == BLOB
    assert registry.sessions == 1
    assert sent[:3] == [0, 250_000, 500_000]


async def test_a_session_that_is_gone_is_begun_anew(servers) -> None:
    registry = Uploads()
    registry.plan = [250_000]

    async def forgetful(request: web.BaseRequest) -> web.StreamResponse:
        registry.gone = request.method == "GET"
        return await registry.handler(request)

    client = await servers.client(await servers.web(forgetful))
    await client.push_blob("app", LAYER, opener)
    assert registry.stored == BLOB
    assert registry.sessions == 2


async def test_5xx_after_all_was_sent(servers) -> None:
    registry = Uploads()
    registry.statuses = [502]
    client = await servers.client(await servers.web(registry.handler))
    await client.push_blob("app", LAYER, opener)
    assert registry.stored == BLOB


async def test_5xx_for_ever(servers) -> None:
    registry = Uploads()
    registry.statuses = [502] * 100
    name = await servers.web(registry.handler)
    client = await servers.client(name)
    with pytest.raises(RegistryError, match="HTTP 502") as caught:
        await client.push_blob("app", LAYER, opener)
    assert caught.value.message.startswith(f"{name}/app@{LAYER.digest}: ")
    assert len(registry.log) < 30


async def test_a_refusal_is_not_repeated(servers) -> None:
    registry = Uploads()
    registry.statuses = [400]
    client = await servers.client(await servers.web(registry.handler))
    with pytest.raises(RegistryProtocol, match="HTTP 400"):
        await client.push_blob("app", LAYER, opener)
    assert registry.log == ["POST", "PUT"]


@pytest.mark.parametrize("location", ["", "file:///x", "http://"])
async def test_sessions_that_lead_nowhere(servers, location: str) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(status=202, headers={"Location": location} if location else {})

    client = await servers.client(await servers.web(handler))
    with pytest.raises(RegistryProtocol, match="the upload"):
        await client.push_blob("app", LAYER, opener)


@pytest.mark.parametrize("said", ["0-99999999", "5-7", "x", "0-" + "9" * 50])
async def test_a_registry_that_claims_to_have_what_it_has_not(servers, said: str) -> None:
    """It is sent anew; a blob is never cut short by what the other side says."""
    registry = Uploads()
    registry.plan = [250_000]

    async def liar(request: web.BaseRequest) -> web.StreamResponse:
        response = await registry.handler(request)
        if request.method == "GET":
            response.headers["Range"] = said
        return response

    client = await servers.client(await servers.web(liar))
    await client.push_blob("app", LAYER, opener)
    assert registry.stored == BLOB


async def test_content_shorter_than_declared(servers) -> None:
    registry = Uploads()
    client = await servers.client(await servers.web(registry.handler))
    with pytest.raises(RegistryError, match=re.escape(LAYER.digest)):
        await client.push_blob("app", LAYER, lambda offset: io.BytesIO(BLOB[offset:999_999]))
    assert registry.stored == b""


async def test_another_digest_stored(servers) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/up"})
        return web.Response(status=201, headers={"Docker-Content-Digest": sha256(b"other")})

    client = await servers.client(await servers.web(handler))
    with pytest.raises(RegistryProtocol, match="stored sha256:"):
        await client.push_blob("app", LAYER, opener)
