"""The builder: one service beside the engine's, whose memory all builds share."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, BinaryIO

from skerry.base.errors import InvalidInput, NotFound
from skerry.base.ids import new_id
from skerry.build import context, workplace
from skerry.build import solver as solving
from skerry.build.agents import Agents
from skerry.build.bases import Bases
from skerry.build.cache_mounts import CacheMounts
from skerry.build.downloads import Downloads
from skerry.build.events import Event, Tell, follow
from skerry.build.inventory import Inventory
from skerry.build.reading import Plan, read
from skerry.build.request import Options
from skerry.build.results import dated, make_image
from skerry.build.run_step import Runner
from skerry.build.solver import NotRun, Solver
from skerry.build.sources import Remote
from skerry.build.state import State
from skerry.build.steps import Memory, Steps
from skerry.build.tree import Tree, resolve
from skerry.build.trees import MAIN, Context, Trees
from skerry.build.workplace import Workplace
from skerry.engine.engine import Engine
from skerry.store.image import Image

MAX_DOCKERFILE = 16 << 20


class Builder:
    """All builds of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.mounts = CacheMounts(engine.store, engine.settings.root)
        self.downloads = Downloads(engine.store, engine.settings.root)
        self.inventory = Inventory(engine.store, self.mounts, self.downloads.folder)
        self.memory = Memory()
        self._running: dict[str, asyncio.Task[Any]] = {}
        workplace.sweep(engine.settings.run_root)

    def build(
        self,
        options: Options,
        contexts: Mapping[str, Context],
        *,
        id: str = "",
    ) -> AsyncIterator[Event]:
        """Build, and tell of it (docs/build.md). Closing the iterator cancels, and returns when
        everything of the build is gone. The contexts stay the caller's."""
        id = id or new_id()

        async def work(tell: Tell) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._running[id] = task
            try:
                await self._build(options, contexts, tell)
            finally:
                self._running.pop(id, None)

        return follow(work)

    def receive(self, stream: BinaryIO, what: str) -> context.Context:
        """A context out of a blocking file; the caller closes it. Blocks."""
        return context.receive(stream, what, self.engine.settings.root)

    def cancel(self, id: str) -> bool:
        """End a build. False when there is none of this id."""
        task = self._running.get(id)
        return task is not None and task.cancel()

    async def _build(self, options: Options, contexts: Mapping[str, Context], tell: Tell) -> None:
        solving.check(options)
        main = contexts.get(MAIN, Context()).tree
        if main is None:
            raise NotFound("the build has no context")
        data = await asyncio.to_thread(dockerfile, main, options.dockerfile)
        plan = read(data, options, contexts)
        tell(plan_event(plan))
        begun = time.time()
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(self.engine.store.leases.hold())
            solver, images = self._solver(options, plan, contexts, held, tell)
            held.push_async_callback(images.close)
            try:
                state = await solver.run()
            except NotRun:
                return
            finally:
                self.engine.store.steps.used(solver.used)
            if not options.only_list:
                image = await asyncio.to_thread(self._finish, state, options)
                tell(
                    {
                        "kind": "result",
                        "image": image.id,
                        "tags": list(options.tags),
                        "seconds": time.time() - begun,
                    }
                )
                if options.tags:
                    self.engine.archives.emit("tag", image)

    def _solver(
        self,
        options: Options,
        plan: Plan,
        contexts: Mapping[str, Context],
        held: contextlib.AsyncExitStack,
        tell: Tell,
    ) -> tuple[Solver, Bases]:
        engine = self.engine
        place = held.enter_context(Workplace(engine.settings.run_root, new_id()[:16]))
        images = Bases(
            engine,
            pull=options.pull,
            platform=options.platform,
            credential=options.credential,
            tell=tell,
        )
        trees = Trees(engine.store, contexts, images, plan.names)
        held.callback(trees.close)
        agents = Agents(tell)

        def output(step: str) -> Any:
            def write(stream: int, data: bytes) -> None:
                tell({"kind": "log", "step": step, "stream": stream, "data": data})

            return write

        runner = Runner(engine, options, trees, place, self.mounts, agents, output)
        steps = Steps(
            engine, options, trees, runner, Remote(engine.store, self.downloads), self.memory
        )
        return Solver(engine, plan, options, contexts, steps, images, tell), images

    def _finish(self, state: State, options: Options) -> Image:
        if options.labels:
            labels = {**(state.config.get("Labels") or {}), **options.labels}
            state = state._replace(config={**state.config, "Labels": labels})
        if options.epoch is not None:
            rewrite = any(each.rewrite_timestamp for each in options.outputs)
            state = dated(self.engine.store, state, options.epoch, rewrite=rewrite)
        return make_image(self.engine.store, state, options.tags)


def dockerfile(tree: Tree, path: str) -> bytes:
    """The Dockerfile's bytes. NotFound in Docker's words, InvalidInput."""
    node = resolve(tree, path)
    if node is None or node.kind != "f":
        raise NotFound(f"Cannot locate specified Dockerfile: {path}")
    if node.size > MAX_DOCKERFILE:
        raise InvalidInput(f"{path}: {node.size} bytes, at most {MAX_DOCKERFILE} are read")
    return b"".join(map(bytes, tree.data(node)))


def plan_event(plan: Plan) -> Event:
    """The stages and their steps, before anything is done."""
    steps = []
    for number in sorted(plan.stages):
        stage = plan.stages[number]
        sources = [stage.source.source, *(each.source for each in stage.instructions)]
        for count, source in enumerate(sources):
            steps.append(
                {
                    "step": f"{number}.{count}",
                    "stage": stage.name or str(number),
                    "text": source.text.strip(),
                    "line": source.span.line,
                }
            )
    return {"kind": "plan", "steps": steps, "target": plan.target}
