"""Networks that a container joins and leaves, while it runs or before."""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from skerry.base.errors import Conflict, Forbidden, GuestFault, SkerryError
from skerry.engine import endpoint_config, etc
from skerry.engine.container import Container
from skerry.engine.network_record import HOST, NONE, Network
from skerry.engine.networks import Networks
from skerry.engine.sandbox_plan import SandboxPlan
from skerry.engine.sandboxes import Sandboxes
from skerry.engine.walls import VM, wall_of
from skerry.network.sandbox import Sandbox

log = logging.getLogger(__name__)


class Connections:
    """The service. `state` is the folder of all containers' folders."""

    def __init__(
        self, state: str, networks: Networks, sandboxes: Sandboxes, plan: SandboxPlan
    ) -> None:
        self._state = state
        self._networks = networks
        self._sandboxes = sandboxes
        self._plan = plan
        self.rewire: Callable[[Container], Awaitable[None]]
        """Tells a running container's machine that its interfaces and names are others."""

    async def connect(
        self, reference: str, container: Container, given: Mapping[str, Any], *, force: bool = False
    ) -> None:
        """Put a container into one more network, at once when it runs."""
        network = self._networks.find(reference)
        saved = container.record
        mode = endpoint_config.mode_of(saved)
        if network.name in (HOST, NONE):
            raise Forbidden(
                f"container cannot be connected to {network.name} network"
                if network.name == HOST
                else "container cannot be connected to multiple networks with one of the networks "
                "in private (none) mode"
            )
        if mode == HOST:
            raise Forbidden("container cannot be disconnected from host network or connected to it")
        if mode.startswith("container:"):
            raise Forbidden(
                "container sharing network namespace with another container or host "
                "cannot be connected to any other network"
            )
        async with container.lock:
            settings = endpoint_config.check_settings(
                given, network, explicit=True, config=saved.config
            )
            names = endpoint_config.names(saved)
            if mode == NONE and NONE in endpoint_config.shown(saved):
                raise Forbidden(
                    "container cannot be connected to multiple networks with one of the networks "
                    "in private (none) mode"
                )
            if network.name in names:
                raise Forbidden(
                    f"endpoint with name {saved.name} already exists in network {network.name}"
                )
            if container.running:
                _check_awake(container)
                await self._plug(container, network, settings)
            endpoint_config.join(saved, network.name, settings)

    async def _plug(
        self, container: Container, network: Network, settings: Mapping[str, Any]
    ) -> None:
        sandbox = self._sandboxes.get(container.id)
        fabric = await self._networks.need()
        if sandbox is None:
            raise Conflict(f"container {container.id} has no network of its own to connect")
        endpoint = self._plan.endpoint(container.record, network, settings, sandbox.endpoints)
        links = [
            (network.id, alias or target, target.removeprefix("/"))
            for target, _, alias in (text.partition(":") for text in settings.get("Links") or ())
        ]
        before = sandbox
        sandbox = sandbox._replace(
            endpoints=(*sandbox.endpoints, endpoint),
            resolver=sandbox.resolver or not network.is_default,
            links=(*sandbox.links, *links),
        )
        try:
            self._sandboxes.put(sandbox)
            segments = self._sandboxes.segments(sandbox)
            await fabric.call(fabric.connect, sandbox, endpoint, segments)
            sandbox = await self._move_ports(container, before, sandbox)
            self._sandboxes.put(sandbox)
            self._rewrite_etc(container, before, sandbox)
            await self.rewire(container)
        except BaseException:
            self._sandboxes.put(before)
            self._rewrite_etc(container, sandbox, before)
            with contextlib.suppress(SkerryError):
                segments = self._sandboxes.segments(before)
                await fabric.call(fabric.disconnect, before, endpoint, segments)
                await self.rewire(container)
            self._networks.release(endpoint)
            raise
        self._networks.tell(network, "connect", container.id)

    async def publish(self, container: Container) -> None:
        """Open the ports of one that was started without, if it still runs."""
        async with container.lock:
            sandbox = self._sandboxes.get(container.id)
            if container.running and sandbox is not None:
                self._sandboxes.put(await self._move_ports(container, sandbox, sandbox))

    async def _move_ports(self, container: Container, before: Sandbox, after: Sandbox) -> Sandbox:
        """Published ports follow the default route; returns what there is then."""
        wanted = self._plan.ports(container.record, after)
        had = {(name, port.address) for name, port in before.ports}
        if {(each.name, each.address) for each in wanted} == had:
            return after
        kept = {name: port.host_port for name, port in before.ports}
        wanted = [
            each
            if each.low
            else each._replace(low=kept.get(each.name, 0), high=kept.get(each.name, 0))
            for each in wanted
        ]
        fabric = await self._networks.need()
        segments = self._sandboxes.segments(after)
        return await fabric.call(fabric.republish, before, after, segments, wanted)

    async def disconnect(self, reference: str, container: Container, *, force: bool) -> None:
        """Take a container out of a network, at once when it runs."""
        network = self._networks.find(reference)
        saved = container.record
        if endpoint_config.mode_of(saved) == HOST or network.name == HOST:
            raise Forbidden("container cannot be disconnected from host network or connected to it")
        async with container.lock:
            if network.name not in endpoint_config.shown(saved):
                raise Forbidden(
                    f"container {container.id} is not connected to network {network.name}"
                )
            if container.running and network.name == NONE:
                raise Conflict(
                    f"container {container.id} runs in a namespace that no network can be put into",
                    hint="stop it first",
                )
            if container.running:
                _check_awake(container)
                await self._unplug(container, network)
            endpoint_config.leave(saved, network.name)

    async def _unplug(self, container: Container, network: Network) -> None:
        sandbox = self._sandboxes.get(container.id)
        if sandbox is None:
            return
        gone = [each for each in sandbox.endpoints if each.network_id == network.id]
        before = sandbox
        sandbox = sandbox._replace(
            endpoints=tuple(each for each in sandbox.endpoints if each not in gone),
            links=tuple(each for each in sandbox.links if each[0] != network.id),
        )
        fabric = await self._networks.need()
        moved = await self._move_ports(container, before, sandbox)
        sandbox = sandbox._replace(ports=moved.ports)
        # The endpoint stays in the file for as long as its link may be there.
        self._sandboxes.put(before._replace(ports=moved.ports))
        segments = self._sandboxes.segments(before)
        for each in gone:
            await fabric.call(fabric.disconnect, sandbox, each, segments)
            self._networks.release(each)
        self._sandboxes.put(sandbox)
        self._rewrite_etc(container, before, sandbox)
        try:
            await self.rewire(container)
        except (SkerryError, GuestFault) as error:
            # The link has gone; what the guest makes of it is the guest's affair.
            log.warning("%s: %s", container.record.name, error)
        self._networks.tell(network, "disconnect", container.id)

    async def settle(self, container: Container, links: frozenset[str]) -> None:
        """Complete or undo what an engine was at when it was killed: a running container is in the
        networks that its record names. `links` are the host's."""
        sandbox = self._sandboxes.get(container.id)
        if sandbox is None:
            return
        async with container.lock:
            names = endpoint_config.names(container.record)
            for each in sandbox.endpoints:
                lost = bool(each.outside) and each.outside not in links
                network = self._networks.get(each.network_id)
                if network is not None and (lost or network.name not in names):
                    await self._unplug(container, network)
            sandbox = self._sandboxes.get(container.id)
            there = {each.network for each in sandbox.endpoints} if sandbox else set()
            for name in names:
                if name not in there:
                    settings = container.record.network.get(name) or {}
                    await self._plug(container, self._networks.find(name), settings)

    def _rewrite_etc(self, container: Container, before: Sandbox, after: Sandbox) -> None:
        """/etc/hosts and /etc/resolv.conf of a running container follow its networks."""
        folder = os.path.join(self._state, container.id)
        old = {a for each in before.endpoints for a in (each.address4, each.address6) if a}
        new = [a for each in after.endpoints for a in (each.address4, each.address6) if a]
        name = container.record.config.get("Hostname") or container.id[:12]
        domain = container.record.config.get("Domainname", "")
        etc.change_file(
            os.path.join(folder, "hosts"),
            lambda text: etc.change_hosts(
                text, old - set(new), [a for a in new if a not in old], etc.full_name(name, domain)
            ),
        )
        if after.resolver and not before.resolver:
            etc.change_file(os.path.join(folder, "resolv.conf"), etc.through_resolver)


def _check_awake(container: Container) -> None:
    if container.state.status == "paused" and wall_of(container.record.host) == VM:
        raise Conflict(
            f"the machine of {container.record.name} is paused: its guest cannot take part",
            hint="unpause it first",
        )
