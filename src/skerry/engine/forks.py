"""Copies of a container that go on from where it is: `skerry fork`.

Theory. The original's layer is frozen once, and every copy stands on it: a copy costs a folder and
a record, and shares all that nobody rewrites. Each copy then gets what makes it another system:
name, hostname, address, machine id, SSH host keys, and what its container wants done in it
(`after_fork`). A copy that fails takes none of the others with it.
"""

import asyncio
import copy
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, GuestFault, InvalidInput, SkerryError
from skerry.base.ids import check_name, new_id
from skerry.base.isolation import Saved, SavedInfo
from skerry.engine import after_fork, identity, record, walls
from skerry.engine.container import Container
from skerry.engine.containers import Containers
from skerry.engine.exec import Execs
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.roster import Roster
from skerry.engine.snapshots import Snapshots
from skerry.kernel import mounts
from skerry.store import Store
from skerry.store.tree_copy import copy_tree
from skerry.store.trees import DIRECTORY

MOST = 1000
"""Copies in one request."""
PROMOTED_FROM = "org.skerry.promoted-from"
"""Label of a machine that was made from a container: the container's id."""


class Fork(NamedTuple):
    """One copy: its id and name, or why there is none. `warning` is of a copy that runs."""

    id: str
    name: str
    error: str = ""
    warning: str = ""


class Forks:
    """The service."""

    def __init__(
        self,
        store: Store,
        roster: Roster,
        lifecycle: Lifecycle,
        containers: Containers,
        snapshots: Snapshots,
        execs: Execs,
    ) -> None:
        self._store = store
        self._roster = roster
        self._lifecycle = lifecycle
        self._containers = containers
        self._snapshots = snapshots
        self._execs = execs

    async def fork(
        self, reference: str, count: int = 1, name: str = "", *, start: bool | None = None
    ) -> list[Fork]:
        """Make copies named `<name>-1`, `<name>-2`, … (the original's name by default), and start
        them when the original runs, unless `start` says otherwise.

        Errors about the original are raised; those of a copy are in its Fork.
        """
        if not 1 <= count <= MOST:
            raise InvalidInput(f"between 1 and {MOST} forks at a time, not {count}")
        original = self._roster.find(reference)
        if name:
            check_name(name)
        start = original.running if start is None else start
        after_fork.wanted(_labels(original), folder=False)  # Refused before there is a copy.
        layer = new_id()
        memory = os.memfd_create("skerry-fork", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        devices = self._store.scratch.path("devices")
        info = None
        try:
            async with original.lock, self._snapshots.freeze(original, layer) as frozen:
                if frozen.machine:
                    info = await self._snapshots.save(original, memory, devices)
                    self._snapshots.seal(original, memory)
                forks = await self._make_all(original, layer, count, name)
            if not start:
                return forks
            made_of = info.made_of if info else {}
            saved = Saved(f"/proc/{os.getpid()}/fd/{memory}", devices, {}, made_of)
            return await in_turns(forks, lambda each: self._start(each, info, saved))
        finally:
            os.close(memory)
            self._store.scratch.discard(devices)

    async def promote(self, reference: str, name: str = "") -> Container:
        """A machine, not started, with a stopped container's files and options, which stays as it
        is. Conflict while it runs, or when it is a machine already."""
        original = self._roster.find(reference)
        if original.running or original.state.status == "restarting":
            raise Conflict(
                f"container {original.record.name} is {original.state.status}", hint="stop it first"
            )
        if walls.wall_of(original.record.host) == walls.VM:
            raise Conflict(f"container {original.record.name} is a machine already")
        name = check_name(name) if name else self._names(f"{original.record.name}-vm", 1)[0]
        layer = new_id()
        async with original.lock, self._snapshots.freeze(original, layer):
            saved = derived(original.record, name)
            saved.config["Labels"].pop(identity.FORK_OF)
            saved.config["Labels"][PROMOTED_FROM] = original.id
            for key in ("Isolation", "Runtime"):
                saved.host.pop(key, None)
            saved.host["Runtime"] = "skerry-vm"
            made = await self._containers.add(saved, layer)
        try:
            await asyncio.to_thread(self._copy_volumes, original.record, made.record)
        except BaseException:
            await self._containers.remove(made.id, force=True, volumes=True)
            raise
        return made

    def _copy_volumes(self, original: record.Record, fork: record.Record) -> None:
        """Its own copy of the volumes that nobody named."""
        for ours, theirs in zip(original.mounts, fork.mounts, strict=True):
            if theirs.kind == "volume" and theirs.anonymous:
                copy_folder(ours.source, theirs.source)

    async def _make_all(self, original: Container, layer: str, count: int, name: str) -> list[Fork]:
        forks = []
        for chosen in self._names(name or original.record.name, count):
            saved = derived(original.record, chosen)
            try:
                made = await self._containers.add(saved, layer)
                try:
                    await asyncio.to_thread(self._settle, original.record, made.record)
                except BaseException:
                    await self._containers.remove(made.id, force=True, volumes=True)
                    raise
            except SkerryError as error:
                forks.append(Fork("", chosen, error.message))
            else:
                forks.append(Fork(made.id, chosen))
        return forks

    def _names(self, stem: str, count: int) -> list[str]:
        names: list[str] = []
        number = 0
        while len(names) < count:
            number += 1
            candidate = f"{stem[:240]}-{number}"
            if not self._roster.has_name(candidate):
                names.append(candidate)
        return names

    def _settle(self, original: record.Record, fork: record.Record) -> None:
        """Its own identity and volumes."""
        self._copy_volumes(original, fork)
        if walls.wall_of(fork.host) == walls.VM:
            return  # its files are on a disk of its own, and its agent renews them at its start
        root = mounts.overlay_fd(self._store.snapshots.overlay(fork.id))
        try:
            identity.renew(root)
        finally:
            os.close(root)

    async def _start(self, fork: Fork, info: SavedInfo | None, saved: Saved) -> Fork:
        if fork.error:
            return fork
        container = self._roster.find(fork.id)
        folder = info.hooks if info else self._has_hooks(container)
        wanted = after_fork.wanted(_labels(container), folder=folder)
        try:
            machine = None
            if info is not None:
                own = await asyncio.to_thread(identity.contents, info.renew)
                machine = saved._replace(renew=own)
            await self._lifecycle.start(container, machine, publish=not any(wanted))
        except (SkerryError, GuestFault) as error:
            return fork._replace(error=error.message)
        return fork._replace(warning=await self._carry_out(container, wanted))

    async def _carry_out(self, container: Container, wanted: after_fork.Wanted) -> str:
        """What went wrong, in words. Ports lead to the copy once all was done, and only then."""
        if not any(wanted):
            return ""
        for name, command in wanted.commands:
            try:
                code, output = await self._execs.probe(
                    container, command, after_fork.SECONDS, user="0"
                )
            except TimeoutError:
                return f"{name}: no end after {after_fork.SECONDS:.0f} seconds"
            except (SkerryError, GuestFault) as error:
                return f"{name}: {error.message}"
            if said := after_fork.complaint(name, code, output):
                return said
        try:
            if wanted.signal:
                await self._lifecycle.send(container, wanted.signal)
        except (SkerryError, GuestFault) as error:
            return f"label {after_fork.SIGNAL}: {error.message}"
        try:
            await self._lifecycle.publish(container)
        except (SkerryError, GuestFault) as error:
            return f"publishing its ports: {error.message}"
        return ""

    def _has_hooks(self, container: Container) -> bool:
        overlay = self._store.snapshots.overlay(container.id)
        folders = (f"{layer}{after_fork.FOLDER}" for layer in (overlay.upper, *overlay.lower))
        return any(os.path.isdir(folder) for folder in folders)


async def in_turns(forks: list[Fork], start: Callable[[Fork], Awaitable[Fork]]) -> list[Fork]:
    """Start them, one more at once than there are processors: more would only take one another's
    caches away."""
    turns = asyncio.Semaphore((os.cpu_count() or 1) + 1)

    async def start_one(each: Fork) -> Fork:
        async with turns:
            return await start(each)

    return list(await asyncio.gather(*map(start_one, forks)))


def _labels(container: Container) -> dict[str, str]:
    return container.record.config.get("Labels") or {}


def derived(original: record.Record, name: str) -> record.Record:
    """The record of a copy: what only one container can have is left out or made its own. Pure but
    for the id."""
    config: dict[str, Any] = copy.deepcopy(original.config)
    host: dict[str, Any] = copy.deepcopy(original.host)
    config.pop("MacAddress", None)
    number = name.rpartition("-")[2]
    if config.get("Hostname"):
        config["Hostname"] = f"{config['Hostname'][:58]}-{number}"
    config["Labels"] = {**(config.get("Labels") or {}), identity.FORK_OF: original.id}
    host.pop("ContainerIDFile", None)
    for bindings in (host.get("PortBindings") or {}).values():
        for binding in bindings or ():
            # Any free port: the original holds the one that was asked for.
            binding["HostPort"] = ""
    network: dict[str, Any] = copy.deepcopy(original.network)
    for endpoint in network.values():
        if isinstance(endpoint, dict):
            endpoint.pop("IPAMConfig", None)
            endpoint.pop("MacAddress", None)
    points = copy.deepcopy(original.mounts)
    for point in points:
        if point.kind == "volume" and point.anonymous:
            point.name = point.source = ""
            point.copy_up = False
    return record.Record(
        id=new_id(),
        name=name,
        image=original.image,
        image_id=original.image_id,
        created_at=time.time_ns(),
        config=config,
        host=host,
        network=network,
        mounts=points,
        # Users are looked up in its own files from the start, not in the image's.
        ever_started=original.ever_started,
    )


def copy_folder(source: str, target: str) -> None:
    """The content of a folder into another, empty one."""
    one = os.open(source, DIRECTORY)
    try:
        other = os.open(target, DIRECTORY)
        try:
            copy_tree(one, other)
        finally:
            os.close(other)
    finally:
        os.close(one)
