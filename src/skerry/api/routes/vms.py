"""/skerry/vms: full machines."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from skerry.api import hijack
from skerry.api.call import Call, no_content
from skerry.api.router import Route
from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.engine.vms.console import SCROLLBACK
from skerry.engine.vms.creation import doubts
from skerry.engine.vms.record import Live

MAX_TEXT = 65536
_T = TypeVar("_T")


@contextlib.asynccontextmanager
async def _held(call: Call) -> AsyncIterator[Live]:
    async with call.engine.vms.hold(call.params["id"]) as live:
        yield live


def _body(data: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"invalid request: {error}") from None


async def create(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/create?name=…"""
    record = await call.engine.vms.creation.create(call.text("name"), await call.body())
    warnings = doubts(record)
    return call.json({"Id": record.id, "Name": record.name, "Warnings": warnings}, 201)


async def listing(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/json"""
    vms = call.engine.vms
    return call.json([vms.summary(live) for live in vms.listing()])


async def inspect(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/json"""
    return call.json(call.engine.vms.inspect(call.params["id"]))


def _verb(do: Callable[[Call, Live], Awaitable[None]]) -> Callable[[Call], Awaitable[web.Response]]:
    async def handle(call: Call) -> web.Response:
        async with _held(call) as live:
            await do(call, live)
        return no_content()

    return handle


async def _start(call: Call, live: Live) -> None:
    await call.engine.vms.life.start(live)


async def stop(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/stop?t=…&force=…"""
    timeout = call.number("t", 30)
    if not 0 <= timeout <= 86400:
        raise InvalidInput(f"invalid time to wait: {timeout}")
    vms = call.engine.vms
    live = vms.shelf.get(call.params["id"])
    await vms.life.stop(live, timeout, force=call.flag("force"))
    return no_content()


async def _reset(call: Call, live: Live) -> None:
    await call.engine.vms.life.reset(live)


async def _pause(call: Call, live: Live) -> None:
    await call.engine.vms.life.pause(live)


async def _resume(call: Call, live: Live) -> None:
    await call.engine.vms.life.resume(live)


async def _save(call: Call, live: Live) -> None:
    await call.engine.vms.life.save(live)


async def _discard(call: Call, live: Live) -> None:
    call.engine.vms.life.discard_state(live)


async def _remove(call: Call, live: Live) -> None:
    await call.engine.vms.creation.remove(live, force=call.flag("force"))


class _SnapshotBody(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    comment: str = ""
    disk_only: bool = False


async def snapshots(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/snapshots"""
    vms = call.engine.vms
    return call.json(vms.snapshots.listing(vms.shelf.get(call.params["id"])))


async def snapshot(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/snapshots"""
    wanted = _body(await call.body(), _SnapshotBody)
    async with _held(call) as live:
        made = await call.engine.vms.snapshots.create(
            live, wanted.name, wanted.comment, disk_only=wanted.disk_only
        )
    return call.json({"Id": made.id, "Name": made.name}, 201)


async def _restore(call: Call, live: Live) -> None:
    await call.engine.vms.snapshots.restore(live, call.params["snapshot"])


async def _remove_snapshot(call: Call, live: Live) -> None:
    await call.engine.vms.snapshots.remove(live, call.params["snapshot"])


class _CloneBody(msgspec.Struct, forbid_unknown_fields=True):
    linked: bool = False
    snapshot: str = ""


async def clone(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/clone?name=…"""
    wanted = _body(await call.body(), _CloneBody)
    async with _held(call) as live:
        record = await call.engine.vms.cloning.clone(
            live, call.text("name"), linked=wanted.linked, snapshot=wanted.snapshot
        )
    return call.json({"Id": record.id, "Name": record.name}, 201)


async def edit(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/update"""
    body = await call.body()
    async with _held(call) as live:
        await call.engine.vms.editing.edit(live, body)
    return no_content()


async def export(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/export: an OVA; with ?format=qcow2&disk=disk0 one disk."""
    form, exchange = call.text("format", "ova"), call.engine.vms.exchange
    async with _held(call) as live:
        if form == "ova":
            chunks, kind = exchange.export(live), "application/x-tar"
        else:
            chunks = exchange.export_disk(live, form, call.text("disk"))
            kind = "application/octet-stream"
        first = await anext(chunks)
        response = await call.stream(kind)
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
    return response


async def take_in(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/import?name=…: the body is an OVA."""
    record = await call.engine.vms.exchange.take_in(call.text("name"), call.chunks())
    return call.json({"Id": record.id, "Name": record.name}, 201)


async def wait(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/wait: until it does not run."""
    live = call.engine.vms.shelf.get(call.params["id"])
    await live.gone.wait()
    return call.json({"Status": live.record.status, "Error": live.record.cause})


async def console(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/console: becomes a raw stream to the serial port."""
    live = call.engine.vms.shelf.get(call.params["id"])
    keys = hijack.parse_keys(call.text("detachKeys"))
    stream = await call.engine.vms.consoles.attach(live, call.number("scrollback", SCROLLBACK))
    client = hijack.take_over(call.request, "application/vnd.docker.raw-stream")
    return await hijack.join(client, stream, stdin=True, keys=keys)


async def logs(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/logs?source=console|qemu"""
    vms = call.engine.vms
    live = vms.shelf.get(call.params["id"])
    source = call.text("source", "console")
    if source not in ("console", "qemu"):
        raise InvalidInput(f"no such log: {source!r:.40}", hint="console or qemu")
    data = vms.consoles.log(live) if source == "console" else vms.consoles.complaints(live)
    return web.Response(body=data, content_type="application/octet-stream")


async def display(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/display"""
    vms = call.engine.vms
    return call.json(vms.consoles.display(vms.shelf.get(call.params["id"])))


async def screenshot(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/screenshot: a PNG."""
    async with _held(call) as live:
        data = await call.engine.vms.consoles.screenshot(live)
    return web.Response(body=data, content_type="image/png")


async def stats(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/stats: counters since the start."""
    vms = call.engine.vms
    reading = await vms.consoles.stats(vms.shelf.get(call.params["id"]))
    return call.json(reading._asdict())


async def addresses(call: Call) -> web.StreamResponse:
    """GET /skerry/vms/{id}/addresses"""
    vms = call.engine.vms
    return call.json(await vms.consoles.addresses(vms.shelf.get(call.params["id"])))


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str] = []
    text: str = ""


async def send_keys(call: Call) -> web.StreamResponse:
    """POST /skerry/vms/{id}/keys: `{"keys": ["ctrl-alt-f1"], "text": "root\\n"}`."""
    wanted = _body(await call.body(), _Keys)
    if len(wanted.keys) > 1000 or len(wanted.text) > MAX_TEXT:
        raise LimitExceeded("too many keys at once")
    async with _held(call) as live:
        count = await call.engine.vms.consoles.send_keys(live, wanted.keys, wanted.text)
    return call.json({"Strokes": count})


ROUTES = [
    Route("POST", "/skerry/vms/create", create),
    Route("GET", "/skerry/vms/json", listing),
    Route("GET", "/skerry/vms/{id}/json", inspect),
    Route("POST", "/skerry/vms/{id}/start", _verb(_start)),
    Route("POST", "/skerry/vms/{id}/stop", stop),
    Route("POST", "/skerry/vms/{id}/reset", _verb(_reset)),
    Route("POST", "/skerry/vms/{id}/pause", _verb(_pause)),
    Route("POST", "/skerry/vms/{id}/resume", _verb(_resume)),
    Route("POST", "/skerry/vms/{id}/save", _verb(_save)),
    Route("POST", "/skerry/vms/{id}/discard", _verb(_discard)),
    Route("DELETE", "/skerry/vms/{id}", _verb(_remove)),
    Route("GET", "/skerry/vms/{id}/snapshots", snapshots),
    Route("POST", "/skerry/vms/{id}/snapshots", snapshot),
    Route("POST", "/skerry/vms/{id}/snapshots/{snapshot}/restore", _verb(_restore)),
    Route("DELETE", "/skerry/vms/{id}/snapshots/{snapshot}", _verb(_remove_snapshot)),
    Route("POST", "/skerry/vms/{id}/clone", clone),
    Route("POST", "/skerry/vms/{id}/update", edit),
    Route("GET", "/skerry/vms/{id}/export", export, streams=True),
    Route("POST", "/skerry/vms/import", take_in, streams=True),
    Route("POST", "/skerry/vms/{id}/wait", wait, streams=True),
    Route("POST", "/skerry/vms/{id}/console", console, streams=True),
    Route("GET", "/skerry/vms/{id}/logs", logs),
    Route("GET", "/skerry/vms/{id}/display", display),
    Route("GET", "/skerry/vms/{id}/screenshot", screenshot),
    Route("POST", "/skerry/vms/{id}/keys", send_keys),
    Route("GET", "/skerry/vms/{id}/stats", stats),
    Route("GET", "/skerry/vms/{id}/addresses", addresses),
]
