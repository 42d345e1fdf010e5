"""/networks: the two that need nothing, none and host. Bridges are not there yet."""

from typing import Any

from aiohttp import web

from skerry.api.call import Call
from skerry.api.router import Route
from skerry.base.errors import Forbidden, NotFound, Unsupported
from skerry.engine.filters import search

Json = dict[str, Any]

_DRIVERS = {"host": "host", "none": "null"}


def shape(name: str, call: Call) -> Json:
    """A network with the containers that run in it."""
    containers = {
        each.id: {
            "Name": each.record.name,
            "EndpointID": "",
            "MacAddress": "",
            "IPv4Address": "",
            "IPv6Address": "",
        }
        for each in call.engine.containers.all()
        if each.running and each.record.host.get("NetworkMode") == name
    }
    return {
        "Name": name,
        # There is one of each per host, so the id only has to look like one.
        "Id": name.encode().hex().ljust(64, "0"),
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": _DRIVERS[name],
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": None},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": {},
        "Labels": {},
    }


async def list_all(call: Call) -> web.StreamResponse:
    """GET /networks."""
    filters = call.filters()
    result = []
    for name in _DRIVERS:
        found = shape(name, call)
        found["Containers"] = {}
        if all(
            any(_accepts(found, key, each) for each in wanted) for key, wanted in filters.items()
        ):
            result.append(found)
    return call.json(result)


def _accepts(found: Json, key: str, wanted: str) -> bool:
    match key:
        case "name":
            return search(wanted, found["Name"])
        case "driver":
            return bool(found["Driver"] == wanted)
        case "id":
            return bool(found["Id"].startswith(wanted))
        case "type":
            return wanted == "builtin"
        case "scope":
            return wanted == "local"
        case "dangling":
            return wanted in ("false", "0")
        case _:
            return False


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}."""
    return call.json(shape(_find(call), call))


def _find(call: Call) -> str:
    wanted = call.params["id"]
    for name in _DRIVERS:
        if wanted == name or name.encode().hex().ljust(64, "0").startswith(wanted):
            return name
    raise NotFound(f"network {wanted} not found")


async def create(call: Call) -> web.StreamResponse:
    """POST /networks/create."""
    raise Unsupported("this engine has no bridge networks yet", hint="use --network none or host")


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /networks/{id}."""
    raise Forbidden(f"{_find(call)} is a pre-defined network and cannot be removed")


async def connect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/connect and disconnect."""
    _find(call)
    raise Unsupported("a container's network cannot be changed after its creation yet")


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune."""
    return call.json({"NetworksDeleted": None})


ROUTES = [
    Route("GET", "/networks", list_all),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{id}", inspect),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", connect),
]
