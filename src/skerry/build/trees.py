"""The trees of one build: its contexts, and what stages and images hold, opened read-only."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput, NotFound
from skerry.base.isolation import Overlay
from skerry.build.bases import Bases
from skerry.build.directory import DirectoryTree
from skerry.build.state import State
from skerry.build.tree import Tree
from skerry.engine import facts
from skerry.store import Store

StageState = Callable[[int], Awaitable[State]]
MAIN: Final = ""
"""The name of the main context."""


class Context(NamedTuple):
    """A context by name: files, the reference of an image, what an image stands for, or the name
    of a stage of the Dockerfile itself."""

    tree: Tree | None = None
    image: str = ""
    state: State | None = None
    stage: str = ""


def by_name(contexts: Mapping[str, Context]) -> dict[str, Context]:
    """By lower-case name, as stages are found."""
    return {name.lower(): each for name, each in contexts.items()}


class Trees:
    """Opens what `--from` names. `close` closes everything."""

    def __init__(
        self,
        store: Store,
        contexts: Mapping[str, Context],
        images: Bases,
        stages: Mapping[str, int],
    ) -> None:
        self._store = store
        self._contexts = by_name(contexts)
        self._images = images
        self._stages = stages
        self._open: dict[str, DirectoryTree] = {}
        self._held = ExitStack()

    async def source(self, name: str, stage_state: StageState) -> tuple[Tree, State | None]:
        """The tree that `--from=name` means (empty is the main context), and its state when it is
        a stage or an image. NotFound."""
        context = self._contexts.get(name.lower())
        if context is not None and context.tree is not None:
            return context.tree, None
        if context is not None and context.state is not None:
            return await self.of_state(context.state, f"context {name}"), context.state
        if (context is None or context.stage) and name.lower() in self._stages:
            state = await stage_state(self._stages[name.lower()])
            return await self.of_state(state, f"stage {name}"), state
        if name == MAIN:
            raise NotFound("the build has no context: only a Dockerfile was sent")
        image = context.image if context is not None else name
        if image == "scratch":
            raise InvalidInput("--from=scratch: the empty image holds nothing to copy")
        state = await self._images.state(image)
        return await self.of_state(state, f"image {name}"), state

    async def of_state(self, state: State, what: str) -> Tree:
        """What a state's layers make together."""
        known = self._open.get(state.chain)
        if known is None:
            known = await asyncio.to_thread(self._tree, state, what)
            # Another step may have opened it meanwhile.
            kept = self._open.setdefault(state.chain, known)
            if kept is not known:
                known.close()
            else:
                self._held.callback(known.close)
            known = kept
        return known

    def _tree(self, state: State, what: str) -> DirectoryTree:
        if not state.layers:
            raise NotFound(f"{what} holds no files")
        return DirectoryTree(facts.open_root(self.overlay(state)), what)

    def overlay(self, state: State) -> Overlay:
        """The state's layers, read-only."""
        folders = (self._store.layers.path(each) for each in reversed(state.layers))
        return Overlay(tuple(dict.fromkeys(folders)))

    def close(self) -> None:
        """Close all trees that were opened here; contexts are the caller's."""
        self._held.close()
