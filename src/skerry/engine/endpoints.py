"""Containers in networks: their sandboxes, from just before the start to just after the end.

Theory. A sandbox (network namespace, endpoints, published ports) is made before the program starts
and razed after it has ended; a container that does not run has none, and its addresses are free, as
with Docker. What a sandbox has is saved in `<run-root>/net/sandboxes/<container id>.json` before
the kernel is asked, so that whatever an engine was doing when it was killed, the next one knows
everything that may be there. `container:NAME`, `host` and `none` have no sandbox.

Order in `prepare`: addresses (in memory), file, namespace and links, names, ports. In `release` the
other way round; the file goes last.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from skerry.base.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    SkerryError,
    SystemFault,
    Unsupported,
)
from skerry.base.ids import new_id
from skerry.engine import endpoint_config, etc, network_record, port_bindings
from skerry.engine.container import Container
from skerry.engine.joined import Joined
from skerry.engine.network_record import BRIDGE, HOST, NONE, Network
from skerry.engine.networks import Networks
from skerry.engine.record import Record
from skerry.engine.roster import Roster
from skerry.network import sandbox as sandboxes
from skerry.network.ports import RELAYED, Wanted
from skerry.network.sandbox import Endpoint, Sandbox, Segment

log = logging.getLogger(__name__)

FILE_LIMIT = 1 << 22


class Endpoints:
    """The service. `state_dir` names a container's folder."""

    def __init__(self, run_root: str, root: str, networks: Networks, roster: Roster) -> None:
        self._folder = os.path.join(run_root, "net", "sandboxes")
        self._state = os.path.join(root, "containers")
        self._networks = networks
        self._roster = roster
        self._live: dict[str, Sandbox] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._settled = asyncio.Event()
        self._settled.set()
        networks.active = self._active
        networks.wanted_by = self._wanted_by
        if networks.fabric is not None:
            networks.fabric.speak_for(self._everything)

    # Looking

    def sandbox(self, container_id: str) -> Sandbox | None:
        """What a running container has, None when it has none, or loses it just now."""
        return None if container_id in self._leaving else self._live.get(container_id)

    def _everything(self) -> list[tuple[Sandbox, dict[str, Segment]]]:
        return [(each, self._segments(each)) for each in list(self._live.values())]

    def _segments(self, sandbox: Sandbox) -> dict[str, Segment]:
        found = {}
        for each in sandbox.endpoints:
            network = self._networks.get(each.network_id)
            if network is not None:
                found[network.id] = network.segment()
        return found

    def _active(self, network: Network) -> list[tuple[str, str]]:
        found = []
        for sandbox in self._live.values():
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
        for sandbox in list(self._live.values()):
            container = self._roster.get(sandbox.container_id)
            for each in sandbox.endpoints:
                if container is not None and each.network_id == network.id:
                    yield container, each

    # Checking a create

    async def check(
        self, config: Mapping[str, Any], host: dict[str, Any], given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """What a create asks for, checked and normalised: settings by the network's name, and
        warnings. NotFound for a network that does not exist."""
        wanted = port_bindings.wanted(config, host)
        port_bindings.exposed(config)
        mode = host.get("NetworkMode") or "default"
        if mode.startswith("container:") or mode in (HOST, NONE):
            if wanted and mode != NONE:
                kind = "host" if mode == HOST else "container"
                if kind == "container":
                    raise InvalidInput(
                        "conflicting options: port publishing and the container type network mode"
                    )
            return self._check_alone(mode, host, given), (
                ["Published ports are discarded when using host network mode"]
                if wanted and mode == HOST
                else []
            )
        if not await self._networks.possible():
            return await self._check_impossible(mode, host, given, bool(wanted))
        if mode in ("default", BRIDGE):
            await self._networks.default()
        result, warnings = endpoint_config.normalise(mode, given, config, host, self._networks.find)
        self._move_links(mode, host, result)
        return result, warnings

    def _check_alone(
        self, mode: str, host: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if host.get("Links"):
            raise InvalidInput(
                "conflicting options: cannot use links with this network mode: " + mode
            )
        others = [name for name in given if name not in (mode, "default")]
        if others and mode.startswith("container:"):
            raise InvalidInput("container cannot be connected to network endpoints: " + others[0])
        if others:
            raise InvalidInput(
                f"conflicting options: cannot connect a {mode} container to {others[0]}"
            )
        return {mode: {}} if mode in (HOST, NONE) else {}

    async def _check_impossible(
        self, mode: str, host: Mapping[str, Any], given: Mapping[str, Any], publishes: bool
    ) -> tuple[dict[str, Any], list[str]]:
        if mode not in ("default", BRIDGE):
            self._networks.find(mode)
        try:
            await self._networks.need()
        except Unsupported as error:
            if publishes or host.get("Links"):
                raise Unsupported(
                    f"cannot publish ports or link containers: {error.message}",
                    hint="use --network host",
                ) from None
            return dict(given), [f"The container has no network but loopback: {error.message}"]
        raise AssertionError("possible and not possible")

    def _move_links(self, mode: str, host: dict[str, Any], settings: dict[str, Any]) -> None:
        """Links of a user's network are names in it; those of `bridge` stay where they are."""
        for text in host.get("Links") or ():
            reference, _, alias = text.partition(":")
            other = self._roster.find(reference.removeprefix("/"))
            name = alias or other.record.name
            if mode in ("default", BRIDGE):
                continue
            first = next(iter(settings))
            settings[first].setdefault("Links", []).append(f"{other.record.name}:{name}")

    # Starting and ending

    async def prepare(self, container: Container) -> Joined | None:
        """Make a container's sandbox, None when it needs none. Nothing stays after an error."""
        saved = container.record
        wanted = endpoint_config.names(saved)
        if not wanted or not await self._networks.possible():
            return None
        await self._settled.wait()
        await self.release(container)
        fabric = await self._networks.need()
        if BRIDGE in wanted:
            await self._networks.default()
        networks = {name: self._networks.find(name) for name in wanted}
        sandbox = self._plan(container, networks)
        self._live[container.id] = sandbox
        try:
            sandbox = await fabric.call(
                fabric.build,
                sandbox,
                self._segments(sandbox),
                self._ports_of(saved, sandbox),
                self._write,
            )
        except BaseException as error:
            self._forget(sandbox)
            if isinstance(error, Conflict):
                first = sandbox.endpoints[0]
                raise SystemFault(
                    "driver failed programming external connectivity on endpoint "
                    f"{saved.name} ({first.id}): {error.message}",
                    hint=error.hint,
                ) from None
            raise
        self._live[container.id] = sandbox
        for name in wanted:
            self._networks.tell(networks[name], "connect", container.id)
        return self._joined(container, sandbox)

    def _plan(self, container: Container, networks: Mapping[str, Network]) -> Sandbox:
        """Addresses and names for all endpoints. On an error every address is given back."""
        saved = container.record
        assert self._networks.fabric is not None
        endpoints: list[Endpoint] = []
        links: list[tuple[str, str, str]] = []
        try:
            for name, network in networks.items():
                settings = saved.network.get(name) or {}
                endpoints.append(self._endpoint(saved, network, settings, endpoints))
                for text in settings.get("Links") or ():
                    target, _, alias = text.partition(":")
                    links.append((network.id, alias or target, target.removeprefix("/")))
        except BaseException:
            for each in endpoints:
                self._give_back(each)
            raise
        own = any(not network.is_default for network in networks.values())
        return Sandbox(
            container_id=saved.id,
            path=self._networks.fabric.pin(saved.id),
            endpoints=tuple(endpoints),
            resolver=own or not etc.has_servers(saved.host, self._networks.settings.dns),
            upstream=tuple(saved.host.get("Dns") or self._networks.settings.dns),
            links=tuple(links),
        )

    def _endpoint(
        self,
        saved: Record,
        network: Network,
        settings: Mapping[str, Any],
        others: "list[Endpoint] | tuple[Endpoint, ...]",
    ) -> Endpoint:
        config = settings.get("IPAMConfig") or {}
        ipv4 = self._networks.take(network, 4, config.get("IPv4Address", ""))
        try:
            ipv6 = self._networks.take(network, 6, config.get("IPv6Address", ""))
        except BaseException:
            self._networks.give_back(network.id, ipv4)
            raise
        gateway4, gateway6 = endpoint_config.gateways(network)
        id = new_id()
        interface = endpoint_config.free_interface(network, settings, others)
        link_local = [ipaddress.ip_address(each) for each in config.get("LinkLocalIPs") or ()]
        return Endpoint(
            id=id,
            network_id=network.id,
            network=network.name,
            interface=interface,
            outside=f"ve{id[:12]}" if network.driver == "bridge" else "",
            mac=settings.get("MacAddress") or endpoint_config.mac_of(ipv4, ipv6, id),
            ipv4=ipv4,
            ipv6=ipv6,
            gateway4=gateway4 if ipv4 else "",
            gateway6=gateway6 if ipv6 else "",
            priority=int(settings.get("GwPriority") or 0),
            names=endpoint_config.dns_names(saved, network, settings),
            sysctls=endpoint_config.sysctls(settings, interface),
            link_local=tuple(f"{each}/{16 if each.version == 4 else 64}" for each in link_local),
        )

    def _give_back(self, endpoint: Endpoint) -> None:
        self._networks.give_back(endpoint.network_id, endpoint.ipv4)
        self._networks.give_back(endpoint.network_id, endpoint.ipv6)

    def _forget(self, sandbox: Sandbox) -> None:
        self._live.pop(sandbox.container_id, None)
        for each in sandbox.endpoints:
            self._give_back(each)
        with contextlib.suppress(OSError):
            os.unlink(self._file(sandbox.container_id))

    def _ports_of(self, saved: Record, sandbox: Sandbox) -> list[Wanted]:
        """What to publish, and on which of its addresses."""
        result: list[Wanted] = []
        targets = {}
        for ipv6 in (False, True):
            endpoint = sandboxes.gateway_of(sandbox, ipv6=ipv6)
            network = self._networks.get(endpoint.network_id) if endpoint else None
            if network is not None and network.driver == "bridge" and not network.internal:
                targets[ipv6] = (endpoint, network)
        for binding in port_bindings.wanted(saved.config, saved.host):
            twin = False
            for ipv6, (endpoint, network) in targets.items():
                assert endpoint is not None
                host_ip = binding.host_ip or self._default_address(network)
                unspecified = host_ip in ("", "0.0.0.0", "::")
                mixed = ":" in host_ip and not ipv6
                # A relay leads from IPv6 to a container that has none.
                leads = mixed and True not in targets and binding.protocol in RELAYED
                if host_ip and (":" in host_ip) != ipv6 and not leads:
                    continue
                address = endpoint.address6 if ipv6 else endpoint.address4
                result.append(
                    Wanted(
                        binding.name,
                        binding.protocol,
                        binding.port,
                        address,
                        "" if unspecified and not mixed else host_ip,
                        binding.low,
                        binding.high,
                        network.link,
                        twin,
                        bool(binding.host_ip) and unspecified and not mixed,
                    )
                )
                twin = True
        return result

    def _default_address(self, network: Network) -> str:
        given = network.options.get(network_record.HOST_BINDING, "")
        address = given if given != "0.0.0.0" else ""
        return address or self._networks.settings.publish_default_address

    def _joined(self, container: Container, sandbox: Sandbox) -> Joined:
        gateway = sandboxes.gateway_of(sandbox, ipv6=False)
        hosts, environment = self._legacy_links(container)
        own = [a for each in sandbox.endpoints for a in (each.address4, each.address6) if a]
        return Joined(
            sandbox.path,
            tuple(own),
            sandbox.resolver,
            gateway.gateway4 if gateway else "",
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
            sandbox = self._live.get(other.id)
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
        sandbox = self._live.get(container_id)
        if sandbox is None or container_id in self._leaving:
            return
        if not self._settled.is_set():
            # Recovery razes what it does not find among the living.
            self._forget(sandbox)
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
        self._forget(sandbox)
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

    # While it runs

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
            if mode == NONE and container.running:
                raise Forbidden(
                    "container cannot be connected to multiple networks with one of the networks "
                    "in private (none) mode"
                )
            if network.name in names:
                raise Forbidden(
                    f"endpoint with name {saved.name} already exists in network {network.name}"
                )
            if container.running:
                await self._plug(container, network, settings)
            saved.network = {k: v for k, v in saved.network.items() if k != NONE}
            saved.network[network.name] = settings
            if mode == NONE:
                saved.host["NetworkMode"] = network.name

    async def _plug(
        self, container: Container, network: Network, settings: Mapping[str, Any]
    ) -> None:
        sandbox = self._live.get(container.id)
        fabric = await self._networks.need()
        if sandbox is None:
            raise Conflict(f"container {container.id} has no network of its own to connect")
        endpoint = self._endpoint(container.record, network, settings, sandbox.endpoints)
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
            self._write(sandbox)
            self._live[container.id] = sandbox
            await fabric.call(fabric.connect, sandbox, endpoint, self._segments(sandbox))
            await self._move_ports(container, before, sandbox)
        except BaseException:
            self._live[container.id] = before
            self._write(before)
            with contextlib.suppress(SkerryError):
                await fabric.call(fabric.disconnect, before, endpoint, self._segments(before))
            self._give_back(endpoint)
            raise
        self._rewrite_etc(container, before)
        self._networks.tell(network, "connect", container.id)

    async def _move_ports(self, container: Container, before: Sandbox, after: Sandbox) -> None:
        """Published ports follow the default route."""
        wanted = self._ports_of(container.record, after)
        had = {(name, port.address) for name, port in before.ports}
        if {(each.name, each.address) for each in wanted} == had:
            return
        kept = {name: port.host_port for name, port in before.ports}
        wanted = [
            each
            if each.low
            else each._replace(low=kept.get(each.name, 0), high=kept.get(each.name, 0))
            for each in wanted
        ]
        fabric = await self._networks.need()
        moved = await fabric.call(fabric.republish, before, after, self._segments(after), wanted)
        self._write(moved)
        self._live[container.id] = moved

    async def disconnect(self, reference: str, container: Container, *, force: bool) -> None:
        """Take a container out of a network, at once when it runs."""
        network = self._networks.find(reference)
        saved = container.record
        if endpoint_config.mode_of(saved) == HOST or network.name == HOST:
            raise Forbidden("container cannot be disconnected from host network or connected to it")
        async with container.lock:
            if network.name not in endpoint_config.names(saved):
                raise Forbidden(
                    f"container {container.id} is not connected to network {network.name}"
                )
            if container.running:
                await self._unplug(container, network)
            saved.network.pop(network.name, None)
            if endpoint_config.mode_of(saved) == network.name:
                saved.host["NetworkMode"] = next(iter(saved.network), NONE)
                if not saved.network:
                    saved.network[NONE] = {}

    async def _unplug(self, container: Container, network: Network) -> None:
        sandbox = self._live.get(container.id)
        if sandbox is None:
            return
        gone = [each for each in sandbox.endpoints if each.network_id == network.id]
        before = sandbox
        sandbox = sandbox._replace(
            endpoints=tuple(each for each in sandbox.endpoints if each not in gone),
            links=tuple(each for each in sandbox.links if each[0] != network.id),
        )
        fabric = await self._networks.need()
        await self._move_ports(container, before, sandbox)
        sandbox = sandbox._replace(ports=self._live[container.id].ports)
        segments = self._segments(before)
        for each in gone:
            await fabric.call(fabric.disconnect, sandbox, each, segments)
            self._give_back(each)
        self._live[container.id] = sandbox
        self._write(sandbox)
        self._rewrite_etc(container, before)
        self._networks.tell(network, "disconnect", container.id)

    def _rewrite_etc(self, container: Container, before: Sandbox) -> None:
        """/etc/hosts and /etc/resolv.conf of a running container follow its networks."""
        after = self._live[container.id]
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

    def rename(self, container: Container) -> None:
        """A container's new name is known in its networks at once."""
        sandbox = self._live.get(container.id)
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
        self._live[container.id] = sandbox
        self._write(sandbox)
        task = asyncio.get_running_loop().create_task(self._tell_names(sandbox))
        self._leaving.setdefault(f"names of {container.id}", task)
        task.add_done_callback(lambda _: self._leaving.pop(f"names of {container.id}", None))

    async def _tell_names(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(SkerryError):
            fabric = await self._networks.need()
            await fabric.call(fabric.update_names, sandbox, self._segments(sandbox))

    # Files

    def _file(self, container_id: str) -> str:
        return os.path.join(self._folder, f"{container_id}.json")

    def _write(self, sandbox: Sandbox) -> None:
        """Replace the file in one step. Also called on the worker."""
        path = self._file(sandbox.container_id)
        fresh = f"{path}.new"
        data = json.dumps(sandboxes.to_plain(sandbox)).encode()
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(fresh, path)

    # Recovery

    def load(self) -> None:
        """Read what an earlier engine left; before containers are looked for."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return
        self._settled.clear()
        for name in names:
            path = os.path.join(self._folder, name)
            try:
                if not name.endswith(".json"):
                    raise ValueError("left by a killed engine")
                with open(path, "rb") as file:
                    sandbox = sandboxes.from_plain(json.loads(file.read(FILE_LIMIT)))
                self._live[sandbox.container_id] = sandbox
                for each in sandbox.endpoints:
                    network = self._networks.get(each.network_id)
                    if network is not None:
                        self._networks.hold(network, each.ipv4)
                        self._networks.hold(network, each.ipv6)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: %s", path, error)
                with contextlib.suppress(OSError):
                    os.unlink(path)

    async def settle(self) -> None:
        """Bring the kernel in line with what runs; after containers were looked for."""
        try:
            for id, sandbox in list(self._live.items()):
                container = self._roster.get(id)
                if container is None or not container.running:
                    self._forget(sandbox)
            known = any(each.name not in (HOST, NONE) for each in self._networks.all())
            if not known and not os.path.isdir(os.path.dirname(self._folder)):
                return
            if not await self._networks.possible():
                return
            busy = {each.network_id for box in self._live.values() for each in box.endpoints}
            await self._networks.settle(busy)
            fabric = await self._networks.need()
            await fabric.call(fabric.restore, self._networks.segments(), list(self._live.values()))
        except SkerryError as error:
            log.warning("networks: %s", error)
        finally:
            self._settled.set()

    async def close(self) -> None:
        """The engine ends. Networks stay as long as a container is in one; else nothing does."""
        for task in list(self._leaving.values()):
            with contextlib.suppress(Exception):
                await task
        fabric = self._networks.fabric
        if fabric is None:
            return
        if self._networks.opened:
            try:
                if not self._live:
                    await fabric.call(fabric.dismantle, self._networks.segments())
            except SkerryError as error:
                log.warning("networks: %s", error)
        await fabric.shut()
