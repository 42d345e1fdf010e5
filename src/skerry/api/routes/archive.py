"""/containers/{id}/archive and export: files in and out, as tar."""

import base64
from typing import Any

from aiohttp import web

from skerry.api import uploads
from skerry.api.call import Call, encode
from skerry.api.formats import go_file_mode, rfc3339
from skerry.api.router import Route
from skerry.base.errors import InvalidInput
from skerry.engine.archive import PathStat

TAR = "application/x-tar"


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidInput("missing parameter: path")
    return path


def stat_header(found: PathStat) -> str:
    """`X-Docker-Container-Path-Stat`."""
    plain: dict[str, Any] = {
        "name": found.name,
        "size": found.size,
        "mode": go_file_mode(found.mode),
        "mtime": rfc3339(found.mtime_ns),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(encode(plain)).decode()


async def head(call: Call) -> web.StreamResponse:
    """HEAD /containers/{id}/archive."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container, running=False)
    found = await call.engine.archive.stat(container, _path(call))
    return web.Response(headers={"X-Docker-Container-Path-Stat": stat_header(found)})


async def get(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/archive."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container, running=False)
    async with call.engine.archive.get(container, _path(call)) as (found, chunks):
        response = web.StreamResponse(
            headers={"Content-Type": TAR, "X-Docker-Container-Path-Stat": stat_header(found)}
        )
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        async for chunk in chunks:
            await response.write(chunk)
    call.engine.lifecycle.emit(container, "archive-path")
    return response


async def put(call: Call) -> web.StreamResponse:
    """PUT /containers/{id}/archive."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container, running=False)
    await call.engine.archive.put(
        container,
        _path(call),
        uploads.body(call),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
        as_user=call.flag("copyUIDGID"),
    )
    call.engine.lifecycle.emit(container, "extract-to-dir")
    return web.Response(status=200)


async def listing(call: Call) -> web.StreamResponse:
    """GET /skerry/files/{id}?path=…: what is in a folder, modes as stat(2) has them."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container, running=False)
    found = await call.engine.archive.listing(container, _path(call))
    return call.json(
        [
            {
                "Name": each.name,
                "Size": each.size,
                "Mode": each.mode,
                "ModifiedNs": each.mtime_ns,
                "Target": each.link_target,
            }
            for each in found
        ]
    )


async def export(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/export."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container)
    response = await call.stream("application/octet-stream")
    async for chunk in call.engine.archive.export(container):
        await response.write(chunk)
    call.engine.lifecycle.emit(container, "export")
    return response


ROUTES = [
    Route("GET", "/skerry/files/{id}", listing),
    Route("HEAD", "/containers/{id}/archive", head),
    Route("GET", "/containers/{id}/archive", get, streams=True),
    Route("PUT", "/containers/{id}/archive", put),
    Route("GET", "/containers/{id}/export", export, streams=True),
]
