"""/containers: what goes on for as long as the client stays: attach, logs, stats."""

import asyncio
import struct
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote_plus

from aiohttp import web

from skerry.api import hijack, stats_shapes, versions
from skerry.api.call import Call, line
from skerry.api.formats import parse_time
from skerry.api.router import Route
from skerry.base.errors import Conflict, InvalidInput
from skerry.base.isolation import Attach, Stats
from skerry.engine import log_options, logs, processes
from skerry.engine.container import Container
from skerry.engine.filters import search
from skerry.engine.record import Record

_HEAD = struct.Struct(">BxxxI").pack
"""A frame's header: stream and length (Docker's API, "Attach to a container")."""
_EARLY = 0.01
"""Seconds before the time asked for at which a timer may end, with room to spare."""
_LEAST_PAUSE = 0.1
"""Seconds between two readings of a container: processor time is their difference."""


def frame(entry: logs.Entry, *, terminal: bool, timestamps: bool) -> bytes:
    """A log entry as it goes over the wire: framed, unless the container has a terminal."""
    data = entry.log.encode("utf-8", "surrogateescape")
    if timestamps:
        data = entry.time.encode() + b" " + data
    if terminal:
        return data
    kind = 2 if entry.stream == "stderr" else 1
    return _HEAD(kind, len(data)) + data


def details(record: Record) -> str:
    """What `details` puts before each line: the labels and the variables that the log's options
    `labels` and `env` (`labels-regex`, `env-regex`) name, and its `tag`, as Docker writes them.
    """
    options = (record.host.get("LogConfig") or {}).get("Config") or {}
    known = dict(entry.partition("=")[::2] for entry in record.config.get("Env") or ())
    labels = record.config.get("Labels") or {}
    found = {
        name: values[name]
        for key, values in (("labels", labels), ("env", known))
        for name in values
        if name in options.get(key, "").split(",")
        or ((pattern := options.get(f"{key}-regex")) and search(pattern, name))
    }
    if options.get("tag"):
        found["tag"] = log_options.tag(options["tag"], record)
    return ",".join(f"{quote_plus(k)}={quote_plus(found[k])}" for k in sorted(found)) + " "


def _frames(
    entries: Iterable[logs.Entry], container: Container, timestamps: bool, prefix: str = ""
) -> bytes:
    terminal = bool(container.record.config.get("Tty"))
    if prefix:
        entries = [logs.Entry(prefix + each.log, each.stream, each.time) for each in entries]
    if terminal or timestamps:
        return b"".join(frame(e, terminal=terminal, timestamps=timestamps) for e in entries)
    parts: list[bytes] = []
    for entry in entries:
        data = entry.log.encode("utf-8", "surrogateescape")
        parts += (_HEAD(2 if entry.stream == "stderr" else 1, len(data)), data)
    return b"".join(parts)


async def attach(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/attach."""
    containers = call.engine.containers
    container = containers.find(call.params["id"])
    terminal = bool(container.record.config.get("Tty"))
    how = Attach(
        stdin=call.flag("stdin") and bool(container.record.config.get("OpenStdin")),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
    )
    keys = hijack.parse_keys(call.text("detachKeys"))
    keys = keys if terminal else b""
    past = logs.Query(how.stdout, how.stderr) if call.flag("logs") else None
    path = containers.log_path(container) if past is not None else ""
    if not call.flag("stream"):
        return await _attach_past(call, container, path, past)
    stream = await containers.attach(container.id, how)
    call.engine.lifecycle.emit(container, "attach")
    try:
        kind = versions.stream_type(call.version, terminal=terminal)
        client = hijack.take_over(call.request, kind)
        if past is not None:
            async for entries in logs.read(path, past, lambda: False):
                await client.write(_frames(entries, container, False))
        return await hijack.join(client, stream, stdin=how.stdin, keys=keys)
    finally:
        containers.withdraw(container.id, stream)
        await stream.close()
        if container.running:
            call.engine.lifecycle.emit(container, "detach")


async def _attach_past(
    call: Call, container: Container, path: str, past: logs.Query | None
) -> web.StreamResponse:
    """`logs=1` without `stream`: what was said so far, then the end."""
    terminal = bool(container.record.config.get("Tty"))
    client = hijack.take_over(call.request, versions.stream_type(call.version, terminal=terminal))
    if past is not None:
        async for entries in logs.read(path, past, lambda: False):
            await client.write(_frames(entries, container, False))
    client.transport.close()
    return hijack.finished()


async def attach_ws(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/attach/ws: the same over a WebSocket, binary messages both ways."""
    containers = call.engine.containers
    container = containers.find(call.params["id"])
    chosen = versions.websocket_takes_streams(call.version)
    how = Attach(*(not chosen or call.flag(name) for name in ("stdin", "stdout", "stderr")))
    as_text = versions.sends_text_frames(call.version)
    socket = web.WebSocketResponse()
    if not socket.can_prepare(call.request).ok:
        raise InvalidInput("not websocket protocol")
    await socket.prepare(call.request)
    stream = await containers.attach(container.id, how)

    async def output() -> None:
        while data := await stream.read():
            if as_text:
                await socket.send_str(data.decode(errors="replace"))
            else:
                await socket.send_bytes(data)
        await socket.close()

    out = asyncio.ensure_future(output())
    try:
        async for message in socket:
            data = message.data.encode() if isinstance(message.data, str) else message.data
            if how.stdin and data:
                await stream.write(data)
    finally:
        out.cancel()
        containers.withdraw(container.id, stream)
        await stream.close()
    return socket


async def read_logs(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/logs."""
    containers = call.engine.containers
    container = containers.find(call.params["id"])
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not (stdout or stderr):
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    text = call.text("tail", "all")
    tail = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    path = containers.log_path(container)
    query = logs.Query(
        stdout,
        stderr,
        parse_time(call.text("since")),
        parse_time(call.text("until")),
        tail,
        call.flag("follow"),
    )
    timestamps = call.flag("timestamps")
    prefix = details(container.record) if call.flag("details") else ""
    terminal = bool(container.record.config.get("Tty"))
    response = await call.stream(versions.stream_type(call.version, terminal=terminal))
    async for entries in logs.read(path, query, lambda: containers.has_log_to_come(container)):
        await response.write(_frames(entries, container, timestamps, prefix))
    return response


Reading = tuple[Stats, processes.CpuTime]


async def _reading(call: Call, container: Container) -> Reading | None:
    try:
        found = await call.engine.containers.stats(container)
    except Conflict:
        return None
    return None if found is None else (found, call.engine.containers.host_clock.now())


async def stats(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/stats: every second, or once."""
    container = call.engine.containers.find(call.params["id"])
    total = processes.memory_total()
    streams, once = call.flag("stream", True), call.flag("one-shot")
    if streams and once:
        raise InvalidInput("cannot have stream=true and one-shot=true")
    if not streams:
        before = None
        if not once:
            before = await _reading(call, container)
            if before is not None:
                await asyncio.sleep(1)
        now = await _reading(call, container)
        return call.json(stats_shapes.stats(container, now, before, memory_total=total))
    response = await call.stream()
    before = await _reading(call, container)
    await response.write(line(stats_shapes.stats(container, before, None, memory_total=total)))
    await asyncio.sleep(_to_the_second())
    while not container.removing:
        second = int(asyncio.get_running_loop().time() + _EARLY)
        told = await told_at(second, call, container, before, total)
        await response.write(told.text)
        before = told.reading
        await asyncio.sleep(_to_the_second())
    return response


class Told(NamedTuple):
    """What streams of a container have told at a full second of the loop's clock."""

    second: int
    reading: Reading | None
    text: bytes


async def told_at(
    second: int, call: Call, container: Container, before: Reading | None, total: int
) -> Told:
    """The line of this second, made by the first of a container's streams for all of them."""
    told: Told | None = container.watched
    if told is None or told.second != second:
        if told is not None and told.second == second - 1:
            before = told.reading
        now = await _reading(call, container)
        text = line(stats_shapes.stats(container, now, before, memory_total=total))
        told = container.watched = Told(second, now, text)
    return told


def _to_the_second() -> float:
    """How long to wait for the next full second of the loop's clock, at which all streams take
    their readings: the engine wakes once for all of them."""
    left = 1 - asyncio.get_running_loop().time() % 1
    return left if left > _LEAST_PAUSE else left + 1


ROUTES = [
    Route("POST", "/containers/{id}/attach", attach, streams=True),
    Route("GET", "/containers/{id}/attach/ws", attach_ws, streams=True),
    Route("GET", "/containers/{id}/logs", read_logs, streams=True),
    Route("GET", "/containers/{id}/stats", stats, streams=True),
]
