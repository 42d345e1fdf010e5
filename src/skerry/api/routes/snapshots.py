"""/skerry/snapshots, /skerry/fork and /skerry/diff: a container's history and its copies."""

from typing import Any

from aiohttp import web

from skerry.api.call import Call, no_content
from skerry.api.formats import rfc3339
from skerry.api.router import Route
from skerry.api.routes.image_archives import archive
from skerry.base.errors import InvalidInput
from skerry.engine.archives import as_file
from skerry.engine.snapshot import Snapshot


def shape(call: Call, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot on the wire."""
    service = call.engine.snapshots
    container = service.owner(snapshot)
    return {
        "Id": snapshot.id,
        "Name": snapshot.name,
        "Container": container.id,
        "ContainerName": container.record.name,
        "Parent": snapshot.parent,
        "Current": service.current(container) == snapshot.id,
        "Created": snapshot.created_at // 10**9,
        "CreatedAt": rfc3339(snapshot.created_at),
        "Kind": snapshot.kind,
        "Comment": snapshot.comment,
        "Size": snapshot.size,
        "PauseMs": snapshot.pause_ms,
        "Image": container.record.image_id,
    }


async def create(call: Call) -> web.StreamResponse:
    """POST /skerry/snapshots?container=…&name=…&comment=…&disk-only=…"""
    taken = await call.engine.snapshots.create(
        _required(call, "container"),
        call.text("name"),
        call.text("comment"),
        disk_only=call.flag("disk-only"),
    )
    return call.json(shape(call, taken), 201)


async def list_all(call: Call) -> web.StreamResponse:
    """GET /skerry/snapshots?container=…: oldest first."""
    found = call.engine.snapshots.all(call.text("container"))
    return call.json([shape(call, each) for each in found])


async def inspect(call: Call) -> web.StreamResponse:
    """GET /skerry/snapshots/{id}."""
    return call.json(shape(call, call.engine.snapshots.find(call.params["id"])))


async def restore(call: Call) -> web.StreamResponse:
    """POST /skerry/snapshots/{id}/restore?force=…"""
    await call.engine.snapshots.restore(call.params["id"], force=call.flag("force"))
    return no_content()


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /skerry/snapshots/{id}."""
    await call.engine.snapshots.remove(call.params["id"])
    return no_content()


async def export(call: Call) -> web.StreamResponse:
    """GET /skerry/snapshots/{id}/export?image=…: one file."""
    chunks = call.engine.snapshot_files.export(
        call.params["id"], with_image=call.flag("image", True)
    )
    return await archive(call, chunks)


async def import_(call: Call) -> web.StreamResponse:
    """POST /skerry/snapshots/import?name=…: such a file in the body; a new container."""
    async with as_file(call.chunks()) as stream:
        _, taken = await call.engine.snapshot_files.import_(stream, call.text("name"))
    return call.json(shape(call, taken), 201)


async def fork(call: Call) -> web.StreamResponse:
    """POST /skerry/fork?container=…&count=…&name=…&start=…: an answer for each copy."""
    start = call.flag("start") if call.text("start") else None
    forks = await call.engine.forks.fork(
        _required(call, "container"), call.number("count", 1), call.text("name"), start=start
    )
    return call.json(
        [
            {"Id": each.id, "Name": each.name, "Error": each.error, "Warning": each.warning}
            for each in forks
        ],
        201,
    )


async def promote(call: Call) -> web.StreamResponse:
    """POST /skerry/promote?container=…&name=…: a machine with a stopped container's files."""
    made = await call.engine.forks.promote(_required(call, "container"), call.text("name"))
    return call.json({"Id": made.id, "Name": made.record.name}, 201)


async def difference(call: Call) -> web.StreamResponse:
    """GET /skerry/diff?from=…&to=…: containers or snapshots."""
    found = await call.engine.snapshots.difference(_required(call, "from"), _required(call, "to"))
    return call.json(
        [
            {"Path": each.path, "Kind": each.kind, "Before": each.before, "After": each.after}
            for each in found
        ]
    )


def _required(call: Call, name: str) -> str:
    value = call.text(name)
    if not value:
        raise InvalidInput(f"missing parameter: {name}")
    return value


ROUTES = [
    Route("POST", "/skerry/snapshots", create),
    Route("GET", "/skerry/snapshots", list_all),
    Route("POST", "/skerry/snapshots/import", import_, streams=True),
    Route("GET", "/skerry/snapshots/{id}", inspect),
    Route("GET", "/skerry/snapshots/{id}/export", export, streams=True),
    Route("POST", "/skerry/snapshots/{id}/restore", restore),
    Route("DELETE", "/skerry/snapshots/{id}", remove),
    Route("POST", "/skerry/fork", fork),
    Route("POST", "/skerry/promote", promote),
    Route("GET", "/skerry/diff", difference),
]
