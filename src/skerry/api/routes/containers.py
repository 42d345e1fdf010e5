"""/containers: everything that answers at once. Streams are in `streams`, files in `archive`."""

import asyncio

from aiohttp import web

from skerry.api import container_list, container_shapes, versions
from skerry.api.call import BODY_LIMIT, Call, line, no_content
from skerry.api.formats import parse_time
from skerry.api.router import Route
from skerry.base.architectures import go
from skerry.base.errors import InvalidInput, NotFound
from skerry.engine import validation

_WAITS = {
    "": "not-running",
    "not-running": "not-running",
    "next-exit": "next-exit",
    "removed": "removed",
}


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/create."""
    body = await call.body()
    config = validation.CONFIG(body, "")
    given = body.get("HostConfig")
    host = versions.create_host(
        call.version, validation.HOST({} if given is None else given, "HostConfig")
    )
    network = validation.endpoints(body.get("NetworkingConfig"))
    platform = call.text("platform")
    if platform and platform.split("/")[0] != "linux":
        raise InvalidInput(f"platform {platform:.60} does not match this host")
    if platform:
        _check_platform(call, config.get("Image") or "", platform)
    container, warnings = await call.engine.containers.create(
        config, host, network, call.text("name")
    )
    return call.json({"Id": container.id, "Warnings": warnings}, 201)


def _check_platform(call: Call, reference: str, platform: str) -> None:
    """NotFound, upon which clients pull, when the image that is here is for other machines."""
    wanted = platform.split("/")
    image = call.engine.images.get(reference)
    if len(wanted) > 1 and go(wanted[1]) != image.architecture:
        raise NotFound(
            f"image with reference {reference} was found but does not provide the specified "
            f"platform ({platform:.60})"
        )


async def list_all(call: Call) -> web.StreamResponse:
    """GET /containers/json."""
    service, engine = call.engine.containers, call.engine
    chosen = service.select(call.filters(), all=call.flag("all"), limit=call.number("limit", -1))
    if not call.flag("size"):
        return call.whole_json(container_list.lines(chosen, engine.networks, engine.endpoints))
    lines = []
    for each in chosen:
        size = await asyncio.to_thread(service.size, each)
        lines.append(
            container_shapes.summary(
                each,
                engine.networks,
                engine.endpoints,
                size=size,
                root_size=_root_size(call, each.record.image_id),
            )
        )
    return call.json(lines)


def _root_size(call: Call, image_id: str) -> int:
    for image in call.engine.images.select({}, all=True):
        if image.id == image_id:
            return image.size
    return 0


async def inspect(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/json."""
    service = call.engine.containers
    container = service.find(call.params["id"])
    sizes = None
    if call.flag("size"):
        own = await asyncio.to_thread(service.size, container)
        sizes = (own, own + _root_size(call, container.record.image_id))
    return call.json(
        container_shapes.inspect(
            container,
            call.engine.networks,
            call.engine.endpoints,
            state_dir=call.engine.lifecycle.state_dir(container.id),
            platform="linux",
            cgroup_version=call.engine.host.cgroup_version,
            version=call.version,
            sizes=sizes,
        )
    )


async def start(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/start."""
    # Docker lets `{}` and `null` of careless clients pass.
    if len(await call.whole(BODY_LIMIT)) > 7:
        raise InvalidInput(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    await call.engine.containers.start(call.params["id"])
    return no_content()


def _timeout(call: Call) -> int | None:
    return call.number("t") if call.text("t") else None


def _signal(call: Call) -> str:
    return call.text("signal") if versions.stop_takes_a_signal(call.version) else ""


async def stop(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/stop."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.stop(container, _timeout(call), _signal(call))
    return no_content()


async def restart(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/restart."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.restart(container, _timeout(call), _signal(call))
    return no_content()


async def kill(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/kill."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.kill(container, call.text("signal"))
    return no_content()


async def pause(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/pause."""
    await call.engine.lifecycle.pause(call.engine.containers.find(call.params["id"]))
    return no_content()


async def unpause(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/unpause."""
    await call.engine.lifecycle.unpause(call.engine.containers.find(call.params["id"]))
    return no_content()


async def wait(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/wait. The headers go out at once: clients start the container then."""
    condition = _WAITS.get(call.text("condition"))
    if condition is None:
        raise InvalidInput(f'invalid condition: "{call.text("condition"):.40}"')
    container = call.engine.containers.find(call.params["id"])
    ended = asyncio.ensure_future(call.engine.lifecycle.wait(container, condition))
    # Let it begin to wait before the client is told to go on.
    await asyncio.sleep(0)
    if not versions.wait_answers_at_once(call.version):
        return call.json({"StatusCode": (await ended).code})
    try:
        response = await call.stream()
        exit = await ended
        await response.write(line({"StatusCode": exit.code}))
    finally:
        ended.cancel()
    return response


async def rename(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/rename."""
    call.engine.containers.rename(call.params["id"], call.text("name"))
    return no_content()


async def update(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/update."""
    changes = validation.UPDATE(await call.body(), "")
    warnings = await call.engine.containers.update(call.params["id"], changes)
    return call.json({"Warnings": warnings})


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /containers/{id}."""
    if call.flag("link"):
        raise InvalidInput("links are not supported")
    await call.engine.containers.remove(
        call.params["id"], force=call.flag("force"), volumes=call.flag("v")
    )
    return no_content()


async def resize(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/resize."""
    await call.engine.containers.resize(call.params["id"], *size_of(call))
    return web.Response(status=200)


def size_of(call: Call) -> tuple[int, int]:
    """Rows and columns of the query."""
    return _extent(call, "h", "height"), _extent(call, "w", "width")


def _extent(call: Call, name: str, noun: str) -> int:
    said = call.text(name)
    if not (said.isascii() and said.isdigit()):
        raise InvalidInput(f'invalid resize {noun} "{said:.40}": invalid syntax')
    if len(said) > 5 or int(said) > 65535:
        raise InvalidInput(f'invalid resize {noun} "{said:.40}": value out of range')
    return int(said)


async def top(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/top."""
    table = await call.engine.containers.top(call.params["id"], call.text("ps_args", "-ef"))
    return call.json({"Titles": table.titles, "Processes": table.rows})


async def changes(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/changes."""
    container = call.engine.containers.find(call.params["id"])
    await call.engine.lifecycle.settle(container)
    found = await asyncio.to_thread(call.engine.store.snapshots.changes, container.id)
    return call.json([{"Path": each.path, "Kind": each.kind} for each in found] or None)


async def prune(call: Call) -> web.StreamResponse:
    """POST /containers/prune."""
    removed = await call.engine.containers.prune(until_as_time(call.filters()))
    return call.json({"ContainersDeleted": removed.ids or None, "SpaceReclaimed": removed.bytes})


def until_as_time(filters: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The `until` filter in nanoseconds, as the engine takes it."""
    if "until" not in filters:
        return filters
    if len(filters["until"]) > 1:
        raise InvalidInput("more than one until filter specified")
    times = frozenset(str(parse_time(each)) for each in filters["until"])
    return {**filters, "until": times}


ROUTES = [
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_all, reads=True),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{id}/json", inspect, reads=True),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/wait", wait, streams=True),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/update", update),
    Route("POST", "/containers/{id}/resize", resize),
    Route("GET", "/containers/{id}/top", top),
    Route("GET", "/containers/{id}/changes", changes),
    Route("DELETE", "/containers/{id}", remove),
]
