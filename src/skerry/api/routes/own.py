"""/skerry: what Docker's API has no word for."""

import asyncio

from aiohttp import web

from skerry.api.call import Call
from skerry.api.router import Route
from skerry.api.routes.images import progress
from skerry.base.errors import InvalidInput, Unsupported


async def bootstrap(call: Call) -> web.StreamResponse:
    """POST /skerry/bootstrap?name=…&include=…&mirror=…&tag=…: a stream of progress lines."""
    name = call.text("name")
    if not name:
        raise InvalidInput("missing parameter: name")
    include = tuple(
        word for text in call.query.getall("include", []) for word in text.replace(",", " ").split()
    )
    return await progress(
        call,
        call.engine.images.bootstrap(
            name,
            include=include,
            mirror=call.text("mirror"),
            tag=call.text("tag"),
            key=call.text("key"),
        ),
    )


async def usage(call: Call) -> web.StreamResponse:
    """GET /skerry/usage: every byte of the root, by category."""
    found = await call.engine.accounts.usage()
    volumes = sum(each.bytes for each in found.volumes)
    return call.json(
        {
            "root": call.engine.settings.root,
            "total": found.store.total,
            "reclaimable": found.store.reclaimable,
            "volumes": volumes,
            "categories": {name: each._asdict() for name, each in found.store.categories.items()},
        }
    )


async def doctor(call: Call) -> web.StreamResponse:
    """GET /skerry/doctor: what this host can and cannot do."""
    try:
        from skerry.engine import host
    except ImportError:
        raise Unsupported("this engine has no doctor") from None
    found = await asyncio.to_thread(host.examine, call.engine.settings.root)
    return call.json([each._asdict() for each in found])


ROUTES = [
    Route("POST", "/skerry/bootstrap", bootstrap, streams=True),
    Route("GET", "/skerry/usage", usage),
    Route("GET", "/skerry/doctor", doctor),
]
