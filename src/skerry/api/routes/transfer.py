"""Pull, push, search, login and what a registry says of an image."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from aiohttp import web

from skerry.api import platform
from skerry.api.call import Call
from skerry.api.router import Route
from skerry.api.routes.image_archives import import_rootfs
from skerry.api.routes.images import progress
from skerry.base.errors import InvalidInput
from skerry.base.truths import TRUE
from skerry.engine.filters import truth
from skerry.registry.auth import Credential, decode_auth_config, decode_auth_header

_SEARCH_FILTERS = frozenset({"is-official", "is-automated", "stars"})


def credential(call: Call) -> Credential | None:
    """The request's `X-Registry-Auth`."""
    return decode_auth_header(call.request.headers.get("X-Registry-Auth", ""))


async def create(call: Call) -> web.StreamResponse:
    """POST /images/create: pull, or import a file system (`fromSrc`)."""
    if call.text("fromSrc"):
        return await import_rootfs(call)
    name = call.text("fromImage")
    if not name:
        raise InvalidInput("missing parameter: fromImage")
    tag = call.text("tag")
    separator = "@" if ":" in tag else ":"
    full = f"{name}{separator}{tag}" if tag else name
    transfer = call.engine.transfer
    return await _stream(
        call, transfer.pull(full, platform=call.text("platform"), credential=credential(call))
    )


async def push(call: Call) -> web.StreamResponse:
    """POST /images/{name}/push."""
    name, tag = call.params["name"], call.text("tag")
    platform.check(call, "push", f"{name}:{tag}" if tag else name)
    lines = call.engine.transfer.push(name, tag=tag, credential=credential(call))
    return await _stream(call, lines)


async def _stream(call: Call, lines: object) -> web.StreamResponse:
    # Closed here and not by the collector: a client that leaves ends the transfer at once.
    async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", lines)) as open_lines:
        return await progress(call, open_lines)


async def search(call: Call) -> web.StreamResponse:
    """GET /images/search."""
    term = call.text("term")
    if not term:
        raise InvalidInput("missing parameter: term")
    filters = call.filters()
    for key in filters:
        if key not in _SEARCH_FILTERS:
            raise InvalidInput(f"invalid filter '{key}'")
    stars = max((_number(each) for each in filters.get("stars", ())), default=0)
    for key in ("is-official", "is-automated"):
        truth(key, filters)
    found = await call.engine.transfer.search(term, call.number("limit", 25), credential(call))
    return call.json(
        [
            {
                "star_count": each.stars,
                "is_official": each.official,
                "is_automated": each.automated,
                "name": each.name,
                "description": each.description,
            }
            for each in found
            if each.stars >= stars
            and _agrees(filters.get("is-official"), each.official)
            and _agrees(filters.get("is-automated"), each.automated)
        ]
    )


def _agrees(wanted: frozenset[str] | None, value: bool) -> bool:
    return not wanted or bool(wanted & TRUE) == value


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInput(
            f"invalid filter 'stars={text:.40}': strconv.Atoi: "
            f'parsing "{text:.40}": invalid syntax'
        )
    return int(text)


async def auth(call: Call) -> web.StreamResponse:
    """POST /auth: whether a registry accepts a login."""
    body = await call.body()
    server = body.get("serveraddress") or ""
    if not isinstance(server, str):
        raise InvalidInput("invalid JSON: serveraddress has to be a string")
    accepted = await call.engine.transfer.login(server, decode_auth_config(body))
    return call.json({"Status": "Login Succeeded", "IdentityToken": accepted.identity_token})


async def distribution(call: Call) -> web.StreamResponse:
    """GET /distribution/{name}/json."""
    found, platforms = await call.engine.transfer.distribution(
        call.params["name"], credential(call)
    )
    return call.json(
        {
            "Descriptor": {
                "mediaType": found.media_type,
                "digest": found.digest,
                "size": len(found.data),
            },
            "Platforms": [
                {
                    "architecture": each.architecture,
                    "os": each.os,
                    **({"variant": each.variant} if each.variant else {}),
                    **({"os.version": each.os_version} if each.os_version else {}),
                }
                for each in platforms
            ],
        }
    )


ROUTES = [
    Route("POST", "/images/create", create, streams=True),
    Route("GET", "/images/search", search),
    Route("POST", "/images/{name:*}/push", push, streams=True),
    Route("GET", "/distribution/{name:*}/json", distribution),
    Route("POST", "/auth", auth),
]
