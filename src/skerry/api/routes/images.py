"""/images, and /commit, which makes one."""

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from skerry.api import container_shapes, image_shapes, platform, versions
from skerry.api.call import Call, line
from skerry.api.errors import message_of
from skerry.api.router import Route
from skerry.api.routes.containers import until_as_time
from skerry.base.errors import GuestFault, InvalidInput, SkerryError
from skerry.base.references import parse_reference
from skerry.build.changes import applied
from skerry.engine import validation


async def list_all(call: Call) -> web.StreamResponse:
    """GET /images/json."""
    service = call.engine.images
    filters = until_as_time(call.filters())
    if versions.filters_images_by_name(call.version) and call.text("filter"):
        filters = {**filters, "reference": frozenset({call.text("filter")})}
    images = service.select(filters, all=call.flag("all"))
    return call.json(
        [
            image_shapes.summary(each, call.version, containers=service.users(each))
            for each in images
        ]
    )


async def inspect(call: Call) -> web.StreamResponse:
    """GET /images/{name}/json."""
    wanted = platform.wanted(call, "inspect")
    if wanted and call.flag("manifests"):
        raise InvalidInput("conflicting options: manifests and platform options cannot both be set")
    image = call.engine.images.get(call.params["name"], wanted)
    about = call.engine.sbom.about(image)
    return call.json(image_shapes.inspect(image, call.version, about))


async def history(call: Call) -> web.StreamResponse:
    """GET /images/{name}/history."""
    platform.check(call, "history", call.params["name"])
    lines = call.engine.images.history(call.params["name"])
    return call.json([image_shapes.history(each) for each in lines])


async def tag(call: Call) -> web.StreamResponse:
    """POST /images/{name}/tag."""
    repository, name = call.text("repo"), call.text("tag")
    if not repository:
        raise InvalidInput("missing parameter: repo")
    call.engine.images.tag(call.params["name"], f"{repository}:{name}" if name else repository)
    return web.Response(status=201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /images/{name}."""
    platform.check(call, "remove", call.params["name"])
    removed = await call.engine.images.remove(
        call.params["name"], force=call.flag("force"), prune_parents=not call.flag("noprune")
    )
    return call.json([image_shapes.removed(each) for each in removed])


async def prune(call: Call) -> web.StreamResponse:
    """POST /images/prune."""
    removed, freed = await call.engine.images.prune(until_as_time(call.filters()))
    freed += await call.engine.accounts.tidy()
    return call.json(
        {
            "ImagesDeleted": [image_shapes.removed(each) for each in removed] or None,
            "SpaceReclaimed": freed,
        }
    )


async def progress(
    call: Call, lines: AsyncIterator[dict[str, Any]], *, tell_all: bool = False
) -> web.StreamResponse:
    """Docker's progress stream: lines of JSON, an error as the last one. One that comes before
    the first line is an answer of its own, unless the stream is to `tell_all`."""
    response = None
    try:
        async for each in lines:
            if response is None:
                response = await call.stream()
            await response.write(line(each))
    except (SkerryError, GuestFault) as error:
        if response is None and not tell_all:
            raise
        response = response or await call.stream()
        text = message_of(error)
        await response.write(line({"errorDetail": {"message": text}, "error": text}))
    return response or await call.stream()


async def commit(call: Call) -> web.StreamResponse:
    """POST /commit."""
    said = validation.CONFIG(await call.body(), "")
    repository, name = call.text("repo"), call.text("tag")
    target = f"{repository}:{name}" if repository and name else repository
    if target:
        parse_reference(target)
    if not call.text("container"):
        raise InvalidInput('invalid name or ID supplied: ""')
    container = call.engine.containers.find(call.text("container"))
    config = {**container.record.config, **said}
    config = applied(config, call.query.getall("changes", []))
    for key in ("Image", "Hostname", "AttachStdin", "AttachStdout", "AttachStderr"):
        config.pop(key, None)
    await call.engine.lifecycle.settle(container)
    pausing = call.flag("pause", True) and container.state.status == "running"
    if pausing:
        await call.engine.lifecycle.pause(container)
    try:
        id = await call.engine.images.commit(
            container.id,
            container.record.image_id,
            config,
            command=" ".join(container_shapes.command_of(container.record)),
            tag=target,
            author=call.text("author"),
            comment=call.text("comment"),
        )
    finally:
        if pausing:
            await call.engine.lifecycle.unpause(container)
    call.engine.lifecycle.emit(container, "commit", imageID=id, imageRef=target)
    return call.json({"Id": id}, 201)


ROUTES = [
    Route("GET", "/images/json", list_all, reads=True),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/{name:*}/json", inspect, reads=True),
    Route("GET", "/images/{name:*}/history", history),
    Route("POST", "/images/{name:*}/tag", tag),
    Route("DELETE", "/images/{name:*}", remove),
    Route("POST", "/commit", commit),
]
