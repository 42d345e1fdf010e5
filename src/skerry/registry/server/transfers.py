"""Blobs on their way in: POST starts (or does it all, or mounts), PATCH adds, PUT ends."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from aiohttp import web

from skerry.registry.server import names
from skerry.registry.server.call import BATCH, Call, empty
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Upload

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/[\d*]+)?")


def created(repository: str, digest: str) -> web.Response:
    """The blob is there."""
    return empty(
        201, {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    )


def state(upload: Upload, status: int) -> web.Response:
    """Where the session is and how far it has come."""
    return empty(status, where(upload))


def where(upload: Upload) -> dict[str, str]:
    """The headers that say it."""
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(0, upload.size - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


@contextlib.asynccontextmanager
async def session(call: Call) -> AsyncIterator[Upload]:
    """The upload that the path names, for this request alone."""
    upload = call.storage.upload(call.repository, call.reference)
    async with call.busy.of(upload.id, call.storage.limits.idle):
        # It may have ended while this request waited.
        upload = call.storage.upload(call.repository, call.reference)
        try:
            yield upload
        finally:
            upload.close()


async def start(call: Call) -> web.StreamResponse:
    """`POST /v2/<name>/blobs/uploads/`, with `mount` and `from`, or with `digest` and the bytes."""
    digest, source = call.query.get("mount"), call.query.get("from", "")
    if digest is not None:
        names.digest(digest)
        if source:
            names.repository(source)
        if await call.work(call.storage.mount, call.repository, digest, source):
            return created(call.repository, digest)
    wanted = call.query.get("digest")
    if wanted is not None:
        names.digest(wanted)
    upload = await call.work(call.storage.start_upload, call.repository)
    if wanted is None:
        return state(upload, 202)
    try:
        await receive(call, upload)
    except BaseException:
        call.storage.cancel_upload(upload)
        raise
    await call.work(call.storage.commit_upload, upload, wanted)
    return created(call.repository, wanted)


async def add(call: Call) -> web.StreamResponse:
    """`PATCH`: a chunk with its `Content-Range`, or a stream without. 416 when out of order."""
    async with session(call) as upload:
        check_range(call, upload)
        await receive(call, upload)
        return state(upload, 202)


async def finish(call: Call) -> web.StreamResponse:
    """`PUT …?digest=`: the last bytes, if any, then the verification."""
    digest = names.digest(call.query.get("digest", ""))
    async with session(call) as upload:
        check_range(call, upload)
        await receive(call, upload)
        await call.work(call.storage.commit_upload, upload, digest)
    return created(call.repository, digest)


async def status(call: Call) -> web.StreamResponse:
    """`GET`: how far it has come."""
    return state(call.storage.upload(call.repository, call.reference), 204)


async def cancel(call: Call) -> web.StreamResponse:
    """`DELETE`: forget it."""
    async with session(call) as upload:
        await call.work(call.storage.cancel_upload, upload)
    return empty(204, {})


def check_range(call: Call, upload: Upload) -> None:
    """`Content-Range` has to go on where the upload is, and to agree with the length."""
    text = call.request.headers.get("Content-Range")
    if text is None:
        return
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found:
        raise Refusal("BLOB_UPLOAD_INVALID", f"Content-Range: {text!r:.60}", status=416)
    first, last = int(found.group(1)), int(found.group(2))
    length = call.request.content_length
    if first != upload.size:
        raise Refusal(
            "BLOB_UPLOAD_INVALID",
            f"the chunk starts at {first}, the upload is at {upload.size}",
            status=416,
            headers=where(upload),
        )
    if length is not None and length != last - first + 1:
        raise Refusal("SIZE_INVALID", f"Content-Range {text:.60} with {length} bytes")


async def receive(call: Call, upload: Upload) -> None:
    """Take the body; bytes are hashed and written by a worker while the next ones come in."""
    parts: list[bytes] = []
    size = 0
    writing: asyncio.Future[None] | None = None
    try:
        while chunk := await call.chunk():
            parts.append(chunk)
            size += len(chunk)
            if size >= BATCH:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(call.work(upload.append, b"".join(parts)))
                parts, size = [], 0
    finally:
        # Also after a cut connection: what has come is kept, the client goes on from there.
        if writing is not None:
            await writing
        if parts:
            await call.work(upload.append, b"".join(parts))
