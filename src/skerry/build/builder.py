"""The builder: one service beside the engine's, whose memory all builds share."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, BinaryIO, NamedTuple, cast

from skerry.base.errors import Conflict, InvalidInput, NotFound, RegistryError
from skerry.base.ids import new_id
from skerry.base.references import parse_reference
from skerry.build import context, outputs, remote_cache, shells, workplace
from skerry.build import solver as solving
from skerry.build.agents import Agents
from skerry.build.bases import Bases
from skerry.build.cache_mounts import CacheMounts
from skerry.build.downloads import Downloads
from skerry.build.events import Event, Tell, follow
from skerry.build.git_access import Access
from skerry.build.inventory import Inventory
from skerry.build.language.lint import Warned, violation
from skerry.build.linting import warned
from skerry.build.reading import Plan, read, unconsumed
from skerry.build.remote_cache import Imports
from skerry.build.request import Options, Output
from skerry.build.results import (
    dated,
    make_image,
    record_image,
    same_image,
    squashed,
    with_tags,
)
from skerry.build.run_step import Runner
from skerry.build.sessions import Session, Sessions
from skerry.build.solver import NotRun, Solver
from skerry.build.sources import Remote
from skerry.build.state import State
from skerry.build.steps import Memory, Steps
from skerry.build.tree import Tree, resolve
from skerry.build.trees import MAIN, Context, Trees
from skerry.build.workplace import Workplace
from skerry.engine.container import Container
from skerry.engine.engine import Engine
from skerry.store import Store
from skerry.store.image import Image
from skerry.store.steps import Step

MAX_DOCKERFILE = 16 << 20
_SMALL = 8 << 10
"""Bytes of a Dockerfile that is read without a thread."""


class Builder:
    """All builds of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.mounts = CacheMounts(engine.store, engine.settings.root)
        self.downloads = Downloads(engine.store, engine.settings.root)
        self.inventory = Inventory(engine.store, self.mounts, self.downloads.folder)
        self.memory = Memory()
        self.sessions = Sessions(self)
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._background: set[asyncio.Task[None]] = set()
        workplace.sweep(engine.settings.run_root)

    def build(
        self,
        options: Options,
        contexts: Mapping[str, Context],
        *,
        id: str = "",
        into: Session | None = None,
    ) -> AsyncIterator[list[Event]]:
        """Build, and tell of it (docs/build.md). Closing the iterator cancels, and returns when
        everything of the build is gone, but for what a session keeps. The contexts stay the
        caller's."""
        id = id or new_id()

        async def work(tell: Tell) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._running[id] = task
            try:
                if into is not None:
                    await into.fetch(tell)
                await self._build(options if into is None else into.options, contexts, tell, into)
            finally:
                self._running.pop(id, None)

        return follow(work)

    def receive(self, stream: BinaryIO, what: str) -> context.Context:
        """A context out of a blocking file; the caller closes it. Blocks."""
        return context.receive(stream, what, self.engine.settings.root)

    def watch(self, shell: Container) -> None:
        """Remove a shell's image when its container has gone."""

        async def forget() -> None:
            await shell.wait_removed()
            # Another shell in the same state takes it along.
            await self._forget(shell.record.image_id)

        self._later(forget())

    def adopt_shells(self) -> None:
        """Watch the shells of an earlier engine; the images of those that went with it go."""
        waiting = set()
        for container in self.engine.roster:
            if shells.LABEL in (container.record.config.get("Labels") or {}):
                waiting.add(container.record.image_id)
                self.watch(container)
        for image in self.engine.store.images.list():
            # What somebody committed out of a shell has a parent.
            labels = image.config.get("Labels") or {}
            if shells.LABEL in labels and not image.parent and image.id not in waiting:
                self._later(self._forget(image.id))

    async def _forget(self, image: str) -> None:
        # Another container may still use it, and a name makes it somebody's own.
        with contextlib.suppress(Conflict, NotFound):
            if not self.engine.images.get(image).tags:
                await self.engine.images.remove(image)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def cancel(self, id: str) -> bool:
        """End a build. False when there is none of this id."""
        task = self._running.get(id)
        return task is not None and task.cancel()

    async def cancelled(self, id: str) -> None:
        """End a build, and wait until it has cleaned up."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _build(
        self,
        options: Options,
        contexts: Mapping[str, Context],
        tell: Tell,
        session: Session | None,
    ) -> None:
        check(options)
        options = options._replace(epoch=epoch_of(options))
        main = contexts.get(MAIN, Context()).tree
        data = options.dockerfile_content
        if data is None:
            if main is None:
                raise NotFound("the build has no context")
            data = dockerfile(main, options.dockerfile)
        named = [name for name in contexts if not name.startswith("cache:")]
        aliases = {name: each.stage for name, each in contexts.items() if each.stage}

        def look() -> tuple[Plan, list[Warned]]:
            plan = read(data, options, named, aliases)
            # The classic stream has no place for warnings.
            if session is None and not plan.dockerfile.check.error:
                return plan, []
            return plan, warned(self.engine, plan, options, main, named)

        # A thread costs more than a small file does.
        plan, warnings = look() if len(data) <= _SMALL else await asyncio.to_thread(look)
        for each in warnings if session is not None else ():
            tell(warning_event(each))
        if options.only_check:
            return
        fault = violation(plan.dockerfile, warnings)
        if fault is not None:
            raise fault
        tell(plan_event(plan))
        begun = time.time()
        async with contextlib.AsyncExitStack() as own:
            # What a shell after a failure needs has to outlive the build.
            held = session.held if session is not None and options.keep_failed else own
            own.enter_context(self.engine.store.leases.hold())
            agents = session.agents if session is not None else None
            one = await self._prepare(options, plan, contexts, held, tell, agents)
            own.push_async_callback(one.images.close)
            own.push_async_callback(one.imports.close)
            if session is not None:
                session.agents = one.agents
                session.one = one
            try:
                state = await one.solver.run()
            except NotRun:
                return
            finally:
                self.engine.store.steps.used(one.solver.used)
                self._later(asyncio.to_thread(self.engine.store.steps.write_uses))
            if options.only_list:
                return
            if unused := unconsumed(plan, options, one.solver.declared):
                text = f"One or more build-args [{' '.join(unused)}] were not consumed"
                tell({"kind": "warning", "rule": "BuildArgUnused", "text": text, "line": 0})
            built = await self._finish(state, options, one, plan, tell)
            if session is not None:
                session.built = built
            tell(
                {
                    "kind": "result",
                    "image": built.image,
                    "tags": list(options.tags) if built.image else [],
                    "seconds": time.time() - begun,
                }
            )

    async def _prepare(
        self,
        options: Options,
        plan: Plan,
        contexts: Mapping[str, Context],
        held: contextlib.AsyncExitStack,
        tell: Tell,
        agents: Agents | None,
    ) -> "One":
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
        agents = agents or Agents(tell)
        imports = Imports(engine)
        given = {name: each.tree for name, each in contexts.items() if each.tree is not None}
        for source in options.cache_from:
            try:
                found = await imports.add(source, options, given)
                text = f"no build cache was found in {source.reference}"
            except RegistryError as error:
                # A build without it takes longer, no more.
                found, text = False, f"no build cache from {source.reference}: {error.message}"
            if not found:
                tell({"kind": "warning", "rule": "CacheNotFound", "text": text, "line": 0})

        def output(step: str) -> Any:
            def write(stream: int, data: bytes) -> None:
                tell({"kind": "log", "step": step, "stream": stream, "data": data})

            return write

        runner = Runner(engine, options, trees, place, self.mounts, agents, output)
        access = Access(options, place, agents)
        remote = Remote(engine.store, self.downloads, engine.settings.root, access)
        steps = Steps(engine, options, trees, runner, remote, self.memory)
        solver = Solver(engine, plan, options, contexts, steps, images, imports, tell)
        return One(solver, runner, images, imports, agents)

    async def _finish(
        self, state: State, options: Options, one: "One", plan: Plan, tell: Tell
    ) -> "Built":
        store = self.engine.store
        notes = {}
        if any(each.kind == "inline" for each in options.cache_to):
            steps = chosen_steps(store, one.solver, plan, everything=False)
            notes = remote_cache.inline(steps)
        if options.labels:
            labels = {**(state.config.get("Labels") or {}), **options.labels}
            state = state._replace(config={**state.config, "Labels": labels})
        if options.squash or options.epoch is not None:
            state = await asyncio.to_thread(self._changed, state, options)
        image = None
        kept = [each for each in options.outputs if each.kind == "image"]
        # What is only taken away is in no store, as with BuildKit: its tags name it in its archive.
        pushed = any(each.kind == "registry" for each in options.outputs)
        stored = options.tags if kept or pushed else ()
        if kept or stored:
            tags = [*stored, *(each.name for each in kept if each.name)]
            compression = kept[0].compression if kept else "gzip"
            image = same_image(store, state, notes, compression)
            if image is not None:
                image = with_tags(store, image, tags)
            else:
                image = await asyncio.to_thread(
                    record_image, store, state, tags, notes, compression
                )
        if image is not None and stored:
            self.engine.archives.emit("tag", image)
        for output in options.outputs:
            if output.kind == "registry":
                await self._push(state, output, options, notes, tell)
        caches = {}
        for number, target in enumerate(options.cache_to):
            if target.kind == "inline":
                continue
            wanted = chosen_steps(store, one.solver, plan, everything=target.mode == "max")
            export = await asyncio.to_thread(remote_cache.prepare, store, wanted)
            if target.kind == "registry":
                await remote_cache.push(self.engine, export, target.reference, options)
            else:
                caches[number] = export
        return Built(state, image.id if image is not None else "", caches)

    def _changed(self, state: State, options: Options) -> State:
        store = self.engine.store
        if options.squash:
            state = squashed(store, state)
        if options.epoch is not None:
            rewrite = any(each.rewrite_timestamp for each in options.outputs)
            state = dated(store, state, options.epoch, rewrite=rewrite)
        return state

    async def _push(
        self,
        state: State,
        output: Output,
        options: Options,
        notes: dict[str, str],
        tell: Tell,
    ) -> None:
        reference = parse_reference(output.name)

        def record() -> Image:
            return make_image(
                self.engine.store,
                state,
                [str(reference)],
                annotations=notes,
                compression=output.compression,
            )

        await asyncio.to_thread(record)
        lines = self.engine.transfer.push(
            reference.name, tag=reference.tag, credential=options.credential(reference.registry)
        )
        async with contextlib.aclosing(cast(Any, lines)) as stream:
            async for message in stream:
                tell({"kind": "push", "image": output.name, "message": message})


class One(NamedTuple):
    """The parts of one build that runs."""

    solver: Solver
    runner: Runner
    images: Bases
    imports: Imports
    agents: Agents


class Built(NamedTuple):
    """What came out. `image` is empty when nothing was to be recorded; `caches` are those that the
    client takes, by their place in the options."""

    state: State
    image: str
    caches: dict[int, remote_cache.Export]


def check(options: Options) -> None:
    """InvalidInput for options that contradict one another or do not exist."""
    solving.check(options)
    for output in options.outputs:
        outputs.check(output)


def epoch_of(options: Options) -> int | None:
    """SOURCE_DATE_EPOCH: the option, else the build argument of that name, as with BuildKit."""
    given = options.build_args.get("SOURCE_DATE_EPOCH")
    if options.epoch is not None or not given:
        return options.epoch
    if not given.isascii() or not given.isdigit() or len(given) > 11:
        raise InvalidInput(f"invalid SOURCE_DATE_EPOCH: {given:.40}")
    return int(given)


def chosen_steps(store: Store, solver: Solver, plan: Plan, *, everything: bool) -> list[Step]:
    """The recorded steps of the target and the stages that it goes on from, or of all stages."""
    numbers: list[int] = []
    number = plan.target
    while number >= 0:
        numbers.append(number)
        number = plan.stages[number].base_stage
    wanted = list(plan.stages) if everything else list(reversed(numbers))
    keys = [key for number in wanted for key, _ in solver.keys.get(number, [])]
    return [step for key in dict.fromkeys(keys) if (step := store.steps.find(key))]


def dockerfile(tree: Tree, path: str) -> bytes:
    """The Dockerfile's bytes. NotFound in Docker's words, InvalidInput."""
    node = resolve(tree, path)
    if node is None or node.kind != "f":
        raise NotFound(f"Cannot locate specified Dockerfile: {path}")
    if node.size > MAX_DOCKERFILE:
        raise InvalidInput(f"{path}: {node.size} bytes, at most {MAX_DOCKERFILE} are read")
    return b"".join(map(bytes, tree.data(node)))


def warning_event(warning: Warned) -> Event:
    """What the lint found."""
    return {
        "kind": "warning",
        "rule": warning.rule,
        "text": warning.text,
        "line": warning.span.line,
        "excerpt": warning.excerpt,
    }


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
