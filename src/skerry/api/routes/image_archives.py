"""/images as files: get (save), load, and the import half of create."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, BinaryIO

from aiohttp import web

from skerry.api import platform
from skerry.api.call import Call
from skerry.api.router import Route
from skerry.api.routes.images import progress
from skerry.base.architectures import architecture
from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.references import parse_reference
from skerry.build.changes import applied
from skerry.build.downloads import Downloads
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
        lines = call.engine.archives.load(stream, call.text("tag"))
        # Clients look for what is wrong with an archive in the stream, where Docker tells it.
        return await progress(call, lines, tell_all=True)


async def import_rootfs(call: Call) -> web.StreamResponse:
    """POST /images/create?fromSrc=…: a tar archive of a root file system, in the body (`-`) or at
    a URL."""
    source = call.text("fromSrc")
    repository, tag = call.text("repo"), call.text("tag")
    name = f"{repository}:{tag}" if repository and tag else repository
    if name and parse_reference(name).digest:
        raise InvalidInput("cannot import digest reference")
    config = applied({}, call.query.getall("changes", []))

    def lines(stream: BinaryIO) -> AsyncIterator[dict[str, Any]]:
        return call.engine.archives.import_rootfs(
            stream,
            config,
            tag=name,
            message=call.text("message") or f"Imported from {source}",
            platform=call.text("platform"),
        )

    if source != "-":
        return await progress(call, _fetched(call.builder.downloads, source, lines))
    async with as_file(call.chunks()) as stream:
        return await progress(call, lines(stream))


async def _fetched(
    downloads: Downloads, source: str, lines: Callable[[BinaryIO], AsyncIterator[dict[str, Any]]]
) -> AsyncIterator[dict[str, Any]]:
    url = source if "://" in source else f"http://{source}"
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidInput(f"cannot import {source:.200}: only http and https are fetched")
    yield {"status": f"Downloading from {url}"}
    found = await downloads.fetch(url)
    with open(found.path, "rb") as stream:
        async for each in lines(stream):
            yield each


ROUTES = [
    Route("POST", "/images/load", load, streams=True),
    Route("GET", "/images/get", save, streams=True),
    Route("GET", "/images/{name:*}/get", save, streams=True),
]
