"""Manifests by tag and by digest, and the referrers API."""

from typing import Any
from urllib.parse import quote

from aiohttp import web

from skerry.base import oci_image
from skerry.base.digests import Verifier
from skerry.registry.server import documents, names
from skerry.registry.server.call import Call, answer, empty
from skerry.registry.server.documents import Document
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Manifest

REFERRERS_LIMIT = 4 << 20
"""Bytes of one page of referrers: clients take no larger manifest."""


async def get(call: Call) -> web.StreamResponse:
    """`GET` and `HEAD /v2/<name>/manifests/<reference>`."""
    found = await _find(call)
    found = await _acceptable(call, found)
    headers = {
        "Content-Type": found.media_type,
        "Docker-Content-Digest": found.digest,
        "ETag": f'"{found.digest}"',
    }
    if call.request.headers.get("If-None-Match", "").strip('"') == found.digest:
        return web.Response(status=304, headers=headers)
    return web.Response(body=found.data, headers=headers)


async def _find(call: Call) -> Manifest:
    if names.is_digest(call.reference):
        digest = names.digest(call.reference)
    else:
        tag = names.tag(call.reference)
        if call.origin is not None:
            digest = await call.origin.resolve(call.repository, tag)
        else:
            digest = call.storage.resolve(call.repository, tag)
    return await _by_digest(call, digest)


async def _by_digest(call: Call, digest: str) -> Manifest:
    try:
        return call.storage.manifest(call.repository, digest)
    except Refusal:
        if call.origin is None:
            raise
    document = await call.origin.fetch_manifest(call.repository, digest)
    return Manifest(document.digest, document.media_type, document.data)


async def _acceptable(call: Call, found: Manifest) -> Manifest:
    """What the client can read. An index asked for by tag, by a client that knows none, becomes
    its linux/amd64 manifest, as with Docker's registry."""
    accepted = accepts(call.request.headers.getall("Accept", []))
    if not accepted or found.media_type in accepted or names.is_digest(call.reference):
        return found
    if found.media_type in oci_image.INDEXES and accepted & oci_image.MANIFESTS:
        index = documents.parse(found.data, found.media_type, digest=found.digest)
        for piece in index.manifests:
            if piece.platform == "linux/amd64" and piece.media_type in accepted:
                return await _by_digest(call, piece.digest)
    raise Refusal(
        "MANIFEST_UNKNOWN",
        f"{call.repository}:{call.reference} is of type {found.media_type}, "
        "which the client does not accept",
    )


def accepts(values: list[str]) -> set[str]:
    """The media types of `Accept` headers; none when any type will do."""
    words = {
        word.partition(";")[0].strip().lower() for value in values[:64] for word in value.split(",")
    }
    words.discard("")
    return set() if words & {"*/*", "application/*"} else words


async def put(call: Call) -> web.StreamResponse:
    """`PUT /v2/<name>/manifests/<reference>`."""
    by_digest = names.is_digest(call.reference)
    wanted = names.digest(call.reference) if by_digest else ""
    tag = "" if by_digest else names.tag(call.reference)
    data = await call.body(call.storage.limits.manifest, "a manifest")
    seen = Verifier(wanted.partition(":")[0] or "sha256")
    seen.update(data)
    if wanted and seen.digest != wanted:
        raise Refusal(
            "DIGEST_INVALID",
            f"the manifest's digest is {seen.digest}, not {wanted}",
            detail={"digest": wanted},
        )
    kind = call.request.headers.get("Content-Type", "")
    document: Document = documents.parse(data, kind, digest=seen.digest)
    await call.work(call.storage.put_manifest, call.repository, document, tag)
    headers = {
        "Location": f"/v2/{call.repository}/manifests/{document.digest}",
        "Docker-Content-Digest": document.digest,
    }
    if document.subject:
        headers["OCI-Subject"] = document.subject
    return empty(201, headers)


async def delete(call: Call) -> web.StreamResponse:
    """`DELETE /v2/<name>/manifests/<reference>`: a tag alone, or a manifest with its tags."""
    if names.is_digest(call.reference):
        digest = names.digest(call.reference)
        await call.work(call.storage.delete_manifest, call.repository, digest)
    else:
        await call.work(call.storage.delete_tag, call.repository, names.tag(call.reference))
    return empty(202, {})


async def referrers(call: Call) -> web.StreamResponse:
    """`GET /v2/<name>/referrers/<digest>[?artifactType=]`: an index, empty when there are none."""
    digest = names.digest(call.reference)
    found = await call.work(call.storage.referrers, call.repository, digest)
    headers = {}
    wanted = call.query.get("artifactType")
    if wanted:
        found = [each for each in found if each.get("artifactType") == wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    last = call.query.get("last", "")
    page: list[dict[str, Any]] = []
    size = 0
    for each in found:
        if last and each["digest"] <= last:
            continue
        size += len(str(each))
        if page and size > REFERRERS_LIMIT:
            more = f"artifactType={quote(wanted, safe='')}&" if wanted else ""
            link = f"/v2/{call.repository}/referrers/{digest}?{more}last={page[-1]['digest']}"
            headers["Link"] = f'<{link}>; rel="next"'
            break
        page.append(each)
    index = {"schemaVersion": 2, "mediaType": oci_image.OCI_INDEX, "manifests": page}
    response = answer(index, headers=headers)
    response.headers["Content-Type"] = oci_image.OCI_INDEX
    return response
