"""/images as files: get (save), load, and the import half of create."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiohttp import web

from skerry.api import platform
from skerry.api.call import Call
from skerry.api.router import Route
from skerry.api.routes.images import progress
from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.references import parse_reference
from skerry.build.changes import applied
from skerry.engine.archives import as_file

TAR = "application/x-tar"


async def save(call: Call) -> web.StreamResponse:
    """GET /images/get?names=… and /images/{name}/get.

    `format`, `compression` and `referrers` are our own.
    """
    names = [call.params["name"]] if "name" in call.params else call.query.getall("names", [])
    platform.check(call, "save", *names)
    chunks = call.engine.archives.save(
        names,
        call.text("format", "docker-archive") or "docker-archive",
        call.text("compression", "none") or "none",
        referrers=call.flag("referrers"),
    )
    return await archive(call, chunks)


async def archive(call: Call, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
    """An archive as the answer; an error before its first piece is an answer of its own."""
    async with aclosing(chunks) as stream:  # type: ignore[type-var]
        first = await anext(stream, b"")
        response = await call.stream(TAR)
        await response.write(first)
        async for chunk in stream:
            await response.write(chunk)
    return response


async def load(call: Call) -> web.StreamResponse:
    """POST /images/load: an archive of images in the body; `tag` is our own."""
    wanted = platform.wanted(call, "load")
    if wanted and wanted.architecture != architecture():
        raise Unsupported("images are loaded from archives for this machine's platform alone")
    async with as_file(call.chunks()) as stream:
        return await progress(call, call.engine.archives.load(stream, call.text("tag")))


async def import_rootfs(call: Call) -> web.StreamResponse:
    """POST /images/create?fromSrc=-: a tar archive of a root file system in the body."""
    if call.text("fromSrc") != "-":
        raise Unsupported(
            "importing from a URL is not supported",
            hint="fetch the archive and import it from standard input",
        )
    repository, tag = call.text("repo"), call.text("tag")
    name = f"{repository}:{tag}" if repository and tag else repository
    if name and parse_reference(name).digest:
        raise InvalidInput("cannot import digest reference")
    config = applied({}, call.query.getall("changes", []))
    async with as_file(call.chunks()) as stream:
        return await progress(
            call,
            call.engine.archives.import_rootfs(
                stream,
                config,
                tag=name,
                message=call.text("message") or "Imported from -",
                platform=call.text("platform"),
            ),
        )


ROUTES = [
    Route("POST", "/images/load", load, streams=True),
    Route("GET", "/images/get", save, streams=True),
    Route("GET", "/images/{name:*}/get", save, streams=True),
]
