"""The HTTP server: Docker's Engine API and skerry's own additions on a unix socket."""

import asyncio
import functools
import logging
import socket
from collections.abc import Iterable

from aiohttp import web

import skerry
from skerry.api import openapi, uploads, versions
from skerry.api.call import Call, encode
from skerry.api.errors import message_of, status_of
from skerry.api.router import Route, Router
from skerry.api.routes import (
    archive,
    build,
    builds,
    containers,
    copying,
    execs,
    hub,
    image_archives,
    images,
    networks,
    own,
    snapshots,
    streams,
    system,
    transfer,
    trust,
    unserved,
    vms,
    volumes,
)
from skerry.base.errors import GuestFault, SkerryError
from skerry.build.builder import Builder
from skerry.engine.engine import Engine

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds that open requests get at the end."""
_HEADERS = {
    "Api-Version": str(versions.NEWEST),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"skerry/{skerry.__version__} (linux)",
}


def all_routes() -> list[Route]:
    """Every route, in the order in which patterns are tried."""
    modules = (
        system,
        containers,
        streams,
        archive,
        execs,
        image_archives,
        copying,
        build,
        builds,
        transfer,
        trust,
        images,
        volumes,
        networks,
        hub,
        own,
        snapshots,
        vms,
        unserved,
    )
    routes = [route for module in modules for route in module.ROUTES]
    return [*routes, Route("GET", "/skerry/openapi.json", _describe)]


async def _describe(call: Call) -> web.StreamResponse:
    """GET /skerry/openapi.json: this document."""
    return call.json(_document())


@functools.cache
def _document() -> dict[str, object]:
    return openapi.document(all_routes(), skerry.__version__)


class Api:
    """Answers requests on behalf of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._builder = Builder(engine)
        self._router = Router(all_routes())
        self.requests = 0
        self.active = 0
        self.last = 0.0

    def begin(self) -> None:
        """Take up what an earlier engine left under way. To be called on the loop, once."""
        self._builder.adopt_shells()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        self.requests += 1
        self.active += 1
        try:
            return await self._answer(request)
        finally:
            uploads.leave(request)
            self.active -= 1
            self.last = asyncio.get_running_loop().time()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            version, path = versions.split(request.path)
        except versions.TooOld as error:
            return web.Response(status=400, text=f"{error.message}\r\n", headers=_HEADERS)
        except SkerryError as error:
            return _failure(status_of(error), message_of(error))
        if request.method == "OPTIONS":
            return web.Response(headers=_HEADERS)
        found = self._router.find(request.method, path)
        if found is None:
            # Docker knows no 405: a method that a path has not is a page that is not there.
            return _failure(404, "page not found")
        route, params = found
        call = Call(request, self._engine, version, params, self._builder)
        try:
            if route.streams or route.reads:
                response = await route.handle(call)
            else:
                # A client that leaves must not stop a removal half-way.
                response = await _whole(asyncio.ensure_future(route.handle(call)))
        except (SkerryError, GuestFault) as error:
            response = _failure(status_of(error), message_of(error))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            response = _failure(500, message_of(error))
        if not response.prepared:
            if request.transport is not None and request.writer.output_size:
                # It failed in the middle of an answer: only a cut shows that the rest is missing.
                request.transport.abort()
                raise ConnectionResetError
            response.headers.update(_HEADERS)
        return response


async def _whole(work: asyncio.Future[web.StreamResponse]) -> web.StreamResponse:
    """Its answer; it goes on to its end when nobody waits for that any more."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_unheard)
        raise


def _unheard(work: asyncio.Future[web.StreamResponse]) -> None:
    """The end of a request whose client has left: only a fault of the engine's is worth a word."""
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, SkerryError | GuestFault | ConnectionError):
        log.error("a request whose client had left", exc_info=error)


def _failure(status: int, message: str) -> web.Response:
    if status == 304:
        return web.Response(status=304, headers=_HEADERS)
    return web.Response(
        body=encode({"message": message}) + b"\n",
        status=status,
        content_type="application/json",
        headers=_HEADERS,
    )


def _is_fault(record: logging.LogRecord) -> bool:
    """A client that went away in the middle of its answer is no fault of the engine's."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionError))


logging.getLogger("aiohttp.server").addFilter(_is_fault)


async def serve(engine: Engine, sockets: Iterable[socket.socket]) -> tuple[Api, web.ServerRunner]:
    """Begin to answer on listening sockets. `await runner.cleanup()` ends it."""
    api = Api(engine)
    api.begin()
    server = uploads.Server(
        api.answer,
        handler_cancellation=True,
        access_log=None,
        max_line_size=65536,
        max_field_size=65536,
        auto_decompress=False,
    )
    runner = web.ServerRunner(server, shutdown_timeout=GRACE)
    await runner.setup()
    for sock in sockets:
        await web.SockSite(runner, sock, backlog=512).start()
    return api, runner
