"""/skerry/copy: an image from one place to another."""

from contextlib import AsyncExitStack

from aiohttp import web

from skerry.api.call import Call
from skerry.api.router import Route
from skerry.api.routes.image_archives import archive
from skerry.api.routes.images import progress
from skerry.base.errors import InvalidInput
from skerry.engine.archives import as_file
from skerry.engine.copying import ARCHIVE, IMAGE, KINDS, REGISTRY, Source
from skerry.engine.transfer import parse_platform
from skerry.registry.auth import Credential, decode_auth_header
from skerry.store.formats.intake import Choice


def _credential(call: Call, header: str) -> Credential | None:
    value = call.request.headers.get(header, "")
    return decode_auth_header(value) if value else None


async def copy(call: Call) -> web.StreamResponse:
    """POST /skerry/copy?from=KIND&source=NAME&to=KIND&target=NAME&…

    Of an archive also `format` and `compression`.

    KIND is archive, image or registry. An archive comes in the body, or is the answer; the answer
    is a progress stream otherwise. `X-Registry-Auth` is for the target, `X-Source-Registry-Auth`
    for the source. Without `referrers=0` what is about the image comes along. `platform` chooses
    from an index, `all=1` takes all of it.
    """
    origin, goal = call.text("from"), call.text("to")
    name, target = call.text("source"), call.text("target")
    for kind in (origin, goal):
        if kind not in KINDS:
            raise InvalidInput(f"invalid place {kind!r:.40}: one of {', '.join(KINDS)}")
    if (origin != ARCHIVE and not name) or (goal == REGISTRY and not target):
        raise InvalidInput("missing parameter: the image's name")
    service = call.engine.copying
    async with AsyncExitStack() as stack:
        stream = None
        if origin == ARCHIVE:
            stream = await stack.enter_async_context(as_file(call.chunks()))
        source = Source(
            origin,
            name,
            stream,
            _credential(call, "X-Source-Registry-Auth"),
            call.flag("referrers", True),
            Choice(parse_platform(call.text("platform")), call.flag("all")),
        )
        if goal == ARCHIVE:
            chunks = service.to_archive(
                source,
                target,
                call.text("format", "oci-archive"),
                call.text("compression", "none"),
            )
            return await archive(call, chunks)
        if goal == IMAGE:
            return await progress(call, service.to_image(source, target))
        credential = _credential(call, "X-Registry-Auth")
        return await progress(call, service.to_registry(source, target, credential))


ROUTES = [Route("POST", "/skerry/copy", copy, streams=True)]
