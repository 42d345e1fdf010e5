"""A build in parts: opened, given its contexts, started, its results taken, closed.

What a session holds (contexts, the lease on its layers, a failed step's state) goes with `close`,
by its client, with the connection on which it is told what happens, or after `IDLE` seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from skerry.base.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from skerry.base.ids import new_id
from skerry.build import layouts, outputs, receiving, remote_cache
from skerry.build.agents import Agents
from skerry.build.events import Event, Tell
from skerry.build.request import Options
from skerry.build.trees import MAIN, Context

if TYPE_CHECKING:
    from skerry.build.builder import Builder, Built, One

IDLE: Final = 600.0
MAX_SESSIONS: Final = 256
MAX_CONTEXTS: Final = 64


class Session:
    """One of them."""

    def __init__(self, builder: "Builder", options: Options) -> None:
        self.id = new_id()
        self.options = options
        self.contexts: dict[str, Context] = {}
        self.remotes: dict[str, str] = {}
        """Contexts that the engine fetches when the build starts, since that may take an agent."""
        self.built: Built | None = None
        self.one: One | None = None
        """The parts of the build, once it has begun."""
        self.agents: Agents | None = None
        """Set while the build runs."""
        self.started = False
        self.busy = 0
        self._builder = builder
        self.held = AsyncExitStack()
        self.held.enter_context(builder.engine.store.leases.hold())

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Take a context in. Conflict once the build has started."""
        if self.started:
            raise Conflict("the build has started already")
        if len(self.contexts) >= MAX_CONTEXTS:
            raise LimitExceeded(f"more than {MAX_CONTEXTS} contexts")
        what = f"context {name}" if name else "build context"
        tree = await receiving.receive(self._builder, chunks, what)
        if name.startswith(layouts.NAME):
            with tree:
                state = await layouts.read_state(
                    self._builder.engine.store, tree, self.options.platform
                )
            self.contexts[name.removeprefix(layouts.NAME)] = Context(state=state)
            return
        self.held.callback(tree.close)
        self.contexts[name] = Context(tree)

    async def fetch(self, tell: Tell) -> None:
        """Bring what `remotes` names here. Errors as downloads' and git's."""
        self.agents = Agents(tell)
        for name, remote in self.remotes.items():
            tree, options = await receiving.remote_context(
                self._builder, remote, self.options, self.held, self.agents
            )
            self.contexts[name] = Context(tree)
            if name == MAIN:
                self.options = options

    def start(self) -> AsyncIterator[list[Event]]:
        """Build. Conflict the second time."""
        if self.started:
            raise Conflict("the build has started already")
        self.started = True
        return self._builder.build(self.options, self.contexts, id=self.id, into=self)

    def output(self, name: str) -> Iterator[bytes]:
        """A result as tar: the number of an output, or `cache-` and the number of a cache-to."""
        if self.built is None:
            raise Conflict("the build is not done")
        store = self._builder.engine.store
        word, _, number = name.rpartition("-")
        wanted = self.options.cache_to if word == "cache" else self.options.outputs
        if not number.isdigit() or not 0 <= int(number) < len(wanted) or word not in ("", "cache"):
            raise NotFound(f"the build has no output {name:.40}")
        if word == "cache":
            if self.options.cache_to[int(number)].kind != "local":
                raise InvalidInput("this cache was not exported to a folder")
            return remote_cache.archive(store, self.built.caches[int(number)])
        output = self.options.outputs[int(number)]
        if output.kind in ("image", "registry"):
            raise InvalidInput(f"an output of type {output.kind} is not taken away")
        if not output.name:
            output = output._replace(name=",".join(self.options.tags))
        return outputs.archive(store, self.built.state, output, self.options.epoch)


class Sessions:
    """All that are open."""

    def __init__(self, builder: "Builder") -> None:
        self._builder = builder
        self._open: dict[str, Session] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, options: Options) -> Session:
        """A new one. LimitExceeded when too many are open."""
        if len(self._open) >= MAX_SESSIONS:
            raise LimitExceeded(f"more than {MAX_SESSIONS} builds are open")
        session = Session(self._builder, options)
        self._open[session.id] = session
        self._later(session)
        return session

    def find(self, id: str) -> Session:
        """By id. NotFound. It stays for another while."""
        session = self._open.get(id)
        if session is None:
            raise NotFound(f"no such build: {id:.70}")
        self._later(session)
        return session

    def _later(self, session: Session) -> None:
        if timer := self._timers.pop(session.id, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[session.id] = loop.call_later(IDLE, self._expire, session)

    def _expire(self, session: Session) -> None:
        if session.busy:
            self._later(session)
            return
        self.abandon(session)

    def abandon(self, session: Session) -> None:
        """Close it in the background."""
        task = asyncio.ensure_future(self.close(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self, session: Session) -> None:
        """End it; a build that runs is cancelled."""
        self._open.pop(session.id, None)
        if timer := self._timers.pop(session.id, None):
            timer.cancel()
        await self._builder.cancelled(session.id)
        await session.held.aclose()
