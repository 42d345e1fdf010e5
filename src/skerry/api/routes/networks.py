"""/networks."""

import contextlib
from typing import Any

from aiohttp import web

from skerry.api import network_shapes, versions
from skerry.api.call import Call, no_content
from skerry.api.formats import parse_time
from skerry.api.router import Route
from skerry.base.errors import InvalidInput, NotFound, SkerryError
from skerry.engine import network_record, validation
from skerry.engine.container import Container
from skerry.engine.network_record import HOST, NONE, Network

_CONNECT = validation.fields(
    {
        "Container": validation.text(255),
        "Force": validation.flag,
        "EndpointConfig": validation.endpoint,
    }
)


async def _default(call: Call) -> None:
    """The default network is made when somebody looks, where there can be one."""
    with contextlib.suppress(SkerryError):
        if await call.engine.networks.possible():
            await call.engine.networks.default()


async def list_all(call: Call) -> web.StreamResponse:
    """GET /networks."""
    await _default(call)
    chosen = call.engine.networks.select(call.filters())
    if versions.networks_list_containers(call.version):
        return call.json([_with_containers(call, each) for each in chosen])
    return call.json([network_shapes.network(each) for each in chosen])


def _with_containers(call: Call, found: Network) -> dict[str, Any]:
    if found.name in (HOST, NONE):
        return network_shapes.alone(found, call.engine.containers.all())
    return network_shapes.network(found, call.engine.endpoints.members(found))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}."""
    await _default(call)
    scope = call.text("scope")
    found = call.engine.networks.find(call.params["id"])
    if scope not in ("", "local"):
        raise NotFound(f"network {call.params['id']} not found")
    return call.json(_with_containers(call, found))


async def create(call: Call) -> web.StreamResponse:
    """POST /networks/create."""
    body = network_record.BODY(await call.body(), "")
    network = await call.engine.networks.create(body)
    return call.json({"Id": network.id, "Warning": ""}, 201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /networks/{id}."""
    await call.engine.networks.remove(call.params["id"])
    return no_content()


async def _joining(call: Call) -> tuple[Container, dict[str, Any]]:
    body: dict[str, Any] = _CONNECT(await call.body(), "")
    reference = body.get("Container", "")
    if not reference:
        raise InvalidInput("Container: the name or id of a container is needed")
    call.engine.networks.find(call.params["id"])
    return call.engine.containers.find(reference), body


async def connect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/connect."""
    container, body = await _joining(call)
    await call.engine.endpoints.connect(
        call.params["id"], container, body.get("EndpointConfig") or {}
    )
    call.engine.lifecycle.save(container)
    return web.Response(status=200)


async def disconnect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/disconnect."""
    container, body = await _joining(call)
    await call.engine.endpoints.disconnect(
        call.params["id"], container, force=bool(body.get("Force"))
    )
    call.engine.lifecycle.save(container)
    return web.Response(status=200)


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune."""
    filters: dict[str, frozenset[str]] = call.filters()
    if "until" in filters:
        filters["until"] = frozenset(str(parse_time(each)) for each in filters["until"])
    gone = await call.engine.networks.prune(filters)
    call.engine.events.emit("network", "prune", "", {"reclaimed": "0"})
    return call.json({"NetworksDeleted": gone or None})


ROUTES = [
    Route("GET", "/networks", list_all, reads=True),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{id}", inspect, reads=True),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
]
