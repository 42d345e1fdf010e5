"""Blobs: read them (whole or a range), delete them."""

import logging
import re
from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

from skerry.registry.server import names
from skerry.registry.server.call import HEADERS, Call, empty
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Blob

log = logging.getLogger(__name__)

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def find(call: Call) -> Blob:
    """From the storage, or through it from the origin."""
    digest = names.digest(call.reference)
    try:
        return call.storage.blob(call.repository, digest, claim=call.request.method == "HEAD")
    except Refusal:
        if call.origin is None:
            raise
    return await call.origin.fetch_blob(call.repository, digest)


async def get(call: Call) -> web.StreamResponse:
    """`GET` and `HEAD /v2/<name>/blobs/<digest>`, with `Range`."""
    found = await find(call)
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": call.reference,
        "ETag": f'"{call.reference}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }
    if call.request.headers.get("If-None-Match", "").strip('"') == call.reference:
        return web.Response(status=304, headers=headers)
    start, end = chosen_range(call.request.headers, found.size, call.reference)
    status = 200
    if (start, end) != (0, found.size):
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    response = web.StreamResponse(status=status, headers=headers | HEADERS)
    response.content_length = end - start
    if call.request.method == "HEAD":
        await response.prepare(call.request)
        return response
    with open(found.path, "rb", buffering=0) as file:
        await response.prepare(call.request)
        await send(call, response, file, start, end)
    await response.write_eof()
    return response


def chosen_range(headers: Mapping[str, str], size: int, digest: str) -> tuple[int, int]:
    """The bytes that were asked for, as (start, end). 416 when there are none such.

    RFC 9110, section 14: a unit that is not known, or several ranges, mean the whole.
    """
    text = headers.get("Range", "")
    fits = headers.get("If-Range", "").strip('"') in ("", digest)
    found = _RANGE.fullmatch(text.strip())
    if not found or not fits or found.group(0) == "bytes=-":
        return 0, size
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start = int(first)
        end = min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return 0, size
    if start >= size or start >= end:
        raise Refusal(
            "RANGE_INVALID",
            f"{text:.60} is not within {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


async def send(
    call: Call, response: web.StreamResponse, file: BinaryIO, start: int, end: int
) -> None:
    """The file's bytes to the client.

    A client that stalls, or a file that ends early, ends the connection: the length was promised.
    """
    transport = call.request.transport
    if transport is None:
        return
    try:
        sent = await call.sender.send(transport, file, start, end, call.storage.limits.idle)
    except OSError as error:
        sent = -1
        if not isinstance(error, TimeoutError | ConnectionError):
            log.error("%s: %s", call.request.path, error)
    if sent != end:
        transport.abort()


async def delete(call: Call) -> web.StreamResponse:
    """`DELETE /v2/<name>/blobs/<digest>`."""
    digest = names.digest(call.reference)
    await call.work(call.storage.delete_blob, call.repository, digest)
    return empty(202, {"Docker-Content-Digest": digest})
