"""Solving: every stage that the target needs, beside one another; every step from the cache or run.

Theory. A stage is a chain of states; a step's key names the state below it and whatever else the
step reads, by content. The key is known before anything is mounted, so a step that was done before
costs one look-up. One task a stage: it waits for another stage where it needs that one's files, and
for one of `SLOTS` places where it does work. The build holds a lease on the store, so that nothing
it has found or made is collected before its image is recorded.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from skerry.base.errors import GuestFault, InvalidInput, LimitExceeded, SkerryError
from skerry.base.ids import new_id
from skerry.base.isolation import Overlay
from skerry.build import bases, committing
from skerry.build.bases import Bases
from skerry.build.errors import StepFailed
from skerry.build.events import Tell
from skerry.build.keys import Key, note, why_missed
from skerry.build.language.instructions import Arg, Instruction, Maintainer
from skerry.build.operations import Configure, Copy, Operation, Run, Workdir
from skerry.build.places import place
from skerry.build.reading import Plan, Scope, Stage, triggers
from skerry.build.remote_cache import Imports
from skerry.build.request import Options
from skerry.build.state import State, fingerprint
from skerry.build.steps import Perform, Steps, Work
from skerry.build.tree import Tree
from skerry.build.trees import Context, by_name
from skerry.engine.engine import Engine
from skerry.engine.threads import blocking
from skerry.store.commit import timestamp
from skerry.store.steps import Step

MAX_DEPTH = 499
"""Layers below a step: overlayfs takes 500."""
_KEPT = ("Env", "Shell", "User", "WorkingDir")
SLOTS = max(2, os.cpu_count() or 1)
"""Steps that work at the same time, in one build."""


_moment = lru_cache(4096)(timestamp)


class Failed(NamedTuple):
    """A step that failed. `layers` are the state's and what the program left."""

    step: str
    state: State
    operation: Run
    layers: tuple[str, ...]


class NotRun(Exception):
    """--list-steps came to a step that the cache does not have."""


class Solver:
    """One build's run over its plan."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        options: Options,
        contexts: Mapping[str, Context],
        steps: Steps,
        images: Bases,
        imports: Imports,
        tell: Tell,
    ) -> None:
        self._engine = engine
        self._store = engine.store
        self._plan = plan
        self._options = options
        self._contexts = by_name(contexts)
        self._steps = steps
        self._images = images
        self._imports = imports
        self._tell = tell
        self._slots = asyncio.Semaphore(SLOTS)
        self._stages: dict[int, asyncio.Future[State]] = {}
        self.used: list[str] = []
        """Keys of the steps that came from the cache."""
        self.keys: dict[int, list[tuple[str, str]]] = {}
        """By stage: key and layer of each step, for cache exports."""
        self.failed: Failed | None = None
        self.declared: set[str] = set()
        """Arguments that ONBUILD triggers declared."""

    async def run(self) -> State:
        """The target's state. The first error ends every stage."""
        tasks = {
            index: asyncio.ensure_future(self._stage(stage))
            for index, stage in self._plan.stages.items()
        }
        self._stages = dict(tasks)
        try:
            # A list goes as far as it can in every stage.
            until = asyncio.ALL_COMPLETED if self._options.only_list else asyncio.FIRST_EXCEPTION
            done, _ = await asyncio.wait(tasks.values(), return_when=until)
            for task in done:
                task.result()
            return tasks[self._plan.target].result()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def stage_state(self, index: int) -> State:
        """Another stage's last state, when it is ready."""
        return await asyncio.shield(self._stages[index])

    async def _stage(self, stage: Stage) -> State:
        first = f"{stage.number}.0"
        begun = time.time()
        self._tell({"kind": "started", "step": first})
        try:
            state = await self._base(stage)
        except Exception as error:
            self._tell({"kind": "failed", "step": first, "error": str(error)})
            if isinstance(error, SkerryError):
                place(error, self._plan, stage.source)
            raise
        scope = Scope(self._plan)
        onbuild = state.config.get("OnBuild") or []
        if onbuild:
            state = state._replace(config={**state.config, "OnBuild": None})
        added = triggers(onbuild)
        for number, instruction in enumerate(added, 1):
            text = instruction.source.text
            self._tell({"kind": "added", "step": f"{first}.{number}", "text": text})
            if isinstance(instruction, Arg):
                self.declared |= {name for name, _ in instruction.pairs}
        self._tell(
            {"kind": "done", "step": first, "cached": False, "seconds": time.time() - begun}
            | {"chain": state.chain}
        )
        for number, instruction in enumerate(added, 1):
            step = f"{first}.{number}"
            state = await self._instruction(stage, step, instruction, scope, state)
        for number, instruction in enumerate(stage.instructions, 1):
            step = f"{stage.number}.{number}"
            state = await self._instruction(stage, step, instruction, scope, state)
        return state

    async def _base(self, stage: Stage) -> State:
        if stage.base_stage >= 0:
            return await self.stage_state(stage.base_stage)
        if stage.base == "scratch":
            return bases.empty(stage.platform or self._options.platform)
        context = self._contexts.get(stage.base.lower())
        if context is not None and context.tree is not None:
            return await self._from_tree(context.tree)
        if context is not None and context.state is not None:
            return context.state
        name = context.image if context is not None else stage.base
        return await self._images.state(name, stage.platform)

    async def _from_tree(self, tree: Tree) -> State:
        """A named context in the place of a base: its files are the only layer."""
        state = bases.empty()
        copy = Copy("", (".",), "/", link=True)
        async with self._steps.copied(tree, copy) as work:
            recorded, _, _ = await self._look_or_do(work, copy, state, "", fresh=False, step="")
        return state._replace(layers=(recorded.layer,) if recorded.layer else ())

    async def _instruction(
        self, stage: Stage, step: str, instruction: Instruction, scope: Scope, state: State
    ) -> State:
        begun = time.time()
        self._tell({"kind": "started", "step": step})
        try:
            operation = scope.evaluate(instruction, state.config)
            if isinstance(operation, Configure):
                state = state.configured(operation.config, operation.text)
                # Thousands of these in a row must not keep the engine from others.
                await asyncio.sleep(0)
                if isinstance(instruction, Maintainer):
                    state = state._replace(author=instruction.name)
                found: dict[str, object] = {"cached": False, "empty": True}
            else:
                state, found = await self._files(stage, step, instruction, operation, state)
        except NotRun:
            self._tell({"kind": "missing", "step": step})
            raise
        except asyncio.CancelledError:
            self._tell({"kind": "cancelled", "step": step})
            raise
        except (SkerryError, GuestFault) as error:
            self._tell({"kind": "failed", "step": step, "error": error.message})
            # A trigger (1.0.2) stands in another file.
            if step.count(".") == 1:
                place(error, self._plan, instruction)
            raise
        self._tell({"kind": "done", "step": step, "seconds": time.time() - begun, **found})
        return state

    async def _files(
        self,
        stage: Stage,
        step: str,
        instruction: Instruction,
        operation: Run | Copy | Workdir,
        state: State,
    ) -> tuple[State, dict[str, object]]:
        if isinstance(operation, Workdir):
            config = {**state.config, "WorkingDir": operation.path}
            state = state._replace(config=config)
            if await asyncio.to_thread(self._steps.has_directory, state, operation.path):
                return state.configured(config, operation.text), {"cached": True, "empty": True}
        recorded, cached, why = await self._step(stage, step, instruction, operation, state)
        self.keys.setdefault(stage.number, []).append((recorded.key, recorded.layer))
        after = state.step(recorded.layer, operation.text, _moment(recorded.created_at))
        return after, {
            "cached": cached,
            "why": why,
            "key": recorded.key[:12],
            "layer": recorded.layer,
            "chain": after.chain,
        }

    async def _step(
        self,
        stage: Stage,
        step: str,
        instruction: Instruction,
        operation: Run | Copy | Workdir,
        state: State,
    ) -> tuple[Step, bool, str]:
        """From the cache, or done now: the step, whether it was cached, why it was not."""
        fresh = self._options.no_cache or stage.name in self._options.no_cache_filter
        if isinstance(operation, Run) and not fresh:
            known = self._store.steps.find(self._steps.plain_key(operation, state))
            if known is not None:
                self.used.append(known.key)
                return known, True, ""
        slot = fingerprint(stage.name or str(stage.number), instruction.source.text)
        async with self._steps.prepared(operation, state, self.stage_state, step) as work:
            return await self._look_or_do(work, operation, state, slot, fresh=fresh, step=step)

    async def _look_or_do(
        self,
        work: Work,
        operation: Run | Copy | Workdir,
        state: State,
        slot: str,
        *,
        fresh: bool,
        step: str,
    ) -> tuple[Step, bool, str]:
        linked = isinstance(operation, Copy) and operation.link
        key = Key({"base": "" if linked else state.chain, **work.parts}, work.files, slot)
        digest = key.digest
        async with self._steps.alone(digest):
            known = None if fresh else self._store.steps.find(digest)
            if known is None and not fresh:
                known = await self._imports.find(digest)
            if known is not None:
                self.used.append(digest)
                return known, True, ""
            if self._options.only_list:
                raise NotRun
            why = "the cache is not wanted" if fresh else why_missed(self._store, key)
            async with self._slots:
                self._tell({"kind": "running", "step": step, "why": why})
                recorded = await self._do(step, digest, operation, state, work.perform)
            self._store.steps.put(recorded)
            note(self._store, key)
            return recorded, False, why

    async def _do(
        self,
        step: str,
        key: str,
        operation: Run | Copy | Workdir,
        state: State,
        perform: Perform,
    ) -> Step:
        below = () if isinstance(operation, Copy) and operation.link else state.layers
        if len(below) >= MAX_DEPTH:
            raise LimitExceeded(
                f"max depth exceeded: more than {MAX_DEPTH} layers in one stage",
                hint="join RUN instructions, or begin a new stage and copy from this one",
            )
        id = new_id()
        snapshots = self._store.snapshots
        try:
            overlay = await blocking(lambda: snapshots.prepare_on(id, below))
            try:
                await perform(id, overlay)
            except StepFailed:
                if self._options.keep_failed and isinstance(operation, Run):
                    layer = await blocking(lambda: self._commit(overlay, compress=False))
                    layers = (*state.layers, layer) if layer else state.layers
                    self.failed = self.failed or Failed(step, state, operation, layers)
                raise
            layer = await blocking(lambda: self._commit(overlay, compress=True))
        finally:
            snapshots.remove(id)
        return Step(
            key,
            layer,
            operation.text,
            state.chain,
            time.time(),
            time.time(),
            kind=work_kind(operation),
            chain=(*state.layers, layer) if layer else state.layers,
            config={key: state.config[key] for key in _KEPT if state.config.get(key)},
        )

    def _commit(self, overlay: Overlay, *, compress: bool) -> str:
        return committing.commit(self._store, overlay.upper, compress=compress)


def work_kind(operation: Operation) -> str:
    """As BuildKit's record types."""
    return "source.local" if isinstance(operation, Copy) and not operation.from_ else "regular"


def check(options: Options) -> None:
    """InvalidInput for options that contradict one another."""
    if options.only_list and options.no_cache:
        raise InvalidInput("--list-steps looks steps up in the cache, which --no-cache forbids")
