"""/skerry/registry: the engine's images as a registry, for as long as the client stays."""

import asyncio
import contextlib

from aiohttp import web

from skerry.api.call import Call
from skerry.api.router import Route
from skerry.base.errors import InvalidInput
from skerry.engine import hub

_LOOK = 1.0
"""Seconds between looks for a client that has gone."""


async def serve(call: Call) -> web.StreamResponse:
    """POST /skerry/registry: one line with the address, then nothing until the client leaves.

    The body is `{"Listen", "ReadOnly", "NoDelete", "NoPage", "Htpasswd", "TlsCert", "TlsKey"}`.
    """
    body = await call.body()
    for name in ("Listen", "Htpasswd", "TlsCert", "TlsKey"):
        if not isinstance(body.get(name, ""), str):
            raise InvalidInput(f"invalid JSON: {name} has to be a string")
    wanted = hub.Wanted(
        body.get("Listen") or hub.Wanted().listen,
        bool(body.get("ReadOnly")),
        not body.get("NoDelete"),
        not body.get("NoPage"),
        body.get("Htpasswd", ""),
        body.get("TlsCert", ""),
        body.get("TlsKey", ""),
    )
    engine = call.engine
    root, store = engine.settings.root, engine.store
    async with hub.serve(root, store, engine.archives, wanted) as (host, port):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(call.request)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await response.write(f'{{"address":"{shown}"}}\n'.encode())
        with contextlib.suppress(ConnectionError):
            while call.request.transport is not None and not call.request.transport.is_closing():
                await asyncio.sleep(_LOOK)
    return response


ROUTES = [Route("POST", "/skerry/registry", serve, streams=True)]
