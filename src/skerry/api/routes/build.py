"""POST /build, the classic builder's endpoint, and the build cache: prune, cancel."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from aiohttp import web

from skerry.api import versions
from skerry.api.build_options import credentials, tag
from skerry.api.build_stream import Classic
from skerry.api.call import Call, line
from skerry.api.errors import message_of
from skerry.api.formats import rfc3339
from skerry.api.router import Route
from skerry.api.versions import Version
from skerry.base.errors import GuestFault, InvalidInput, SkerryError, Unsupported
from skerry.build.errors import StepFailed
from skerry.build.inventory import Entry, Rule
from skerry.build.receiving import receive, remote_context
from skerry.build.request import CacheSource, Options
from skerry.build.tree import Tree
from skerry.build.trees import MAIN, Context
from skerry.registry.auth import Credential

_HEADER_LIMIT: Final = 64 << 10
_LIMITS: Final = {
    "memory": "Memory",
    "memswap": "MemorySwap",
    "cpushares": "CpuShares",
    "cpuperiod": "CpuPeriod",
    "cpuquota": "CpuQuota",
    "shmsize": "ShmSize",
}


def _object(call: Call, name: str) -> dict[str, Any]:
    """A JSON object in the query."""
    raw = call.text(name)
    if not raw:
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput(f"invalid value for {name}: not a JSON object")
    return value


def _strings(call: Call, name: str) -> dict[str, str]:
    return {key: "" if each is None else str(each) for key, each in _object(call, name).items()}


def registry_config(value: str) -> Mapping[str, Credential]:
    """`X-Registry-Config`: base64url JSON, registry to AuthConfig. InvalidInput."""
    if not value.strip():
        return {}
    if len(value) > _HEADER_LIMIT:
        raise InvalidInput(f"X-Registry-Config: more than {_HEADER_LIMIT} bytes")
    try:
        data = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise InvalidInput("X-Registry-Config: not base64 of a JSON object")
    return credentials(data)


def classic_options(call: Call) -> Options:
    """The query of POST /build. InvalidInput."""
    tags = [tag(text) for text in call.query.getall("t", []) if text]
    if (version := call.text("version")) not in ("", "1", "2"):
        raise InvalidInput(f'invalid version "{version:.40}"')
    if version == "2" or call.text("remote") == "client-session":
        raise Unsupported(
            "this engine does not speak BuildKit's protocol", hint="set DOCKER_BUILDKIT=0"
        )
    arguments = _object(call, "buildargs")
    if not all(value is None or isinstance(value, str) for value in arguments.values()):
        raise InvalidInput("invalid value for buildargs: values have to be strings")
    host: dict[str, Any] = {
        key: call.number(name) for name, key in _LIMITS.items() if call.number(name)
    }
    if cpus := call.text("cpusetcpus"):
        host["CpusetCpus"] = cpus
    if nodes := call.text("cpusetmems"):
        host["CpusetMems"] = nodes
    if hosts := [each for text in call.query.getall("extrahosts", []) for each in _list(text)]:
        host["ExtraHosts"] = hosts
    if ulimits := call.text("ulimits"):
        host["Ulimits"] = _json_list(ulimits, "ulimits")
    if parent := call.text("cgroupparent"):
        host["CgroupParent"] = parent
    security = [each for text in call.query.getall("securityopt", []) for each in _list(text)]
    if security:
        host["SecurityOpt"] = security
    if (isolation := call.text("isolation")) not in ("", "default"):
        raise InvalidInput(f"unsupported isolation: {isolation!r:.40}")
    sources = _json_list(call.text("cachefrom") or "[]", "cachefrom")
    return Options(
        dockerfile=call.text("dockerfile") or "Dockerfile",
        target=call.text("target"),
        tags=tuple(dict.fromkeys(tags)),
        build_args=arguments,
        labels=_strings(call, "labels"),
        platform=call.text("platform"),
        pull=call.flag("pull"),
        no_cache=call.flag("nocache"),
        network=call.text("networkmode") or "default",
        host=host,
        cache_from=tuple(CacheSource("image", str(each)) for each in sources),
        squash=call.flag("squash"),
        credentials=registry_config(call.request.headers.get("X-Registry-Config", "")),
    )


def _list(text: str) -> list[str]:
    """A value that may be a JSON list, or one of several plain ones."""
    return [str(each) for each in _json_list(text, "list")] if text[:1] == "[" else [text]


def _json_list(text: str, what: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = ()
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"invalid value for {what}: not a JSON list")
    return value


async def build(call: Call) -> web.StreamResponse:
    """POST /build."""
    options = classic_options(call)
    async with AsyncExitStack() as held:
        tree: Tree
        if remote := call.text("remote"):
            tree, options = await remote_context(call.builder, remote, options, held)
        else:
            received = await receive(call.builder, call.chunks(), "build context")
            held.callback(received.close)
            tree = received
        contexts = {MAIN: Context(tree)}
        events = call.builder.build(options, contexts, id=call.text("buildid"))
        return await _answer(call, options, events)


async def _answer(call: Call, options: Options, events: AsyncIterator[Any]) -> web.StreamResponse:
    shape = Classic(options.tags, quiet=call.flag("q"))
    response = None
    async with aclosing(events) as stream:  # type: ignore[type-var]
        try:
            async for found in stream:
                messages = [line(each) for event in found for each in shape.take(event)]
                if messages:
                    response = response or await call.stream()
                    await response.write(b"".join(messages))
        except (SkerryError, GuestFault) as error:
            if response is None and not isinstance(error, GuestFault):
                raise
            response = response or await call.stream()
            await response.write(line(error_line(error)))
    return response or await call.stream()


def error_line(error: SkerryError | GuestFault) -> dict[str, Any]:
    """The stream's last line; `code` is the status of the program that failed."""
    # Docker's words, and the source where they do not say all.
    plain = isinstance(error, StepFailed) and not error.explained
    text = error.message if plain else message_of(error)
    detail: dict[str, Any] = {"message": text}
    if isinstance(error, StepFailed):
        detail = {"code": error.code, "message": text}
    return {"errorDetail": detail, "error": text}


async def cancel(call: Call) -> web.StreamResponse:
    """POST /build/cancel."""
    if not call.text("id"):
        raise InvalidInput("build ID not provided")
    call.builder.cancel(call.text("id"))
    return web.Response(status=204)


def entry_shape(entry: Entry, version: Version) -> dict[str, Any]:
    """A BuildCache object."""
    result = {"Parent": entry.parent} if versions.tells_builder_size(version) else {}
    return result | {
        "ID": entry.id,
        "Parents": [entry.parent] if entry.parent else [],
        "Type": entry.kind,
        "Description": entry.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "CreatedAt": rfc3339(int(entry.created_at * 1e9)),
        "LastUsedAt": rfc3339(int(entry.used_at * 1e9)),
        "UsageCount": entry.uses,
    }


async def prune(call: Call) -> web.StreamResponse:
    """POST /build/prune."""
    rule = Rule(
        everything=call.flag("all"),
        keep_bytes=call.number("reserved-space") or call.number("keep-storage"),
        max_bytes=call.number("max-used-space"),
        min_free=call.number("min-free-space"),
        filters=call.filters(),
    )
    gone = await asyncio.to_thread(call.builder.inventory.prune, rule)
    call.engine.events.emit("builder", "prune", "", {"reclaimed": str(gone.bytes)})
    return call.json({"CachesDeleted": gone.ids or None, "SpaceReclaimed": gone.bytes})


ROUTES = [
    Route("POST", "/build/prune", prune),
    Route("POST", "/build", build, streams=True),
    Route("POST", "/build/cancel", cancel),
]
