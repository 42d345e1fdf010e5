"""/skerry/builds: builds in parts, for `skerry build`; and the cache mounts. See docs/build.md."""

import asyncio
import codecs
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from skerry.api import build_options, hijack
from skerry.api.call import Call, line, no_content
from skerry.api.formats import rfc3339
from skerry.api.router import Route
from skerry.api.routes.image_archives import archive
from skerry.base.errors import (
    Conflict,
    GuestFault,
    InvalidInput,
    NotFound,
    SkerryError,
    SystemFault,
)
from skerry.build import shells
from skerry.build.builder import MAX_DOCKERFILE
from skerry.build.cache_mounts import CacheMount
from skerry.build.errors import StepFailed
from skerry.build.events import Event
from skerry.build.run_step import environment
from skerry.build.trees import MAIN, Context
from skerry.engine.archives import as_file, in_pieces
from skerry.engine.record import MountPoint
from skerry.engine.threads import blocking

log = logging.getLogger(__name__)
_MAIN_NAMES = ("default", "main")
_BODY = 2 * MAX_DOCKERFILE + (8 << 20)
"""Bytes: a Dockerfile from elsewhere travels in it, its line ends as two characters."""


async def open_build(call: Call) -> web.StreamResponse:
    """POST /skerry/builds."""
    body, options = build_options.parse(await call.body(_BODY))
    session = call.builder.sessions.open(options)
    try:
        for name, value in body.contexts.items():
            kind, _, rest = value.partition("://")
            if kind == "docker-image":
                session.contexts[name] = Context(image=rest)
            elif value.startswith("target:"):
                session.contexts[name] = Context(stage=value.removeprefix("target:"))
            else:
                session.remotes[name] = value
        if body.remote:
            session.remotes[MAIN] = body.remote
    except BaseException:
        await call.builder.sessions.close(session)
        raise
    return call.json({"Id": session.id}, 201)


async def put_context(call: Call) -> web.StreamResponse:
    """PUT /skerry/builds/{id}/contexts/{name}."""
    session = call.builder.sessions.find(call.params["id"])
    name = call.params["name"]
    session.busy += 1
    try:
        await session.receive(MAIN if name in _MAIN_NAMES else name, call.chunks())
    finally:
        session.busy -= 1
    return no_content()


async def start(call: Call) -> web.StreamResponse:
    """POST /skerry/builds/{id}/start: events until the end."""
    session = call.builder.sessions.find(call.params["id"])
    events = session.start()
    session.busy += 1
    response = await call.stream("application/x-ndjson")
    told = False
    try:
        await _told(response, events)
        told = True
    finally:
        session.busy -= 1
        session.agents = None
        if not told:
            # Who has gone will not come for a result.
            call.builder.sessions.abandon(session)
    return response


async def _told(response: web.StreamResponse, events: AsyncIterator[list[Event]]) -> None:
    """Write the events, the error that ends them too."""
    decoders: dict[tuple[str, int], codecs.IncrementalDecoder] = {}
    try:
        async with aclosing(events) as stream:  # type: ignore[type-var]
            async for found in stream:
                await response.write(b"".join(line(_wire(event, decoders)) for event in found))
    except (SkerryError, GuestFault) as error:
        await response.write(line(error_event(error)))
    except ConnectionError:
        raise
    except Exception as error:
        # The answer has begun: a defect has to be told in it.
        log.exception("a build ended by a defect")
        await response.write(line(error_event(SystemFault(f"a defect in skerry: {error}"))))


def _wire(
    event: dict[str, Any], decoders: dict[tuple[str, int], codecs.IncrementalDecoder]
) -> dict[str, Any]:
    """Output as text: a character may be cut in two."""
    if event["kind"] != "log":
        return event
    key = (event["step"], event["stream"])
    decoder = decoders.setdefault(key, codecs.getincrementaldecoder("utf-8")("replace"))
    return {**event, "data": decoder.decode(event["data"])}


def error_event(error: SkerryError | GuestFault) -> dict[str, Any]:
    """The last event of a build that failed."""
    event: dict[str, Any] = {"kind": "error", "message": error.message, "hint": error.hint}
    if isinstance(error, StepFailed):
        event |= {"code": error.code, "step": error.step}
    return event


async def output(call: Call) -> web.StreamResponse:
    """GET /skerry/builds/{id}/outputs/{number}."""
    session = call.builder.sessions.find(call.params["id"])
    session.busy += 1
    try:
        return await archive(call, in_pieces(session.output(call.params["number"])))
    finally:
        session.busy -= 1


async def agent(call: Call) -> web.StreamResponse:
    """POST /skerry/builds/{id}/agents/{connection}: the connection becomes the agent's."""
    session = call.builder.sessions.find(call.params["id"])
    text = call.params["connection"]
    if not text.isdigit() or session.agents is None:
        raise NotFound(f"no agent connection {text:.20} is waiting")
    client = hijack.take_over(call.request, "application/octet-stream")
    try:
        await session.agents.join(int(text), client)
    finally:
        client.transport.close()
    return hijack.finished()


async def close(call: Call) -> web.StreamResponse:
    """DELETE /skerry/builds/{id}."""
    await call.builder.sessions.close(call.builder.sessions.find(call.params["id"]))
    return no_content()


async def shell(call: Call) -> web.StreamResponse:
    """POST /skerry/builds/{id}/shell: in the state of the step that failed."""
    session = call.builder.sessions.find(call.params["id"])
    failed = session.one.solver.failed if session.one is not None else None
    if session.one is None or failed is None:
        raise Conflict("no RUN of this build has failed, or its state was not kept")
    points, more = await session.one.runner.again(failed.operation, session.held)
    host: dict[str, Any] = {
        "Mounts": [_mount(each) for each in points],
        "NetworkMode": session.one.runner.network(failed.operation),
    }
    if failed.operation.insecure:
        host["Privileged"] = True
    made = await shells.open_shell(
        call.engine,
        shells.failed_state(failed),
        host,
        environment=environment(failed.operation, failed.state, more),
    )
    call.builder.watch(made)
    return call.json({"Id": made.id}, 201)


def _mount(point: MountPoint) -> dict[str, Any]:
    if point.kind == "tmpfs":
        sizes = [each[5:] for each in point.options if each.startswith("size=")]
        options = {"SizeBytes": int(sizes[0])} if sizes else {}
        return {"Type": "tmpfs", "Target": point.target, "TmpfsOptions": options}
    return {
        "Type": "bind",
        "Source": point.source,
        "Target": point.target,
        "ReadOnly": point.read_only,
    }


async def recorded_shell(call: Call) -> web.StreamResponse:
    """POST /skerry/build/shell?step=KEY: in the state after a recorded step."""
    step = shells.find_step(call.engine, call.text("step"))
    with call.engine.store.leases.hold():
        state = shells.state_of(call.engine, step)
        made = await shells.open_shell(
            call.engine, state, {}, environment=list(state.config.get("Env") or [])
        )
    call.builder.watch(made)
    return call.json({"Id": made.id}, 201)


def mount_shape(mount: CacheMount, size: int) -> dict[str, Any]:
    """A cache mount."""
    return {
        "Name": mount.name,
        "Id": mount.id,
        "Path": mount.path,
        "Placed": mount.placed,
        "Size": size,
        "CreatedAt": rfc3339(int(mount.created_at * 1e9)),
        "LastUsedAt": rfc3339(int(mount.used_at * 1e9)),
        "UsageCount": mount.uses,
        "InUse": mount.in_use,
    }


async def mounts(call: Call) -> web.StreamResponse:
    """GET /skerry/build/mounts."""
    service = call.builder.mounts
    found = await asyncio.to_thread(
        lambda: [mount_shape(each, service.size(each)) for each in service.all()]
    )
    return call.json(found)


async def place(call: Call) -> web.StreamResponse:
    """POST /skerry/build/mounts/{name}/place?path=…"""
    service = call.builder.mounts
    mount = service.find(call.params["name"])
    if not call.text("path"):
        raise InvalidInput("missing parameter: path")
    moved = await blocking(lambda: service.place(mount, call.text("path")))
    return call.json(mount_shape(moved, service.size(moved)))


async def get_mount(call: Call) -> web.StreamResponse:
    """GET /skerry/build/mounts/{name}/archive."""
    service = call.builder.mounts
    return await archive(call, in_pieces(service.export(service.find(call.params["name"]))))


async def put_mount(call: Call) -> web.StreamResponse:
    """PUT /skerry/build/mounts/{name}/archive."""
    service = call.builder.mounts
    name = call.params["name"]
    try:
        id = service.find(name).id
    except NotFound:
        id = name
    async with as_file(call.chunks()) as stream:
        made = await blocking(lambda: service.take_in(id, stream))
    return call.json(mount_shape(made, service.size(made)), 201)


async def remove_mount(call: Call) -> web.StreamResponse:
    """DELETE /skerry/build/mounts/{name}."""
    service = call.builder.mounts
    service.remove(service.find(call.params["name"]))
    return no_content()


ROUTES = [
    Route("POST", "/skerry/builds", open_build),
    Route("PUT", "/skerry/builds/{id}/contexts/{name:*}", put_context, streams=True),
    Route("POST", "/skerry/builds/{id}/start", start, streams=True),
    Route("GET", "/skerry/builds/{id}/outputs/{number}", output, streams=True),
    Route("POST", "/skerry/builds/{id}/agents/{connection}", agent, streams=True),
    Route("POST", "/skerry/builds/{id}/shell", shell),
    Route("DELETE", "/skerry/builds/{id}", close),
    Route("POST", "/skerry/build/shell", recorded_shell),
    Route("GET", "/skerry/build/mounts", mounts),
    Route("POST", "/skerry/build/mounts/{name:*}/place", place),
    Route("GET", "/skerry/build/mounts/{name:*}/archive", get_mount, streams=True),
    Route("PUT", "/skerry/build/mounts/{name:*}/archive", put_mount, streams=True),
    Route("DELETE", "/skerry/build/mounts/{name:*}", remove_mount),
]
