"""Contexts: from the client's archive, from a URL (an archive, or a Dockerfile alone), from git."""

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.ids import new_id
from skerry.build import context, repositories
from skerry.build.agents import Agents
from skerry.build.filtered import without_ignored
from skerry.build.git_access import Access
from skerry.build.request import Options
from skerry.build.sources import checkout
from skerry.build.tree import Tree, resolve
from skerry.build.workplace import Workplace
from skerry.engine.archives import as_file
from skerry.engine.threads import blocking
from skerry.store.compression import is_compressed
from skerry.store.tar_reader import FILE

if TYPE_CHECKING:
    from skerry.build.builder import Builder

_DOCKERFILE_LIMIT = 16 << 20
KEEP_GIT: Final = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
"""The build argument by which a context out of git keeps its .git."""
_SMALL: Final = 64 << 10
"""Bytes of an archive that is taken in without a thread: that would cost more than the work."""


async def receive(builder: "Builder", chunks: AsyncIterator[bytes], what: str) -> context.Context:
    """A context out of a request's body; the caller closes it. InvalidInput, LimitExceeded."""
    begun = bytearray()
    try:
        async for chunk in chunks:
            begun += chunk
            if len(begun) > _SMALL:
                break
    except (OSError, ValueError):
        raise InvalidInput("the request's body was cut off") from None
    head = bytes(begun)
    if len(head) <= _SMALL and not is_compressed(head[:512]):
        return builder.receive(io.BytesIO(head), what)

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in chunks:
            yield chunk

    async with as_file(whole()) as stream:
        return await blocking(lambda: builder.receive(stream, what))


async def remote_context(
    builder: "Builder",
    remote: str,
    options: Options,
    held: AsyncExitStack,
    agents: Agents | None = None,
) -> tuple[Tree, Options]:
    """The tree that a `remote` parameter means, until `held` ends, and the options as they are for
    it: a URL that is no archive is the Dockerfile itself. Errors as downloads' and git's."""
    store = builder.engine.store
    if repositories.is_repository(remote):
        # What the URL itself says wins over the argument, which is for all contexts.
        keep = None
        if repositories.parse(remote).keep_git_dir is None:
            keep = options.build_args.get(KEEP_GIT) in ("1", "true")
        with Workplace(builder.engine.settings.run_root, new_id()[:16]) as place:
            access = Access(options, place, agents)
            files = await checkout(store, remote, held, access, keep_git_dir=keep)
        return await blocking(lambda: _packed(files, options))
    if not remote.startswith(("http://", "https://")):
        raise InvalidInput(f"not a context: {remote:.200}", hint="give a git repository or a URL")
    found = await builder.downloads.fetch(remote)
    with open(found.path, "rb") as file:
        head = file.read(512)
    if context.is_archive(head):

        def receive() -> context.Context:
            with open(found.path, "rb") as file:
                return context.receive(file, remote, store.scratch.tmp)

        received = await blocking(receive)
        held.callback(received.close)
        return await blocking(lambda: _packed(received, options))
    if found.size > _DOCKERFILE_LIMIT:
        raise InvalidInput(f"{remote}: neither an archive nor a Dockerfile")
    with open(found.path, "rb") as file:
        tree = context.from_files({"Dockerfile": file.read()}, remote, store.scratch.tmp)
    held.callback(tree.close)
    return tree, options._replace(dockerfile="Dockerfile")


def _packed(tree: Tree, options: Options) -> tuple[Tree, Options]:
    """As a client would have packed it: without what is ignored, the Dockerfile apart."""
    node = resolve(tree, options.dockerfile)
    if options.dockerfile_content is None and node is not None and node.kind is FILE:
        if node.size > _DOCKERFILE_LIMIT:
            raise LimitExceeded(f"{options.dockerfile}: more than {_DOCKERFILE_LIMIT} bytes")
        content = b"".join(map(bytes, tree.data(node)))
        options = options._replace(dockerfile_content=content)
    return without_ignored(tree, options.dockerfile), options
