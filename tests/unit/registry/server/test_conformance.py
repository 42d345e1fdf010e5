"""The specification's four workflows: pull, push, content discovery, content management."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.registry.server.conftest import INDEX, OCI, descriptor, manifest

from skerry.base.digests import sha256

BLOB = b"0123456789" * 100
D = sha256(BLOB)
NONE = "sha256:" + "0" * 64

REFUSED = [
    ("GET", f"/v2/a/blobs/{NONE}", 404, "BLOB_UNKNOWN"),
    ("GET", "/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
    ("GET", "/v2/none/manifests/latest", 404, "NAME_UNKNOWN"),
    ("GET", "/v2/a/manifests/none", 404, "MANIFEST_UNKNOWN"),
    ("GET", f"/v2/a/manifests/{NONE}", 404, "MANIFEST_UNKNOWN"),
    ("GET", "/v2/a/manifests/sha256:1", 400, "DIGEST_INVALID"),
    ("GET", "/v2/a/manifests/.bad", 400, "TAG_INVALID"),
    ("GET", "/v2/UPPER/manifests/t", 400, "NAME_INVALID"),
    ("GET", "/v2/a/../../etc/manifests/t", 404, None),
    ("GET", "/v2/%2e%2e/manifests/t", 404, None),
    ("GET", "/v2/a%2f..%2fb/blobs/" + NONE, 400, "NAME_INVALID"),
    ("GET", "/v2/none/tags/list", 404, "NAME_UNKNOWN"),
    ("GET", "/v2/a/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
    ("GET", "/v2/a/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
    ("GET", "/v2/a/referrers/nope", 400, "DIGEST_INVALID"),
    ("GET", "/v2/a/blobs/uploads/" + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN"),
    ("PATCH", "/v2/a/blobs/uploads/..", 404, None),
    ("PUT", f"/v2/a/blobs/uploads/{'0' * 32}?digest={D}", 404, "BLOB_UPLOAD_UNKNOWN"),
    ("POST", "/v2/a/blobs/uploads/?digest=sha256:1", 400, "DIGEST_INVALID"),
    ("PUT", "/v2/a/manifests/t", 400, "MANIFEST_INVALID"),
    ("DELETE", f"/v2/a/manifests/{NONE}", 404, "MANIFEST_UNKNOWN"),
    ("DELETE", "/v2/a/manifests/none", 404, "MANIFEST_UNKNOWN"),
    ("DELETE", f"/v2/a/blobs/{NONE}", 404, "BLOB_UNKNOWN"),
    ("DELETE", "/v2/a/tags/list", 405, "UNSUPPORTED"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSED)
async def test_what_is_refused_says_why(
    peer: Any, method: str, path: str, status: int, code: str | None
) -> None:
    await peer.push_image("a", "t")
    found = await peer(method, path)
    assert found.status == status, found.body
    assert code is None or found.code == code


async def test_ping(peer: Any) -> None:
    found = await peer("GET", "/v2/")
    assert found.status == 200
    assert found.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_pull(peer: Any) -> None:
    digest = await peer.push_image("a/b", "t", salt="x")
    for reference in ("t", digest):
        head = await peer("HEAD", f"/v2/a/b/manifests/{reference}")
        got = await peer("GET", f"/v2/a/b/manifests/{reference}")
        assert head.status == got.status == 200
        assert head.headers["Docker-Content-Digest"] == got.headers["Docker-Content-Digest"]
        assert sha256(got.body) == digest
        assert int(head.headers["Content-Length"]) == len(got.body)
        assert got.headers["Content-Type"] == OCI
    layer = got.json["layers"][0]
    head = await peer("HEAD", f"/v2/a/b/blobs/{layer['digest']}")
    assert (head.status, int(head.headers["Content-Length"])) == (200, layer["size"])
    got = await peer("GET", f"/v2/a/b/blobs/{layer['digest'].replace(':', '%3A')}")
    assert sha256(got.body) == layer["digest"] == got.headers["Docker-Content-Digest"]
    assert (await peer("GET", f"/v2/other/blobs/{layer['digest']}")).status == 404


RANGES = [
    ("bytes=0-9", 206, 0, 10),
    ("bytes=990-", 206, 990, 1000),
    ("bytes=-5", 206, 995, 1000),
    ("bytes=5-5000", 206, 5, 1000),
    ("bytes=0-", 200, 0, 1000),
    ("bytes=9-3", 200, 0, 1000),
    ("lines=1-2", 200, 0, 1000),
    ("bytes=0-1,5-6", 200, 0, 1000),
]


@pytest.mark.parametrize(("text", "status", "start", "end"), RANGES)
async def test_ranges(peer: Any, text: str, status: int, start: int, end: int) -> None:
    await peer.push_blob("a", BLOB)
    found = await peer("GET", f"/v2/a/blobs/{D}", Range=text)
    assert (found.status, found.body) == (status, BLOB[start:end])


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=-0", "bytes=2000-3000"])
async def test_a_range_outside(peer: Any, text: str) -> None:
    await peer.push_blob("a", BLOB)
    found = await peer("GET", f"/v2/a/blobs/{D}", Range=text)
    assert (found.status, found.headers["Content-Range"]) == (416, "bytes */1000")


async def test_push_in_chunks_with_one_out_of_order(peer: Any) -> None:
    start = await peer("POST", "/v2/a/blobs/uploads/")
    place = start.headers["Location"]
    assert start.status == 202
    one = await peer("PATCH", place, BLOB[:300], Content_Range="0-299")
    assert (one.status, one.headers["Range"]) == (202, "0-299")
    for wrong in ("0-299", "400-699"):
        refused = await peer("PATCH", place, BLOB[:300], Content_Range=wrong)
        assert refused.status == 416
    assert (await peer("PATCH", place, BLOB[:3], Content_Range="300-400")).code == "SIZE_INVALID"
    status = await peer("GET", place)
    assert (status.status, status.headers["Range"]) == (204, "0-299")
    two = await peer("PATCH", one.headers["Location"], BLOB[300:600])
    assert two.headers["Range"] == "0-599"
    end = await peer("PUT", f"{place}?digest={D}", BLOB[600:], Content_Range="600-999")
    assert (end.status, end.headers["Docker-Content-Digest"]) == (201, D)
    assert (await peer("GET", end.headers["Location"])).body == BLOB
    assert (await peer("GET", place)).code == "BLOB_UPLOAD_UNKNOWN"


async def test_a_refused_chunk_may_come_after_its_head(peer: Any) -> None:
    place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
    host, _, port = peer.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Range: 5-7\r\nContent-Length: 3\r\n\r\n"
    writer.write(head.encode())
    refused = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert refused.startswith("HTTP/1.1 416 ")
    assert "Connection: close" not in refused
    length = re.search(r"Content-Length: (\d+)", refused)
    assert length
    await reader.readexactly(int(length[1]))
    writer.write(f"abcGET {place} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
    writer.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", ["post", "put", "patch"])
async def test_ways_to_push(peer: Any, way: str, algorithm: str) -> None:
    import hashlib

    digest = f"{algorithm}:{hashlib.new(algorithm, BLOB).hexdigest()}"
    if way == "post":
        found = await peer("POST", f"/v2/a/blobs/uploads/?digest={digest}", BLOB)
    else:
        place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
        if way == "patch":
            await peer("PATCH", place, BLOB)
        found = await peer("PUT", f"{place}?digest={digest}", BLOB if way == "put" else b"")
    assert found.status == 201
    assert (await peer("GET", f"/v2/a/blobs/{digest}")).body == BLOB


@pytest.mark.parametrize("way", ["post", "put"])
async def test_a_wrong_digest_leaves_nothing(peer: Any, way: str) -> None:
    if way == "post":
        found = await peer("POST", f"/v2/a/blobs/uploads/?digest={NONE}", BLOB)
    else:
        place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
        found = await peer("PUT", f"{place}?digest={NONE}", BLOB)
    assert (found.status, found.code) == (400, "DIGEST_INVALID")
    assert (await peer("GET", f"/v2/a/blobs/{NONE}")).status == 404
    assert not list(Path(peer.storage.root, "uploads").iterdir())


async def test_cancelling_an_upload(peer: Any) -> None:
    place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
    assert (await peer("DELETE", place)).status == 204
    assert (await peer("PATCH", place, b"x")).status == 404
    assert (await peer("DELETE", place)).status == 404


async def test_an_upload_belongs_to_its_repository(peer: Any) -> None:
    place = (await peer("POST", "/v2/a/blobs/uploads/")).headers["Location"]
    assert (await peer("PATCH", place.replace("/a/", "/b/"), b"x")).status == 404


MOUNTS = [(D, "a", 201), (D, "", 201), (D, "none", 202), (NONE, "a", 202), (NONE, "", 202)]


@pytest.mark.parametrize(("digest", "source", "status"), MOUNTS)
async def test_mounting(peer: Any, digest: str, source: str, status: int) -> None:
    await peer.push_image("a", "t")
    await peer.push_blob("a", BLOB)
    query = f"mount={digest}" + (f"&from={source}" if source else "")
    found = await peer("POST", f"/v2/b/blobs/uploads/?{query}")
    assert found.status == status
    got = await peer("GET", found.headers["Location"])
    assert got.status == (200 if status == 201 else 204)


BAD = [
    (b"", OCI, 400, "MANIFEST_INVALID"),
    (b"[]", OCI, 400, "MANIFEST_INVALID"),
    (b"[" * 100_000, OCI, 400, "MANIFEST_INVALID"),
    (b'{"schemaVersion":2}', OCI, 400, "MANIFEST_INVALID"),
    (b'{"schemaVersion":1}', OCI, 400, "MANIFEST_INVALID"),
    (b'{"schemaVersion":2,"manifests":[]}', "text/plain", 400, "MANIFEST_INVALID"),
    (manifest(b"{}", b"x"), INDEX, 400, "MANIFEST_INVALID"),
    (manifest(b"absent"), OCI, 400, "MANIFEST_BLOB_UNKNOWN"),
    (manifest(b"{}").replace(b'"size": 2', b'"size": 3'), OCI, 400, "MANIFEST_INVALID"),
    (manifest(b"{}").replace(b'"size": 2', b'"size": -2'), OCI, 400, "MANIFEST_INVALID"),
    (manifest(b"{}").replace(b"sha256:", b"md5:"), OCI, 400, "DIGEST_INVALID"),
    (b" " * ((4 << 20) + 1), OCI, 413, "SIZE_INVALID"),
]


@pytest.mark.parametrize(("data", "kind", "status", "code"), BAD)
async def test_bad_manifests(peer: Any, data: bytes, kind: str, status: int, code: str) -> None:
    await peer.push_blob("a", b"{}")
    found = await peer("PUT", "/v2/a/manifests/t", data, Content_Type=kind)
    assert (found.status, found.code) == (status, code)
    assert (await peer("GET", "/v2/a/manifests/t")).status == 404


async def test_a_manifest_by_a_digest_that_is_not_its_own(peer: Any) -> None:
    await peer.push_blob("a", b"{}")
    found = await peer("PUT", f"/v2/a/manifests/{NONE}", manifest(b"{}"), Content_Type=OCI)
    assert (found.status, found.code) == (400, "DIGEST_INVALID")


async def test_negotiation(peer: Any) -> None:
    child = await peer.push_image("a", "amd64")
    data = (await peer("GET", "/v2/a/manifests/amd64")).body
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {**descriptor(data, OCI), "platform": platform}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    pushed = await peer("PUT", "/v2/a/manifests/all", index, Content_Type=INDEX)
    assert pushed.status == 201
    for accept, kind in (("*/*", INDEX), (f"{OCI}, {INDEX};q=0.5", INDEX), (OCI, OCI)):
        found = await peer("GET", "/v2/a/manifests/all", Accept=accept)
        assert found.headers["Content-Type"] == kind
    assert found.headers["Docker-Content-Digest"] == child
    refused = await peer("GET", "/v2/a/manifests/all", Accept="application/x")
    assert (refused.status, refused.code) == (404, "MANIFEST_UNKNOWN")


async def test_tags_in_pages(peer: Any) -> None:
    digest = await peer.push_image("a", "b")
    data = (await peer("GET", "/v2/a/manifests/b")).body
    for tag in ("C", "a", "d", "0.1"):
        assert (await peer("PUT", f"/v2/a/manifests/{tag}", data, Content_Type=OCI)).status == 201
    every = ["0.1", "a", "b", "C", "d"]
    assert (await peer("GET", "/v2/a/tags/list")).json == {"name": "a", "tags": every}
    seen, path = [], "/v2/a/tags/list?n=2"
    while path:
        found = await peer("GET", path)
        seen += found.json["tags"]
        path = found.headers.get("Link", "").partition(">")[0].lstrip("<")
    assert seen == every
    assert (await peer("GET", "/v2/a/tags/list?n=0")).json["tags"] == []
    assert (await peer("GET", "/v2/a/tags/list?last=bz")).json["tags"] == ["C", "d"]
    assert (await peer("DELETE", f"/v2/a/manifests/{digest}")).status == 202
    assert (await peer("GET", "/v2/a/tags/list")).status == 404


async def test_the_catalogue_in_pages(peer: Any) -> None:
    for name in ("z", "a/b", "m"):
        await peer.push_image(name, "t")
    first = await peer("GET", "/v2/_catalog?n=2")
    assert first.json == {"repositories": ["a/b", "m"]}
    rest = await peer("GET", first.headers["Link"].partition(">")[0].lstrip("<"))
    assert rest.json == {"repositories": ["z"]}


async def test_referrers(peer: Any) -> None:
    subject = await peer.push_image("a", "t")
    about = {"mediaType": OCI, "digest": subject, "size": 1}
    empty = await peer("GET", f"/v2/a/referrers/{subject}")
    assert (empty.status, empty.json["manifests"]) == (200, [])
    assert empty.headers["Content-Type"] == INDEX
    config = b"{}"
    await peer.push_blob("a", config)
    for kind in ("application/x.sbom", "application/x.sig"):
        data = manifest(config, artifactType=kind, subject=about, annotations={"k": kind})
        put = await peer("PUT", f"/v2/a/manifests/{sha256(data)}", data, Content_Type=OCI)
        assert (put.status, put.headers["OCI-Subject"]) == (201, subject)
    found = await peer("GET", f"/v2/a/referrers/{subject}")
    kinds = {each["artifactType"] for each in found.json["manifests"]}
    assert kinds == {"application/x.sbom", "application/x.sig"}
    assert "OCI-Filters-Applied" not in found.headers
    one = await peer("GET", f"/v2/a/referrers/{subject}?artifactType=application/x.sig")
    (only,) = one.json["manifests"]
    assert only["digest"] == sha256(data)
    assert only["annotations"] == {"k": "application/x.sig"}
    assert one.headers["OCI-Filters-Applied"] == "artifactType"
    assert (await peer("DELETE", f"/v2/a/manifests/{sha256(data)}")).status == 202
    found = await peer("GET", f"/v2/a/referrers/{subject}")
    assert [each["artifactType"] for each in found.json["manifests"]] == ["application/x.sbom"]


async def test_a_subject_that_comes_later(peer: Any) -> None:
    about = {"mediaType": OCI, "digest": NONE, "size": 1}
    await peer.push_image("a", "sig", subject=about)
    found = await peer("GET", f"/v2/a/referrers/{NONE}")
    # Without an artifact type of its own the config's media type stands for it.
    assert [each["artifactType"] for each in found.json["manifests"]] == [
        "application/vnd.oci.image.config.v1+json"
    ]


async def test_deleting(peer: Any) -> None:
    digest = await peer.push_image("a", "t")
    data = (await peer("GET", "/v2/a/manifests/t")).body
    await peer("PUT", "/v2/a/manifests/u", data, Content_Type=OCI)
    assert (await peer("DELETE", "/v2/a/manifests/t")).status == 202
    assert (await peer("GET", "/v2/a/manifests/t")).status == 404
    assert (await peer("GET", f"/v2/a/manifests/{digest}")).status == 200
    assert (await peer("DELETE", f"/v2/a/manifests/{digest}")).status == 202
    for gone in ("u", digest):
        assert (await peer("GET", f"/v2/a/manifests/{gone}")).status == 404
    layer = json.loads(data)["layers"][0]["digest"]
    assert (await peer("DELETE", f"/v2/a/blobs/{layer}")).status == 202
    assert (await peer("GET", f"/v2/a/blobs/{layer}")).status == 404


async def test_an_image_that_an_engine_can_hold(peer: Any) -> None:
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    await peer.push_blob("team/app", config)
    data = manifest(config)
    for tag in ("1", "2"):
        put = await peer("PUT", f"/v2/team/app/manifests/{tag}", data, Content_Type=OCI)
        assert (put.status, put.headers["Docker-Content-Digest"]) == (201, sha256(data))
    for reference in ("1", "2", sha256(data)):
        found = await peer("GET", f"/v2/team/app/manifests/{reference}")
        assert (found.status, found.body) == (200, data)
        assert found.headers["Content-Type"] == OCI
    assert (await peer("GET", f"/v2/team/app/blobs/{sha256(config)}")).body == config
    assert (await peer("GET", "/v2/team/app/tags/list")).json["tags"] == ["1", "2"]
    assert (await peer("GET", "/v2/_catalog")).json == {"repositories": ["team/app"]}
    assert (await peer("DELETE", "/v2/team/app/manifests/1")).status == 202
    assert (await peer("GET", "/v2/team/app/manifests/1")).status == 404
    assert (await peer("GET", "/v2/team/app/manifests/2")).body == data
    assert (await peer("DELETE", f"/v2/team/app/manifests/{sha256(data)}")).status == 202
    for reference in ("2", sha256(data)):
        assert (await peer("GET", f"/v2/team/app/manifests/{reference}")).status == 404
