"""Containers in networks: their sandboxes, from just before the start to just after the end.

Theory. A sandbox (network namespace, endpoints, published ports) is made before the program starts
and razed after it has ended; a container that does not run has none, and its addresses are free, as
with Docker. `container:NAME`, `host` and `none` have no sandbox.

Order in `prepare`: addresses (in memory), file (`sandboxes`), namespace and links, names, ports. In
`release` the other way round; the file goes last.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator

from skerry.base.errors import Conflict, GuestFault, NotFound, SkerryError, SystemFault
from skerry.engine import endpoint_config
from skerry.engine.connections import Connections
from skerry.engine.container import Container
from skerry.engine.endpoint_checks import Checks
from skerry.engine.joined import Joined
from skerry.engine.network_record import BRIDGE, HOST, NONE, Network
from skerry.engine.networks import Networks
from skerry.engine.roster import Roster
from skerry.engine.sandbox_plan import SandboxPlan
from skerry.engine.sandboxes import Sandboxes
from skerry.network.sandbox import Endpoint, Sandbox, gateway_of

log = logging.getLogger(__name__)


class Endpoints:
    """The service. `root` and `run_root` are the engine's."""

    def __init__(self, run_root: str, root: str, networks: Networks, roster: Roster) -> None:
        self._folder = os.path.join(run_root, "net")
        self._networks = networks
        self._roster = roster
        self._sandboxes = Sandboxes(os.path.join(self._folder, "sandboxes"), networks)
        self._plan = SandboxPlan(networks)
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self.check = Checks(networks, roster).check
        self.connections = Connections(
            os.path.join(root, "containers"), networks, self._sandboxes, self._plan
        )
        self.connect, self.disconnect = self.connections.connect, self.connections.disconnect
        networks.active = self._active
        networks.wanted_by = self._wanted_by
        if networks.fabric is not None:
            networks.fabric.speak_for(self._sandboxes.everything)

    # Looking

    def sandbox(self, container_id: str) -> Sandbox | None:
        """What a running container has, None when it has none, or loses it just now."""
        return None if container_id in self._leaving else self._sandboxes.get(container_id)

    def _active(self, network: Network) -> list[tuple[str, str]]:
        found = []
        for sandbox in self._sandboxes:
            if any(each.network_id == network.id for each in sandbox.endpoints):
                container = self._roster.get(sandbox.container_id)
                found.append((container.record.name if container else "", sandbox.container_id))
        return found

    def _wanted_by(self, network: Network) -> list[str]:
        return [
            container.id
            for container in self._roster
            if network.name in endpoint_config.names(container.record)
        ]

    def members(self, network: Network) -> Iterator[tuple[Container, Endpoint]]:
        """The running containers in a network."""
        for sandbox in self._sandboxes:
            container = self._roster.get(sandbox.container_id)
            for each in sandbox.endpoints:
                if container is not None and each.network_id == network.id:
                    yield container, each

    # Starting and ending

    async def prepare(self, container: Container, *, publish: bool = True) -> Joined | None:
        """Make a container's sandbox, None when it needs none. Nothing stays after an error.
        Without `publish` its ports are left to `connections.publish`."""
        saved = container.record
        wanted = endpoint_config.names(saved)
        if not wanted and endpoint_config.LEFT not in saved.network:
            return None
        if not await self._networks.possible():
            return None
        await self._settled.wait()
        await self.release(container)
        fabric = await self._networks.need()
        if BRIDGE in wanted:
            await self._networks.default()
        try:
            networks = {name: self._networks.find(name) for name in wanted}
        except NotFound as missing:
            raise NotFound(f"failed to set up container networking: {missing.message}") from None
        sandbox = self._plan.sandbox(saved, networks)
        self._sandboxes.keep(sandbox)
        try:
            sandbox = await fabric.call(
                fabric.build,
                sandbox,
                self._sandboxes.segments(sandbox),
                self._plan.ports(saved, sandbox) if publish else [],
                self._sandboxes.write,
            )
        except BaseException as error:
            self._sandboxes.forget(sandbox)
            if isinstance(error, Conflict):
                first = sandbox.endpoints[0]
                raise SystemFault(
                    "failed to set up container networking: driver failed programming "
                    f"external connectivity on endpoint {saved.name} ({first.id}): {error.message}",
                    hint=error.hint,
                ) from None
            raise
        self._sandboxes.keep(sandbox)
        for name in wanted:
            self._networks.tell(networks[name], "connect", container.id)
        return self._joined(container, sandbox)

    def _joined(self, container: Container, sandbox: Sandbox) -> Joined:
        gateway4, gateway6 = (gateway_of(sandbox, ipv6=each) for each in (False, True))
        gateways = [gateway4.gateway4 if gateway4 else "", gateway6.gateway6 if gateway6 else ""]
        hosts, environment = self._legacy_links(container)
        own = [a for each in sandbox.endpoints for a in (each.address4, each.address6) if a]
        return Joined(
            sandbox.path,
            tuple(own),
            sandbox.resolver,
            self._networks.settings.host_gateways or tuple(each for each in gateways if each),
            tuple(hosts),
            tuple(environment),
            self._networks.settings.dns,
            self._networks.settings.dns_search,
            self._networks.settings.dns_options,
        )

    def _legacy_links(self, container: Container) -> tuple[list[tuple[str, str]], list[str]]:
        """Hosts and variables of --link on the default bridge."""
        hosts: list[tuple[str, str]] = []
        variables: list[str] = []
        if endpoint_config.mode_of(container.record) != BRIDGE:
            return hosts, variables
        for text in container.record.host.get("Links") or ():
            reference, _, alias = text.partition(":")
            other = self._roster.find(reference.removeprefix("/"))
            sandbox = self._sandboxes.get(other.id)
            if BRIDGE not in endpoint_config.names(other.record):
                raise Conflict(
                    f"Cannot link to /{other.record.name}, as it does not belong to the default "
                    "network"
                )
            if sandbox is None:
                raise Conflict(
                    f"Cannot link to a non running container: /{other.record.name} AS "
                    f"/{container.record.name}/{alias or other.record.name}"
                )
            for each in sandbox.endpoints:
                if each.network == BRIDGE:
                    found = endpoint_config.link(container.record, other.record, alias, each)
                    hosts.append(found[0])
                    variables += found[1]
        return hosts, variables

    def part(self, container_id: str) -> None:
        """The program has ended: raze its sandbox beside."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None or container_id in self._leaving:
            return
        if not self._settled.is_set():
            # Recovery razes what it does not find among the living.
            self._sandboxes.forget(sandbox)
            return
        task = asyncio.get_running_loop().create_task(self._raze(sandbox))
        self._leaving[container_id] = task
        task.add_done_callback(lambda _: self._leaving.pop(container_id, None))

    async def _raze(self, sandbox: Sandbox) -> None:
        try:
            fabric = await self._networks.need()
            await fabric.call(fabric.raze, sandbox)
        except SkerryError as error:
            log.warning("network of %s: %s", sandbox.container_id, error)
            return
        self._sandboxes.forget(sandbox)
        for each in sandbox.endpoints:
            network = self._networks.get(each.network_id)
            if network is not None:
                self._networks.tell(network, "disconnect", sandbox.container_id)

    async def release(self, container: Container) -> None:
        """Raze its sandbox, if it has one, and wait until it has gone."""
        self.part(container.id)
        task = self._leaving.get(container.id)
        if task is not None:
            await asyncio.shield(task)

    def rename(self, container: Container) -> None:
        """A container's new name is known in its networks at once."""
        sandbox = self._sandboxes.get(container.id)
        if sandbox is None:
            return
        endpoints = []
        for each in sandbox.endpoints:
            network = self._networks.get(each.network_id)
            settings = container.record.network.get(each.network) or {}
            if network is not None:
                names = endpoint_config.dns_names(container.record, network, settings)
                each = each._replace(names=names)
            endpoints.append(each)
        sandbox = sandbox._replace(endpoints=tuple(endpoints))
        self._sandboxes.put(sandbox)
        task = asyncio.get_running_loop().create_task(self._tell_names(sandbox))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_names(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(SkerryError):
            fabric = await self._networks.need()
            await fabric.call(fabric.update_names, sandbox, self._sandboxes.segments(sandbox))

    # Recovery

    def load(self) -> None:
        """Read what an earlier engine left; before containers are looked for."""
        if self._sandboxes.load():
            self._settled.clear()

    async def settle(self) -> None:
        """Bring the kernel in line with what runs; after containers were looked for."""
        try:
            for sandbox in self._sandboxes:
                container = self._roster.get(sandbox.container_id)
                if container is None or not container.running:
                    self._sandboxes.forget(sandbox)
            known = any(each.name not in (HOST, NONE) for each in self._networks.all())
            if not known and not os.path.isdir(self._folder):
                return
            if not await self._networks.possible():
                return
            busy = {each.network_id for box in self._sandboxes for each in box.endpoints}
            await self._networks.settle(busy)
            fabric = await self._networks.need()
            await fabric.call(fabric.restore, self._networks.segments(), list(self._sandboxes))
            await self._settle_connections()
        except SkerryError as error:
            log.warning("networks: %s", error)
        finally:
            self._settled.set()

    async def _settle_connections(self) -> None:
        if not len(self._sandboxes):
            return
        fabric = await self._networks.need()
        links = (await fabric.call(fabric.survey)).links
        for sandbox in self._sandboxes:
            container = self._roster.get(sandbox.container_id)
            if container is not None:
                try:
                    await self.connections.settle(container, links)
                except (SkerryError, GuestFault) as error:
                    log.warning("networks of %s: %s", container.record.name, error)

    async def close(self) -> None:
        """The engine ends. Networks stay as long as a container is in one; else nothing does."""
        for task in [*self._leaving.values(), *self._telling]:
            with contextlib.suppress(Exception):
                await task
        fabric = self._networks.fabric
        if fabric is None:
            return
        if self._networks.opened:
            try:
                if not len(self._sandboxes):
                    await fabric.call(fabric.dismantle, self._networks.segments())
            except SkerryError as error:
                log.warning("networks: %s", error)
        await fabric.shut()
