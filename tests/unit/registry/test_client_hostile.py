"""Registries that lie, stall, bend or break: each time an error that names registry and reference,
and never our credentials in somebody else's hands."""

import asyncio
import gzip
import io
import os
from contextlib import aclosing

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.digests import Verifier, sha256
from skerry.base.errors import (
    RegistryDenied,
    RegistryError,
    RegistryLimit,
    RegistryMismatch,
    RegistryNotFound,
    RegistryProtocol,
    RegistryRateLimited,
    RegistryUnreachable,
)
from skerry.base.oci_image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    encode,
)
from skerry.registry.auth import Credential
from skerry.registry.client import Client
from skerry.registry.listings import next_page

BLOB = os.urandom(400_000)
LAYER = Descriptor("application/octet-stream", sha256(BLOB), len(BLOB))
CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", sha256(b"{}"), 2)
MANIFEST = encode(Manifest(2, CONFIG, [LAYER], OCI_MANIFEST))
USER = Credential("user", "secret")


async def pulled(client: Client, descriptor: Descriptor = LAYER) -> bytes:
    async with aclosing(client.blob("app", descriptor)) as chunks:
        return b"".join([chunk async for chunk in chunks])


def answers(data: bytes, kind: str, status: int = 200, **headers: str):
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=data, headers={"Content-Type": kind, **headers}, status=status)

    return handler


class TestManifests:
    @pytest.mark.parametrize(
        ("data", "kind", "error", "fault"),
        [
            (b"{", OCI_MANIFEST, RegistryProtocol, "malformed"),
            (b"[]", OCI_MANIFEST, RegistryProtocol, "malformed"),
            (b"{}", OCI_MANIFEST, RegistryProtocol, "missing required field"),
            (b"\xff\xfe", OCI_MANIFEST, RegistryProtocol, "malformed"),
            (MANIFEST, DOCKER_MANIFEST, RegistryMismatch, "but says it is"),
            (b'{"manifests":[],"layers":[]}', OCI_INDEX, RegistryMismatch, "image and an index"),
            (b"<html>", "text/html", RegistryProtocol, "malformed"),
            (b"{}", "application/x-tar", RegistryProtocol, "neither an image nor an index"),
            (b'{"schemaVersion":1}', "application/json", RegistryProtocol, "old schema 1"),
            (b" " * ((4 << 20) + 1) + MANIFEST, OCI_MANIFEST, RegistryLimit, "at most 4194304"),
            (b" " * ((8 << 20) + 1), OCI_INDEX, RegistryLimit, "longer than 8388608"),
            (b"[" * 100_000, OCI_MANIFEST, RegistryProtocol, "malformed"),
            (
                b'{"schemaVersion":2,"annotations":' + b'{"a":' * 90 + b"1" + b"}" * 91,
                OCI_INDEX,
                RegistryLimit,
                "nested deeper",
            ),
        ],
    )
    async def test_refused(self, servers, data, kind, error, fault) -> None:
        name = await servers.web(answers(data, kind))
        client = await servers.client(name)
        with pytest.raises(error, match=fault) as caught:
            await client.image("app", "v1")
        assert caught.value.message.startswith(f"{name}/app:v1: ")

    async def test_a_million_layers(self, servers) -> None:
        many = encode(Manifest(2, CONFIG, [LAYER] * 501, OCI_MANIFEST))
        client = await servers.client(await servers.web(answers(many, OCI_MANIFEST)))
        with pytest.raises(RegistryLimit, match="501 layers, at most 500"):
            await client.image("app", "v1")

    async def test_a_wrong_digest(self, servers) -> None:
        client = await servers.client(await servers.web(answers(MANIFEST, OCI_MANIFEST)))
        with pytest.raises(RegistryMismatch, match="digest is"):
            await client.manifest("app", sha256(b"other"))

    async def test_a_header_that_lies(self, servers) -> None:
        handler = answers(MANIFEST, OCI_MANIFEST, **{"Docker-Content-Digest": sha256(b"other")})
        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryMismatch, match="digest is"):
            await client.manifest("app", "v1")

    async def test_indexes_without_end(self, servers) -> None:
        """Each index names another one."""
        documents: dict[str, bytes] = {}
        inner = encode(Index(2, [], OCI_INDEX))
        for _ in range(8):
            digest = sha256(inner)
            documents[digest] = inner
            platform = Platform("amd64", "linux")
            entry = Descriptor(OCI_INDEX, digest, len(inner), platform=platform)
            inner = encode(Index(2, [entry], OCI_INDEX))
        documents["v1"] = inner

        async def handler(request: web.BaseRequest) -> web.Response:
            data = documents[request.path.rpartition("/")[2]]
            return web.Response(body=data, content_type=OCI_INDEX)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryLimit, match="more than 4 indexes"):
            await client.image("app", "v1", Platform("amd64", "linux"))

    async def test_an_index_that_lies_about_size(self, servers) -> None:
        platform = Platform("amd64", "linux")
        entry = Descriptor(OCI_MANIFEST, sha256(MANIFEST), 5, platform=platform)
        index = encode(Index(2, [entry], DOCKER_INDEX))

        async def handler(request: web.BaseRequest) -> web.Response:
            if request.path.endswith("/v1"):
                return web.Response(body=index, content_type=DOCKER_INDEX)
            return web.Response(body=MANIFEST, content_type=OCI_MANIFEST)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryMismatch, match="the index says 5 of"):
            await client.image("app", "v1", platform)

    async def test_compressed_bombs_are_not_unpacked(self, servers) -> None:
        handler = answers(gzip.compress(MANIFEST), OCI_MANIFEST, **{"Content-Encoding": "gzip"})
        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryProtocol, match="malformed"):
            await client.manifest("app", "v1")

    async def test_a_registry_that_ignores_head(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            if request.method == "HEAD":
                return web.Response(status=405)
            return web.Response(body=MANIFEST, content_type="application/json")

        client = await servers.client(await servers.web(handler))
        found = await client.resolve("app", "v1")
        assert found == Descriptor(OCI_MANIFEST, sha256(MANIFEST), len(MANIFEST))


class TestBlobs:
    @pytest.mark.parametrize(
        ("data", "fault"),
        [
            (BLOB[:-1], "399999 bytes, the descriptor says 400000"),
            (BLOB + b"x", "400001 bytes, the descriptor says 400000"),
            (BLOB[:-1] + bytes([BLOB[-1] ^ 1]), "digest is sha256:"),
        ],
    )
    async def test_wrong_content(self, servers, data: bytes, fault: str) -> None:
        name = await servers.web(answers(data, "application/octet-stream"))
        client = await servers.client(name)
        with pytest.raises(RegistryMismatch, match=fault) as caught:
            await pulled(client)
        assert caught.value.message.startswith(f"{name}/app@{LAYER.digest}: ")

    async def test_an_answer_without_end(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryMismatch, match="more bytes"):
            await pulled(client)
        with pytest.raises(RegistryLimit, match="longer than"):
            await client.tags("app")

    @pytest.mark.parametrize("ranges", [True, False])
    async def test_cut_again_and_again(self, servers, ranges: bool) -> None:
        """Every connection brings 100,000 bytes; a server without ranges starts anew each time."""
        asked = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
            asked.append(start)
            end = start + 100_000
            if not ranges:
                start, end = 0, 100_000 * len(asked)
            rest = len(BLOB) - start
            status = "206 Partial" if start else "200 OK"
            place = f"Content-Range: bytes {start}-{len(BLOB) - 1}/{len(BLOB)}\r\n" if start else ""
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {rest}\r\n{place}\r\n".encode())
            writer.write(BLOB[start:end])
            await writer.drain()

        client = await servers.client(await servers.raw(talk))
        assert await pulled(client) == BLOB
        assert len(asked) >= 4
        assert asked == sorted(asked)

    async def test_one_byte_a_connection_is_too_little(self, servers) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
            end, size = len(BLOB) - 1, len(BLOB)
            place = f"Content-Range: bytes {start}-{end}/{size}\r\n" if start else ""
            status = 206 if start else 200
            writer.write(
                f"HTTP/1.1 {status} OK\r\nContent-Length: {size - start}\r\n{place}\r\n".encode()
            )
            writer.write(BLOB[start : start + 1])
            await writer.drain()

        client = await servers.client(await servers.raw(talk))
        with pytest.raises(RegistryUnreachable, match="cut in the middle"):
            await pulled(client)

    @pytest.mark.parametrize("place", ["bytes 0-5/400000", "bytes 100000-399999/7", "nonsense", ""])
    async def test_a_range_that_was_not_asked_for(self, servers, place: str) -> None:
        headers = {"Content-Range": place} if place else {}
        handler = answers(BLOB[100_000:], "application/octet-stream", 206, **headers)
        client = await servers.client(await servers.web(handler))
        with pytest.raises((RegistryProtocol, RegistryMismatch)):
            async with aclosing(client.blob("app", LAYER, 100_000)) as chunks:
                async for _ in chunks:
                    pass

    async def test_what_was_held_before_counts(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            assert request.headers["Range"] == "bytes=1000-"
            headers = {"Content-Range": "bytes 1000-399999/400000"}
            return web.Response(status=206, body=BLOB[1000:], headers=headers)

        client = await servers.client(await servers.web(handler))
        for held, right in ((BLOB[:1000], True), (b"x" * 1000, False)):
            seen = Verifier()
            seen.update(held)
            try:
                async with aclosing(client.blob("app", LAYER, 1000, seen=seen)) as chunks:
                    assert b"".join([chunk async for chunk in chunks]) == BLOB[1000:]
                assert right
            except RegistryMismatch:
                assert not right


class TestSlowness:
    @pytest.mark.parametrize("part", ["nothing", "head", "body"])
    async def test_a_slow_loris(self, servers, part: str) -> None:
        """A byte now and then, never enough to be called silent."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if part == "nothing":
                await reader.read()
                return
            if part == "body":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

        client = await servers.client(
            await servers.raw(talk), limits=servers.quick._replace(connect=0.2, attempts=2)
        )
        with pytest.raises(RegistryUnreachable, match=r"in time|bytes came in|nothing came"):
            await pulled(client)
        with pytest.raises(RegistryUnreachable, match=r"tried 2 times"):
            await client.manifest("app", "v1")

    @pytest.mark.parametrize(
        "said", [b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", b""]
    )
    async def test_what_is_no_http(self, servers, said: bytes) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()

        client = await servers.client(await servers.raw(talk))
        with pytest.raises(RegistryUnreachable):
            await client.manifest("app", "v1")


class TestAnswers:
    async def test_5xx_is_asked_again(self, servers) -> None:
        count = 0

        async def handler(request: web.BaseRequest) -> web.Response:
            nonlocal count
            count += 1
            if count < 3:
                return web.Response(status=503)
            return web.Response(body=MANIFEST, content_type=OCI_MANIFEST)

        client = await servers.client(await servers.web(handler))
        assert (await client.manifest("app", "v1")).data == MANIFEST
        assert count == 3

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, RegistryProtocol),
            (403, RegistryDenied),
            (404, RegistryNotFound),
            (418, RegistryProtocol),
            (302, RegistryProtocol),
        ],
    )
    async def test_others_are_not(self, servers, status: int, error: type[Exception]) -> None:
        count = 0

        async def handler(request: web.BaseRequest) -> web.Response:
            nonlocal count
            count += 1
            body = {"errors": [{"code": "CODE", "message": "said\x1b[31m\nso"}]}
            return web.json_response(body, status=status)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(error, match=rf"CODE: said \[31m so \(HTTP {status}\)"):
            await client.manifest("app", "v1")
        assert count == 1

    async def test_5xx_for_ever(self, servers) -> None:
        client = await servers.client(await servers.web(answers(b"", "", 500)))
        with pytest.raises(RegistryUnreachable, match=r"HTTP 500 \(tried 3 times\)") as caught:
            await client.manifest("app", "v1")
        assert caught.value.retryable

    async def test_rate_limits_are_told_plainly(self, servers) -> None:
        headers = {"Retry-After": "7800", "RateLimit-Limit": "100;w=21600"}
        name = await servers.web(answers(b"", "", 429, **headers))
        client = await servers.client(name)
        with pytest.raises(RegistryRateLimited) as caught:
            await client.manifest("app", "v1")
        assert caught.value.message == (
            f"{name}/app:v1: the registry's rate limit is reached (100 pulls in 6 h); "
            "2 h 10 min left"
        )
        assert "try again in 2 h 10 min" in caught.value.hint
        assert caught.value.retry_after == 7800


class TestCredentials:
    async def test_a_redirect_elsewhere_goes_without(self, servers) -> None:
        seen = []

        async def elsewhere(request: web.BaseRequest) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            return web.Response(body=BLOB)

        other = await servers.web(elsewhere)

        async def handler(request: web.BaseRequest) -> web.Response:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
            headers = {"Location": f"http://user:x@{other}/signed?a=%2F%2f"}
            return web.Response(status=307, headers=headers)

        client = await servers.client(await servers.web(handler), USER)
        assert await pulled(client) == BLOB
        assert seen == [None]

    async def test_a_challenge_from_elsewhere_is_not_answered(self, servers) -> None:
        seen = []

        async def elsewhere(request: web.BaseRequest) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})

        other = await servers.web(elsewhere)

        async def handler(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": f"http://{other}/"})

        client = await servers.client(await servers.web(handler), USER)
        with pytest.raises(RegistryDenied, match="where it leads: HTTP 401"):
            await pulled(client)
        assert seen == [None]

    @pytest.mark.parametrize(
        "location", ["file:///etc/passwd", "http://", "//", "gopher://a/", ":"]
    )
    async def test_redirects_that_lead_nowhere(self, servers, location: str) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": location})

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryError, match=r"/app:v1: "):
            await client.manifest("app", "v1")

    async def test_redirects_without_end(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": request.path})

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryUnreachable, match="redirects more than 8 times"):
            await client.manifest("app", "v1")

    async def test_an_upload_sent_elsewhere_goes_without(self, servers) -> None:
        seen = []

        async def elsewhere(request: web.BaseRequest) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            await request.read()
            return web.Response(status=201)

        other = await servers.web(elsewhere)

        async def handler(request: web.BaseRequest) -> web.Response:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
            return web.Response(status=202, headers={"Location": f"http://{other}/up"})

        client = await servers.client(await servers.web(handler), USER)
        await client.push_blob("app", LAYER, lambda offset: io.BytesIO(BLOB[offset:]))
        assert seen == [None]

    async def test_pages_elsewhere_are_not_asked_for(self, servers) -> None:
        handler = answers(b'{"tags":["a"]}', "", Link='<http://other.test/v2/>; rel="next"')
        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryProtocol, match=r"another host, other\.test"):
            await client.tags("app")

    async def test_pages(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            last = int(request.query.get("last", "0"))
            link = {"Link": f'</v2/app/tags/list?last={last + 1}>; rel="next"'} if last < 4 else {}
            return web.json_response({"tags": [f"t{last}"]}, headers=link)

        client = await servers.client(await servers.web(handler))
        assert await client.tags("app") == [f"t{n}" for n in range(5)]

    async def test_pages_in_a_circle(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            other = "b" if request.query.get("last") == "a" else "a"
            link = {"Link": f'</v2/app/tags/list?last={other}>; rel="next"'}
            return web.json_response({"tags": ["t"]}, headers=link)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryProtocol, match="lead in a circle"):
            await client.tags("app")

    async def test_a_page_after_every_page(self, servers) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            last = int(request.query.get("last", "0"))
            link = {"Link": f'</v2/app/tags/list?last={last + 1}>; rel="next"'}
            return web.json_response({"tags": []}, headers=link)

        client = await servers.client(await servers.web(handler))
        with pytest.raises(RegistryLimit, match=r"more than 1000 pages|did not end in 1 s"):
            await client.tags("app")


@given(st.text(alphabet='<>;="relnxt/ ,', max_size=60))
def test_any_link_header(header: str) -> None:
    assert isinstance(next_page(header), str)


def test_link_headers() -> None:
    assert next_page('</a?n=1>; rel="next"') == "/a?n=1"
    assert next_page('</a>; rel=prev, </b>; title="x"; rel=next') == "/b"
    assert next_page("</a>; rel=nextish") == ""


async def test_a_blocked_registry(servers) -> None:
    client = await servers.client("127.0.0.1:1", blocked=True)
    with pytest.raises(RegistryUnreachable, match=r"is blocked in registries\.toml"):
        await client.manifest("app", "v1")


async def test_plain_http_where_tls_is_wanted(servers) -> None:
    name = await servers.web(answers(MANIFEST, OCI_MANIFEST))
    strict = await servers.client(name, plain_http=False)
    with pytest.raises(RegistryUnreachable, match="no TLS connection") as caught:
        await strict.manifest("app", "v1")
    assert "plain_http = true" in caught.value.hint
    lenient = await servers.client(name, plain_http=False, insecure=True)
    assert (await lenient.manifest("app", "v1")).data == MANIFEST


async def test_json_is_never_trusted(servers) -> None:
    for body in (b"{}", b'{"tags":{"a":1}}', b'{"tags":[1]}', b"[" * 99_999):
        client = await servers.client(await servers.web(answers(body, "application/json")))
        if body == b"{}":
            assert await client.tags("app") == []
        else:
            with pytest.raises(RegistryProtocol):
                await client.tags("app")
