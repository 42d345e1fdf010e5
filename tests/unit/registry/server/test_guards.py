"""Who may, how much, how slow; the collector; the page; restarts; properties of the parsers."""

import asyncio
import base64
import os
import re
import time
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.server.conftest import OCI, manifest

from skerry.base.digests import sha256
from skerry.base.errors import Conflict, InvalidInput
from skerry.registry.server import access, blobs, documents, listening, names
from skerry.registry.server.call import Options
from skerry.registry.server.directory import Directory
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Limits


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"# people\nann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    return path


async def test_basic_authentication(serve: Any, htpasswd: Path) -> None:
    peer = await serve(users=access.Htpasswd(str(htpasswd)))
    refused = await peer("GET", "/v2/")
    assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
    assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
    for header in (basic("ann", "wrong"), basic("bob", "secret"), "Bearer x", "Basic !", "Basic "):
        for path in ("/v2/", "/"):
            assert (await peer("GET", path, Authorization=header)).status == 401
    for _ in range(2):
        found = await peer("GET", "/v2/", Authorization=basic("ann", "secret"))
        assert found.status == 200
    htpasswd.write_bytes(b"eve:" + bcrypt.hashpw(b"new", bcrypt.gensalt(4)) + b"\n")
    assert (await peer("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 401
    assert (await peer("GET", "/v2/", Authorization=basic("eve", "new"))).status == 200


@pytest.mark.parametrize("line", ["ann:$apr1$x$y", "ann:secret", "ann", ":$2y$04$x"])
def test_weak_entries_are_not_taken(line: str) -> None:
    with pytest.raises(InvalidInput, match="line 1"):
        access.parse_htpasswd(line.encode(), "f")


async def test_read_only(serve: Any) -> None:
    peer = await serve(Options(read_only=True))
    for method, path in (
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/t"),
        ("DELETE", "/v2/a/manifests/t"),
    ):
        assert (await peer(method, path, b"x")).code == "UNSUPPORTED"
    assert (await peer("GET", "/v2/_catalog")).json == {"repositories": []}


async def test_no_more_uploads_than_allowed(serve: Any) -> None:
    peer = await serve(limits=Limits(uploads=2, blob=10))
    places = [(await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"] for _ in range(2)]
    refused = await peer("POST", "/v2/a/blobs/uploads/")
    assert (refused.status, refused.code) == (429, "TOOMANYREQUESTS")
    assert (await peer("PATCH", places[0], b"x" * 11)).code == "SIZE_INVALID"
    await peer("DELETE", places[0])
    assert (await peer("POST", "/v2/a/blobs/uploads/")).status == 202


async def test_no_more_tags_than_allowed(serve: Any) -> None:
    peer = await serve(limits=Limits(tags=1))
    await peer.push_image("a", "one")
    await peer.push_image("a", "one", salt="again")
    data = (await peer("GET", "/v2/a/manifests/one")).body
    kind = "application/vnd.oci.image.manifest.v1+json"
    refused = await peer("PUT", "/v2/a/manifests/two", data, Content_Type=kind)
    assert (refused.status, refused.code) == (403, "DENIED")


@pytest.mark.parametrize("words", [b"", b"GET /v2/ HTTP/1.1\r\nHost:", b"GET"])
async def test_a_client_that_says_nothing_is_dropped(serve: Any, words: bytes) -> None:
    peer = await serve(limits=Limits(idle=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(peer.url.rpartition(":")[2]))
    writer.write(words)
    async with asyncio.timeout(120):
        with pytest.raises((ConnectionError, EOFError)):
            await reader.readexactly(1)
    writer.close()


async def test_a_cut_upload_goes_on(serve: Any) -> None:
    peer = await serve(limits=Limits(idle=0.3))
    place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
    data = os.urandom(50_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(peer.url.rpartition(":")[2]))
    head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[:20_000])
    await writer.drain()
    async with asyncio.timeout(120):
        assert b" 408 " in await reader.readline()
    writer.close()
    status = await peer("GET", place)
    assert status.headers["Range"] == "0-19999"
    end = await peer("PUT", f"{place}?digest={sha256(data)}", data[20_000:])
    assert end.status == 201


def test_an_upload_outlives_a_restart(tmp_path: Path) -> None:
    first = Directory(str(tmp_path))
    upload = first.start_upload("a")
    upload.append(b"12345")
    upload.close()
    with pytest.raises(Conflict):
        Directory(str(tmp_path))
    first.close()
    second = Directory(str(tmp_path))
    again = second.upload("a", upload.id)
    assert again.size == 5
    again.append(b"67")
    second.commit_upload(again, sha256(b"1234567"))
    assert second.blob("a", sha256(b"1234567")).size == 7
    assert os.listdir(tmp_path / "uploads") == []
    second.close()


def age(root: str, seconds: float) -> None:
    """Make every file look as old as that."""
    then = time.time() - seconds
    for folder, _, files in os.walk(root):
        for name in files:
            os.utime(os.path.join(folder, name), (then, then))


async def test_the_collector_takes_what_nothing_needs(peer: Any) -> None:
    digest = await peer.push_image("a", "t")
    gone = await peer.push_image("a", "u", salt="gone")
    loose = await peer.push_blob("b", b"loose")
    await peer("DELETE", f"/v2/a/manifests/{gone}")
    assert not any(peer.storage.collect(grace=3600))
    age(peer.storage.root, 7200)
    young = await peer.push_blob("b", b"young")
    found = peer.storage.collect(grace=3600)
    assert (found.blobs, found.links) == (4, 3)
    assert (await peer("GET", f"/v2/b/blobs/{loose}")).status == 404
    assert (await peer("GET", f"/v2/b/blobs/{young}")).status == 200
    image = (await peer("GET", f"/v2/a/manifests/{digest}")).json
    for each in (image["config"], *image["layers"]):
        assert (await peer("GET", f"/v2/a/blobs/{each['digest']}")).status == 200


@pytest.mark.parametrize("claim", ["head", "mount", "manifest", "push"])
async def test_what_a_push_relies_on_is_not_collected(peer: Any, claim: str) -> None:
    data = b"{}"
    digest = await peer.push_blob("a", data)
    age(peer.storage.root, 7200)
    where = "a"
    if claim == "head":
        await peer("HEAD", f"/v2/a/blobs/{digest}")
    elif claim == "mount":
        where = "b"
        assert (await peer("POST", f"/v2/b/blobs/uploads/?mount={digest}&from=a")).status == 201
    elif claim == "push":
        await peer.push_blob("a", data)
    else:
        text = b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"%s","size":2},"layers":[]}'
        assert (
            await peer("PUT", "/v2/a/manifests/t", text % digest.encode(), Content_Type=OCI)
        ).status == 201
    peer.storage.collect(grace=3600)
    assert (await peer("GET", f"/v2/{where}/blobs/{digest}")).body == data


async def test_untagged_manifests_go_when_asked(peer: Any) -> None:
    kept = await peer.push_image("a", "t", salt="1")
    lost = await peer.push_image("a", "u", salt="2")
    about = {"mediaType": "x", "digest": kept, "size": 1}
    signature = await peer.push_image("a", "sig", salt="3", subject=about)
    for tag in ("u", "sig"):
        await peer("DELETE", f"/v2/a/manifests/{tag}")
    age(peer.storage.root, 7200)
    assert peer.storage.collect(grace=3600).manifests == 0
    assert peer.storage.collect(grace=3600, untagged=True).manifests == 1
    for digest, status in ((kept, 200), (signature, 200), (lost, 404)):
        assert (await peer("GET", f"/v2/a/manifests/{digest}")).status == status


async def test_the_page_escapes_what_was_pushed(peer: Any) -> None:
    bad = "<script>alert(1)</script>"
    digest = await peer.push_blob("a", b"{}")
    text = (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"%s","size":2},'
        b'"layers":[{"mediaType":"%s","digest":"%s","size":2}]}'
    ) % (digest.encode(), bad.encode(), digest.encode())
    assert (await peer("PUT", "/v2/a/manifests/t", text, Content_Type=OCI)).status == 201
    first = await peer("GET", "/")
    assert b'href="/repository/a"' in first.body
    second = await peer("GET", "/repository/a", Host="x<b>")
    assert second.status == 200
    assert b"<script" not in second.body and b"&lt;script&gt;" in second.body
    assert "default-src 'none'" in second.headers["Content-Security-Policy"]
    assert (await peer("GET", "/repository/none")).status == 404


async def test_the_page_shows_platform_layers_and_sizes(peer: Any) -> None:
    config = b'{"os":"linux","architecture":"riscv64"}'
    for each in (config, b"x" * 12_345):
        await peer.push_blob("a/b", each)
    text = manifest(config, b"x" * 12_345)
    assert (await peer("PUT", "/v2/a/b/manifests/v1", text, Content_Type=OCI)).status == 201
    shown = (await peer("GET", "/repository/a/b")).body.decode()
    for word in ("v1", "linux/riscv64", "12.3 kB", "1 layer", sha256(text), sha256(b"x" * 12_345)):
        assert word in shown


@given(st.binary(max_size=400), st.text(max_size=40))
def test_any_bytes_as_a_manifest(data: bytes, kind: str) -> None:
    try:
        found = documents.parse(data, kind)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert found.digest == sha256(data)


@given(st.text(max_size=300))
def test_a_name_that_is_taken_stays_below_its_folder(text: str) -> None:
    try:
        names.repository(text)
    except Refusal:
        return
    assert os.path.normpath(f"/x/{text}") == f"/x/{text}"
    assert not any(part.startswith(("_", ".")) for part in text.split("/"))


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d{0,4}-\d{0,4}", fullmatch=True))
def test_any_range_lies_within(text: str) -> None:
    try:
        start, end = blobs.chosen_range({"Range": text}, 1000, "")
    except Refusal as refusal:
        assert refusal.status == 416
    else:
        assert 0 <= start < end <= 1000


@given(st.text(max_size=60))
def test_any_authorization(text: str) -> None:
    name, password = access.parse_basic(text)
    assert isinstance(name, str) and b"\0" not in password


@pytest.mark.parametrize("text", ["x", "1.2.3.4", "h:x", "h:99999", ":-1", "h:"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(repr(text))):
        listening.parse_address(text)
