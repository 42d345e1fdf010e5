"""/volumes."""

import asyncio
from contextlib import aclosing
from typing import Any

from aiohttp import web

from skerry.api import versions
from skerry.api.call import Call, no_content
from skerry.api.formats import rfc3339
from skerry.api.router import Route
from skerry.api.routes.archive import TAR
from skerry.api.routes.unserved import NOT_A_SWARM
from skerry.base.errors import Conflict, InvalidInput, Unavailable
from skerry.engine import validation
from skerry.engine.filters import label_matches, search, truth
from skerry.engine.usage import volume_bytes
from skerry.engine.volumes import Volume, check_driver

Json = dict[str, Any]

_BODY = validation.fields(
    {
        "Name": validation.text(255),
        "Driver": validation.string,
        "DriverOpts": validation.table(validation.string, 64),
        "Labels": validation.labels,
    }
)


def volume_shape(volume: Volume, *, size: int = -1, users: int = -1) -> Json:
    """A volume; sizes only where they were measured, -1 for a device of elsewhere."""
    labels = volume.labels
    if volume.anonymous:
        labels = {**labels, "com.docker.volume.anonymous": ""}
    result: Json = {
        "CreatedAt": rfc3339(volume.created_at // 10**9 * 10**9),
        "Driver": "local",
        "Labels": labels or None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }
    if size >= 0:
        result["UsageData"] = {"Size": -1 if volume.mounts else size, "RefCount": users}
    return result


async def list_all(call: Call) -> web.StreamResponse:
    """GET /volumes."""
    filters = call.filters()
    volumes = call.engine.volumes.all()
    chosen = [volume_shape(each) for each in volumes if _accepts(call, each, filters)]
    return call.json({"Volumes": chosen, "Warnings": None})


def _accepts(call: Call, volume: Volume, filters: dict[str, frozenset[str]]) -> bool:
    for key, wanted in filters.items():
        match key:
            case "name":
                good = any(search(each, volume.name) for each in wanted)
            case "label":
                good = all(label_matches(volume.labels, each) for each in wanted)
            case "driver":
                good = "local" in wanted
            case "dangling":
                unused = not call.engine.volumes.in_use(volume.name)
                good = unused == truth(key, filters)
            case _:
                raise InvalidInput(f"invalid filter '{key}'")
        if not good:
            return False
    return True


async def create(call: Call) -> web.StreamResponse:
    """POST /volumes/create."""
    said = await call.body()
    body = _BODY(said, "")
    if said.get("ClusterVolumeSpec") is not None:
        raise Unavailable(NOT_A_SWARM)
    check_driver(body)
    name = body.get("Name", "")
    volume = call.engine.volumes.create(
        name, body.get("Labels"), anonymous=not name, options=body.get("DriverOpts")
    )
    return call.json(volume_shape(volume), 201)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /volumes/{name}."""
    return call.json(volume_shape(call.engine.volumes.get(call.params["name"])))


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /volumes/{name}."""
    call.engine.volumes.remove(call.params["name"], force=call.flag("force"))
    return no_content()


async def prune(call: Call) -> web.StreamResponse:
    """POST /volumes/prune: anonymous ones that nobody holds, all such with `all`."""
    filters = call.filters()
    if unknown := filters.keys() - {"all", "label", "label!"}:
        raise InvalidInput(f"invalid filter '{min(unknown)}'")
    everything = truth("all", filters)
    everything = everything or versions.prunes_named_volumes(call.version)
    names, freed = [], 0
    for volume in call.engine.volumes.all():
        if call.engine.volumes.in_use(volume.name) or not (volume.anonymous or everything):
            continue
        if volume.options:
            # As with Docker: what somebody has configured goes by name only.
            continue
        if not all(label_matches(volume.labels, each) for each in filters.get("label", ())):
            continue
        if any(label_matches(volume.labels, each) for each in filters.get("label!", ())):
            continue
        size = await asyncio.to_thread(volume_bytes, volume)
        try:
            call.engine.volumes.remove(volume.name, force=True)
        except Conflict:
            continue
        freed += size
        names.append(volume.name)
    call.engine.events.emit("volume", "prune", "", {"reclaimed": str(freed)})
    return call.json({"VolumesDeleted": names or None, "SpaceReclaimed": freed})


async def export(call: Call) -> web.StreamResponse:
    """GET /skerry/volumes/{name}/archive: what is in it, as tar."""
    call.engine.volumes.get(call.params["name"])
    async with aclosing(call.engine.volume_archives.export(call.params["name"])) as pieces:
        first = await anext(pieces, b"")
        response = await call.stream(TAR)
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
    return response


async def restore(call: Call) -> web.StreamResponse:
    """PUT /skerry/volumes/{name}/archive: replace what is in it; made when it is missing."""
    volume = await call.engine.volume_archives.restore(call.params["name"], call.chunks())
    return call.json(volume_shape(volume))


async def update(call: Call) -> web.StreamResponse:
    """PUT /volumes/{name}: cluster volumes only, as with Docker."""
    raise Unavailable(NOT_A_SWARM)


ROUTES = [
    Route("GET", "/volumes", list_all, reads=True),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect, reads=True),
    Route("DELETE", "/volumes/{name}", remove),
    Route("PUT", "/volumes/{name}", update),
    Route("GET", "/skerry/volumes/{name}/archive", export, streams=True),
    Route("PUT", "/skerry/volumes/{name}/archive", restore),
]
