"""RUN: its key and its action; its mounts, made when it runs and gone when it has run."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache, partial
from typing import Final

from skerry.base.errors import Forbidden, InvalidInput, NotFound, Unsupported
from skerry.base.isolation import Overlay
from skerry.build import bases, committing, copying, running
from skerry.build.agents import Agents
from skerry.build.cache_mounts import CacheMounts
from skerry.build.errors import StepFailed
from skerry.build.keys import key_digest
from skerry.build.operations import Mount, Run
from skerry.build.request import Options
from skerry.build.state import State, fingerprint, variables
from skerry.build.tree import Tree, resolve
from skerry.build.trees import StageState, Trees
from skerry.build.workplace import Workplace
from skerry.engine.engine import Engine
from skerry.engine.record import MountPoint
from skerry.engine.threads import blocking
from skerry.store.tar_reader import DIRECTORY

SECRETS: Final = "/run/secrets"
AGENT: Final = "/run/buildkit/ssh_agent.0"
_REMEMBERED: Final = 4096
"""Characters of an instruction whose key is remembered."""
_EMPTY: Final = copying.Placement((0, 0))
Prepared = tuple[dict[str, str], dict[str, str], Callable[[str, Overlay], Awaitable[None]]]
Output = Callable[[int, bytes], None]
Binds = dict[int, tuple[Tree, State | None]]
"""By the mount's number: where its files come from, and the state that this is, if it is one."""


class Runner:
    """The RUN steps of one build. `output` is told what programs write, by their step's id."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        trees: Trees,
        place: Workplace,
        cache: CacheMounts,
        agents: Agents,
        output: Callable[[str], Output],
    ) -> None:
        self._engine = engine
        self._options = options
        self._trees = trees
        self._place = place
        self._cache = cache
        self._agents = agents
        self._output = output
        self._folders: dict[tuple[str, str], str] = {}
        self._binds: dict[Run, Binds] = {}

    @contextlib.asynccontextmanager
    async def prepared(
        self, operation: Run, state: State, stage_state: StageState, step: str
    ) -> AsyncIterator[Prepared]:
        """Its key's parts, its files and the action."""
        self._check(operation, state)
        files: dict[str, str] = {}
        binds: Binds = {}
        self._binds[operation] = binds
        for number, mount in enumerate(operation.mounts):
            if mount.kind != "bind" and not mount.from_:
                continue
            tree, known = await self._trees.source(mount.from_, stage_state)
            binds[number] = (tree, known)
            digest, names = await blocking(lambda t=tree, m=mount: _digest(t, m))  # type: ignore[misc]
            files[mount.target] = digest
            files |= {f"{mount.target}/{name}": each for name, each in names.items()}
        parts = _parts(operation, *_surroundings(state))
        if files:
            parts["files"] = fingerprint(*(text for pair in sorted(files.items()) for text in pair))

        async def perform(id: str, overlay: Overlay) -> None:
            await self._run(operation, state, binds, id, overlay, step)

        yield parts, files, perform

    def plain_key(self, operation: Run, state: State) -> str:
        """The key of a RUN that reads no files but its state's: nothing has to be looked at for it.
        Empty for others. Errors as those of `prepared`."""
        if any(mount.kind == "bind" or mount.from_ for mount in operation.mounts):
            return ""
        if len(operation.text) > _REMEMBERED:
            return ""
        self._check(operation, state)
        return _plain_key(state.chain, operation, *_surroundings(state))

    def _check(self, operation: Run, state: State) -> None:
        bases.check_runnable(state)
        if operation.insecure and not self._options.allow_insecure:
            raise Forbidden(
                "RUN --security=insecure is not allowed",
                hint="allow it with --allow security.insecure",
            )
        if operation.network == "host" and not self._options.allow_host_network:
            raise Forbidden(
                "RUN --network=host is not allowed", hint="allow it with --allow network.host"
            )
        for mount in operation.mounts:
            if mount.kind == "secret" and mount.required and mount.id not in self._options.secrets:
                raise NotFound(f"secret {mount.id}: not found", hint="give it with --secret")
            if mount.kind == "ssh" and mount.required and mount.id not in self._options.ssh:
                raise NotFound(f"ssh agent {mount.id}: not found", hint="forward it with --ssh")

    async def _run(
        self,
        operation: Run,
        state: State,
        binds: Binds,
        id: str,
        overlay: Overlay,
        step: str,
    ) -> None:
        async with contextlib.AsyncExitStack() as held:
            points, more = await self.mount_points(operation, binds, held)
            made = await blocking(
                lambda: committing.stubs(overlay, [point.target for point in points])
            )
            what = running.Run(
                id,
                state.chain or "scratch",
                # A package manager syncs after every file; a step that a crash cuts off is gone.
                overlay._replace(volatile=True),
                list(operation.args),
                environment(operation, state, more),
                state.config.get("User") or "",
                state.config.get("WorkingDir") or "/",
                self.network(operation),
                {**self._options.host, **({"Privileged": True} if operation.insecure else {})},
                tuple(points),
                self._options.disk_limit,
                step,
            )
            ended = await running.run(self._engine, what, self._output(step))
            if ended.error:
                raise Unsupported(f"the step's end was not seen: {ended.error}")
            if ended.code:
                raise StepFailed(
                    " ".join(operation.args), ended.code, step=step, oom=ended.oom_killed
                )
            await blocking(lambda: committing.clean(overlay, made))

    async def again(
        self, operation: Run, held: contextlib.AsyncExitStack
    ) -> tuple[list[MountPoint], list[str]]:
        """The mounts and variables of a step that was prepared before, for a shell in its place."""
        return await self.mount_points(operation, self._binds.get(operation, {}), held)

    def network(self, operation: Run) -> str:
        """Docker's network mode for a step."""
        wanted = operation.network
        if wanted == "default":
            wanted = self._options.network or "default"
        return "bridge" if wanted == "default" else wanted

    async def mount_points(
        self,
        operation: Run,
        binds: Binds,
        held: contextlib.AsyncExitStack,
    ) -> tuple[list[MountPoint], list[str]]:
        """What to mount until `held` is closed, and the variables that come with it."""
        points: list[MountPoint] = []
        more: list[str] = []
        for number, mount in enumerate(operation.mounts):
            tree, known = binds.get(number, (None, None))
            match mount.kind:
                case "bind":
                    assert tree is not None
                    points.append(await self._bind(mount, tree, known))
                case "cache":
                    points.append(await self._cached(mount, tree, known, held))
                case "tmpfs":
                    options = ["nosuid", "nodev"]
                    if mount.size:
                        options.append(f"size={mount.size}")
                    points.append(MountPoint("tmpfs", mount.target, options=options))
                case "secret":
                    self._secret(mount, points, more)
                case "ssh":
                    await self._ssh(mount, points, more, held)
        for path, data in operation.files:
            source = self._place.file("document", data, 0o755)
            points.append(MountPoint("bind", path, source, read_only=True))
        return points, more

    async def _bind(self, mount: Mount, tree: Tree, known: State | None) -> MountPoint:
        top = await blocking(lambda: self._folder(tree, known))
        node = resolve(tree, mount.source or "/")
        if node is None:
            raise NotFound(f'"{mount.source}": not found in {tree.what}')
        path = f"{top}/{node.path}" if node.path else top
        if not mount.read_only:
            if node.kind is not DIRECTORY:
                raise InvalidInput(f"--mount=type=bind,rw: {mount.source} is no directory")
            upper, work = self._place.folder("upper"), self._place.folder("work")
            path = await blocking(lambda: self._place.mount(Overlay((path,), upper, work)))
        return MountPoint("bind", mount.target, path, read_only=mount.read_only)

    def _folder(self, tree: Tree, known: State | None) -> str:
        """A tree as a folder of the host: the layers mounted, or the context's files written."""
        key = (tree.what, known.chain if known else "")
        path = self._folders.get(key)
        if path is None:
            if known is not None:
                path = self._place.mount(self._trees.overlay(known))
            else:
                path = self._place.folder("context")
                request = copying.Request((".",), "/")
                root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    copying.place(tree, copying.select(tree, request), request, root, _EMPTY)
                finally:
                    os.close(root)
            self._folders[key] = path
        return path

    async def _cached(
        self,
        mount: Mount,
        tree: Tree | None,
        known: State | None,
        held: contextlib.AsyncExitStack,
    ) -> MountPoint:
        mode = 0o755 if mount.mode is None else mount.mode
        fill = None if tree is None else partial(_fill, tree, mount.source or "/")
        path = await held.enter_async_context(
            self._cache.hold(
                mount.id or mount.target, mount.sharing, mode, (mount.uid, mount.gid), fill
            )
        )
        return MountPoint("bind", mount.target, path, read_only=mount.read_only)

    def _secret(self, mount: Mount, points: list[MountPoint], more: list[str]) -> None:
        secret = self._options.secrets.get(mount.id)
        if secret is None:
            return
        if mount.env:
            more.append(f"{mount.env}={secret.data.decode('utf-8', 'surrogateescape')}")
        if mount.target or not mount.env:
            mode = 0o400 if mount.mode is None else mount.mode
            path = self._place.file("secret", secret.data, mode, mount.uid, mount.gid)
            target = mount.target or f"{SECRETS}/{mount.id}"
            points.append(MountPoint("bind", target, path, read_only=True))

    async def _ssh(
        self,
        mount: Mount,
        points: list[MountPoint],
        more: list[str],
        held: contextlib.AsyncExitStack,
    ) -> None:
        if mount.id not in self._options.ssh:
            return
        path = self._place.fresh("agent")
        mode = 0o600 if mount.mode is None else mount.mode
        await held.enter_async_context(
            self._agents.listen(mount.id, path, mode, (mount.uid, mount.gid))
        )
        target = mount.target or AGENT
        points.append(MountPoint("bind", target, path))
        more.append(f"SSH_AUTH_SOCK={target}")


def _surroundings(state: State) -> tuple[tuple[str, ...], str, str]:
    """Environment, user and directory of a program in a state."""
    config = state.config
    user, directory = config.get("User") or "", config.get("WorkingDir") or "/"
    return tuple(config.get("Env") or ()), user, directory


def _parts(
    operation: Run, environment: tuple[str, ...], user: str, directory: str
) -> dict[str, str]:
    """The parts of a key that are no files."""
    return {
        "step": fingerprint(
            "run", *operation.args, *(f"{n}\0{d.hex()}" for n, d in operation.files)
        ),
        "arguments": fingerprint(*operation.variables),
        "environment": fingerprint(*environment),
        "user": user,
        "directory": directory,
        "mounts": fingerprint(*map(_mount_key, operation.mounts)),
        "network": f"{operation.network} {operation.insecure}",
    }


@lru_cache(4096)
def _plain_key(
    chain: str, operation: Run, environment: tuple[str, ...], user: str, directory: str
) -> str:
    return key_digest({"base": chain, **_parts(operation, environment, user, directory)})


def environment(operation: Run, state: State, more: list[str]) -> list[str]:
    """The program's variables: build arguments, which the stage's own environment overrides."""
    own = variables(state.config)
    arguments = [e for e in operation.variables if e.partition("=")[0] not in own]
    return [*operation.hidden, *arguments, *(f"{n}={v}" for n, v in own.items()), *more]


def _mount_key(mount: Mount) -> str:
    return repr(mount)


def _digest(tree: Tree, mount: Mount) -> tuple[str, dict[str, str]]:
    request = copying.Request((mount.source or "/",), "/")
    return copying.digest(tree, copying.select(tree, request), request)


def _fill(tree: Tree, source: str, path: str) -> None:
    request = copying.Request((source,), "/")
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copying.place(tree, copying.select(tree, request), request, root, copying.Placement())
    finally:
        os.close(root)
