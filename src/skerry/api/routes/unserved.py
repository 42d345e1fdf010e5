"""Endpoints of Docker's API that this engine does not have, answered honestly."""

import asyncio

from aiohttp import web

from skerry.api.call import Call
from skerry.api.router import Handle, Route
from skerry.base.errors import InvalidInput, NotFound, Unavailable, Unsupported
from skerry.engine import criu
from skerry.engine.filters import truth

NOT_A_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)


async def no_swarm(call: Call) -> web.StreamResponse:
    """Whatever only a swarm manager answers."""
    raise Unavailable(NOT_A_SWARM)


async def no_swarm_to_change(call: Call) -> web.StreamResponse:
    """Whatever a swarm manager takes a body for: Docker looks at that first."""
    await call.body()
    raise Unavailable(NOT_A_SWARM)


async def no_swarm_here(call: Call) -> web.StreamResponse:
    """Joining and making swarms."""
    body = await call.body()
    if not body.get("ListenAddr"):
        raise InvalidInput('invalid ListenAddr "": invalid empty address')
    raise Unsupported("this engine has no swarm mode")


async def no_build(call: Call) -> web.StreamResponse:
    """The sessions that BuildKit's clients open."""
    if not call.request.headers.get("Upgrade"):
        raise InvalidInput("no upgrade proto in request")
    raise Unsupported(
        "this engine does not speak BuildKit's protocol", hint="set DOCKER_BUILDKIT=0"
    )


async def no_plugin(call: Call) -> web.StreamResponse:
    """A plugin by name."""
    raise NotFound(f'plugin "{call.params["name"]}" not found')


async def no_plugins(call: Call) -> web.StreamResponse:
    """GET /plugins."""
    filters = call.filters()
    if unknown := filters.keys() - {"capability", "enabled"}:
        raise InvalidInput(f"invalid filter '{min(unknown)}'")
    truth("enabled", filters)
    return call.json([])


async def no_plugin_support(call: Call) -> web.StreamResponse:
    """Installing plugins."""
    raise Unsupported("this engine has no plugins")


async def build_prune(call: Call) -> web.StreamResponse:
    """POST /build/prune: no step's result is kept apart from its image."""
    return call.json({"CachesDeleted": None, "SpaceReclaimed": 0})


async def no_checkpoints(call: Call) -> web.StreamResponse:
    """Checkpoints of containers."""
    call.engine.containers.find(call.params["id"])
    why = await asyncio.to_thread(criu.probe)
    raise Unsupported(
        f"processes of containers cannot be checkpointed{f': {why}' if why else ''}",
        hint="`skerry snapshot create` keeps a container's files, and a machine as a whole",
    )


def _swarm() -> list[Route]:
    routes = [Route("GET", "/swarm", no_swarm)]
    for noun in ("nodes", "services", "tasks", "secrets", "configs"):
        routes.append(Route("GET", f"/{noun}", no_swarm))
        routes.append(Route("POST", f"/{noun}/create", no_swarm_to_change))
        routes.append(Route("POST", f"/{noun}/{{rest:*}}", no_swarm_to_change))
        methods = ("GET", "DELETE")
        routes += [Route(method, f"/{noun}/{{rest:*}}", no_swarm) for method in methods]
    routes += [Route("POST", f"/swarm/{verb}", no_swarm_here) for verb in ("init", "join")]
    verbs = ("update", "unlock")
    routes += [Route("POST", f"/swarm/{verb}", no_swarm_to_change) for verb in verbs]
    routes.append(Route("POST", "/swarm/leave", no_swarm))
    routes.append(Route("GET", "/swarm/unlockkey", no_swarm))
    return routes


_OTHERS: list[tuple[str, str, Handle]] = [
    ("POST", "/session", no_build),
    ("POST", "/grpc", no_build),
    ("GET", "/plugins", no_plugins),
    ("GET", "/plugins/privileges", no_plugin_support),
    ("POST", "/plugins/pull", no_plugin_support),
    ("POST", "/plugins/create", no_plugin_support),
    ("GET", "/plugins/{name:*}/json", no_plugin),
    ("GET", "/plugins/{name:*}", no_plugin),
    ("DELETE", "/plugins/{name:*}", no_plugin),
    *(
        ("POST", f"/plugins/{{name:*}}/{verb}", no_plugin)
        for verb in ("enable", "disable", "upgrade", "push", "set")
    ),
    ("GET", "/containers/{id}/checkpoints", no_checkpoints),
    ("POST", "/containers/{id}/checkpoints", no_checkpoints),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}", no_checkpoints),
]

ANSWERS = (no_plugins,)
"""Those of this module that answer what an engine without such things has to answer."""
ROUTES = _swarm() + [Route(*each) for each in _OTHERS]
