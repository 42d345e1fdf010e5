"""The networks: make, find, list, remove; their subnets and addresses.

The records are the truth. A record is written before its bridge is made and deleted after it is
gone, so a crash never leaves a bridge that no record names. `bridge`, the default network, is made
when it is first needed; `host` and `none` need nothing.
"""

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from skerry.base.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    SkerryError,
    SystemFault,
    Unsupported,
)
from skerry.base.ids import new_id
from skerry.engine import network_filters, network_record, network_templates
from skerry.engine.network_record import BRIDGE, HOST, KIND, NONE, PREDEFINED, Network, PoolConfig
from skerry.engine.network_settings import NetworkSettings
from skerry.network import ipam
from skerry.network.fabric import Fabric
from skerry.network.segments import Survey

if TYPE_CHECKING:
    from skerry.engine.events import Events
    from skerry.network.sandbox import Endpoint, Segment
    from skerry.store.records import Records

log = logging.getLogger(__name__)

LIMIT = 4096
"""Networks of one engine."""


def builtin(name: str) -> Network:
    """`host` or `none`: there is one of each per host, so the id only has to look like one."""
    driver = {"host": "host", "none": "null"}[name]
    return Network(name.encode().hex().ljust(64, "0"), name, driver, 0, "")


class Networks:
    """The service. `fabric` is None where networks are impossible or not wanted (tests)."""

    def __init__(
        self,
        records: "Records",
        events: "Events",
        fabric: Fabric | None,
        settings: NetworkSettings,
    ) -> None:
        self.settings = settings
        self.fabric = fabric
        self._records = records
        self._events = events
        self._networks: dict[str, Network] = {}
        self._pools: dict[str, list[ipam.Pool]] = {}
        self._lock = asyncio.Lock()
        self._why_not: SkerryError | None = None
        self._opened = False
        self.active: Callable[[Network], list[tuple[str, str]]] = lambda network: []
        """(name, id) of the containers that are plugged into a network now."""
        self.wanted_by: Callable[[Network], list[str]] = lambda network: []
        """Ids of all containers that want it."""

    def load(self) -> None:
        """Read the records."""
        for saved in self._records.all(KIND):
            try:
                self._know(network_record.from_plain(saved.data))
            except SkerryError as error:
                log.error("%s", error)

    def _know(self, network: Network) -> None:
        if network.is_default:
            # Of today's settings, not of those when it was made.
            network.options[network_record.HOST_BINDING] = self._host_binding
        self._networks[network.id] = network
        self._pools[network.id] = [_pool(each) for each in network.pools]

    @property
    def _host_binding(self) -> str:
        return self.settings.publish_default_address or "0.0.0.0"

    # Whether, and the worker

    async def possible(self) -> bool:
        """Whether this host and user can have bridge networks; found out once."""
        if not self._opened and self._why_not is None:
            try:
                if self.fabric is None:
                    raise Unsupported("this engine has no bridge networks")
                await self.fabric.call(self.fabric.open)
                self._opened = True
            except SkerryError as error:
                self._why_not = error
        return self._opened

    @property
    def opened(self) -> bool:
        """Whether the worker is at work."""
        return self._opened

    async def need(self) -> Fabric:
        """The worker; Unsupported with the reason when there can be none."""
        if not await self.possible():
            assert self._why_not is not None
            raise self._why_not
        assert self.fabric is not None
        return self.fabric

    # Finding

    def all(self) -> list[Network]:
        """All, oldest first, with `host` and `none`."""
        made = sorted(self._networks.values(), key=lambda each: each.created_at)
        return [*made, builtin(HOST), builtin(NONE)]

    def segments(self) -> "list[Segment]":
        """What the kernel should have."""
        return [each.segment() for each in self._networks.values() if not each.config_only]

    def find(self, reference: str) -> Network:
        """By name, id or unique beginning of an id; NotFound in Docker's words."""
        wanted = BRIDGE if reference == "default" else reference
        known = self.all()
        for network in known:
            if wanted in (network.name, network.id):
                return network
        found = [each for each in known if wanted and each.id.startswith(wanted)]
        if len(found) > 1:
            raise InvalidInput(f"network {reference} is ambiguous ({len(found)} matches found)")
        if not found:
            raise NotFound(f"network {reference} not found")
        return found[0]

    def get(self, id: str) -> Network | None:
        """By full id."""
        return self._networks.get(id)

    def select(self, filters: Mapping[str, frozenset[str]]) -> list[Network]:
        """Those that pass Docker's filters."""
        network_filters.check(filters, network_filters.LIST)
        return [
            network
            for network in self.all()
            if network_filters.lists(network, filters, self.wanted_by)
        ]

    # Making and removing

    async def default(self) -> Network:
        """The network `bridge`, made when it is not there yet."""
        for network in self._networks.values():
            if network.is_default:
                return network
        async with self._lock:
            with contextlib.suppress(NotFound):
                found = self.find(BRIDGE)
                if found.id in self._networks:
                    return found
            id = new_id()
            network = Network(
                id=id, name=BRIDGE, driver="bridge", created_at=time.time_ns(), link=f"sk-{id[:12]}"
            )
            settings = self.settings
            network.ipv6 = settings.ipv6
            network.options = {
                "com.docker.network.bridge.default_bridge": "true",
                network_record.ICC: str(settings.icc).lower(),
                network_record.MASQUERADE: "true",
                network_record.HOST_BINDING: self._host_binding,
                network_record.BRIDGE_NAME: network.link,
                network_record.MTU: str(settings.mtu or 1500),
            }
            if settings.bip:
                interface = ipaddress.ip_interface(settings.bip)
                network.pools.append(PoolConfig(str(interface.network), str(interface.ip)))
            await self._realise(network)
            return network

    async def create(self, body: Mapping[str, Any]) -> Network:
        """Make a network. `body` has passed `network_record.BODY`."""
        await self.need()
        network_templates.check(body)
        async with self._lock:
            body = network_templates.filled(body, self._networks.values())
            network = network_record.parse(body, new_id(), time.time_ns())
            if len(self._networks) >= LIMIT:
                raise Conflict(f"there are already {LIMIT} networks")
            if any(each.name == network.name for each in self._networks.values()):
                raise Conflict(f"network with name {network.name} already exists")
            for other in self._networks.values():
                if other.link == network.link and other.driver == "bridge":
                    raise Conflict(
                        f"bridge name {network.link} is already used by network {other.name}"
                    )
            if network.config_only:
                self._save(network)
                self._know(network)
            else:
                await self._realise(network)
        self._emit(network, "create")
        return network

    async def _realise(self, network: Network) -> None:
        """Choose what was left open, write the record, make the link."""
        fabric = await self.need()

        def decide(survey: Survey) -> "Segment":
            self._decide(network, survey)
            self._save(network)
            return network.segment()

        try:
            await fabric.call(fabric.claim, decide)
        except BaseException:
            self._records.delete(KIND, network.id)
            raise
        self._know(network)

    def _save(self, network: Network) -> None:
        self._records.put(KIND, network.id, network_record.to_plain(network), network.name)

    def _decide(self, network: Network, survey: Survey) -> None:
        """Subnets, gateways and whose link it is. Runs on the worker, while no other engine of
        this host chooses."""
        ours = [
            ipaddress.ip_network(pool.subnet)
            for other in self._networks.values()
            if other.id != network.id and not other.config_only
            for pool in other.pools
        ]
        # Parents of macvlans are the host's as soon as they exist; so are bridges it has made.
        network.own_link = network.link not in survey.links
        for pool in network.pools:
            if network.driver == "bridge":
                ipam.check_free(ipaddress.ip_network(pool.subnet), ours)
        for version, wanted in ((4, network.ipv4), (6, network.ipv6)):
            if wanted and network.pool(version) is None:
                subnet = self._choose(version, [*ours, *survey.routes])
                network.pools.append(PoolConfig(str(subnet), chosen=True))
        for pool in network.pools:
            if network.is_isolated(pool):
                continue
            if not pool.gateway and not (network.internal and network.driver != "bridge"):
                pool.gateway = str(_pool(pool).first())

    def _choose(self, version: int, taken: "list[ipam.Network]") -> "ipam.Network":
        pools = [each for each in self.settings.pools if each.base.version == version]
        if version == 6 and not pools:
            # A unique local prefix of this engine's own (RFC 4193); one /64 per network.
            digits = (self.fabric.tag if self.fabric else "0" * 12)[:10]
            base = ipaddress.IPv6Network((int(f"fd{digits}", 16) << 80, 48))
            pools = [ipam.PoolRange(base, 64)]
        return ipam.choose(pools, taken)

    async def remove(self, reference: str) -> None:
        """Remove a network. Forbidden while containers are in it, and for the predefined ones."""
        network = self.find(reference)
        async with self._lock:
            await self._remove(network)

    async def _remove(self, network: Network) -> None:
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.id not in self._networks:
            raise NotFound(f"network {network.name} not found")
        if active := self.active(network):
            listed = ", ".join(f'name:"{name}" id:"{id[:12]}"' for name, id in active)
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints "
                f"({listed})"
            )
        others = self._networks.values()
        if network.config_only and any(each.config_from == network.name for each in others):
            raise Forbidden(f'configuration network "{network.name}" is in use')
        # Nobody can join it from here on.
        del self._networks[network.id]
        try:
            if not network.config_only:
                await self._remove_segment(network)
        except BaseException:
            self._networks[network.id] = network
            raise
        self._records.delete(KIND, network.id)
        self._pools.pop(network.id, None)
        self._emit(network, "destroy")

    async def _remove_segment(self, network: Network) -> None:
        fabric = await self.need()
        shared = any(each.link == network.link for each in self._networks.values())
        segment = network.segment()
        await fabric.call(
            fabric.remove_segment, segment._replace(own_link=segment.own_link and not shared)
        )

    async def prune(self, filters: Mapping[str, frozenset[str]]) -> list[str]:
        """Remove every network that no running container is in and the filters (label, label!,
        until as nanoseconds) leave; their names. Docker does not ask stopped ones either."""
        network_filters.check(filters, network_filters.PRUNE)
        gone = []
        async with self._lock:
            for network in list(self._networks.values()):
                if network.name in PREDEFINED or self.active(network):
                    continue
                if network.config_only or not network_filters.prunes(network, filters):
                    continue
                with contextlib.suppress(SkerryError):
                    await self._remove(network)
                    gone.append(network.name)
        return gone

    def _emit(self, network: Network, action: str, **more: str) -> None:
        attributes = {"name": network.name, "type": network.driver, **more}
        self._events.emit("network", action, network.id, attributes)

    def tell(self, network: Network, action: str, container_id: str) -> None:
        """Tell of a container that joined (connect) or left (disconnect)."""
        self._emit(network, action, container=container_id)

    # Addresses

    def take(self, network: Network, version: int, wanted: str = "") -> str:
        """An address with its prefix length; empty when the network has no such addresses."""
        for pool in self._pools[network.id]:
            if pool.subnet.version == version:
                address = pool.take(ipaddress.ip_address(wanted) if wanted else None)
                return f"{address}/{pool.subnet.prefixlen}"
        if wanted:
            raise InvalidInput(
                f"invalid endpoint settings: no configured subnet contains IP address {wanted}"
            )
        return ""

    def hold(self, network: Network, address: str) -> None:
        """An address that is in use already."""
        self._with_pool(network.id, address, ipam.Pool.hold)

    def release(self, endpoint: "Endpoint") -> None:
        """An endpoint's addresses are free again."""
        self.give_back(endpoint.network_id, endpoint.ipv4)
        self.give_back(endpoint.network_id, endpoint.ipv6)

    def give_back(self, network_id: str, address: str) -> None:
        """An address that is no longer in use."""
        self._with_pool(network_id, address, ipam.Pool.give_back)

    def _with_pool(
        self, network_id: str, text: str, work: Callable[[ipam.Pool, ipam.Address], None]
    ) -> None:
        if text:
            address = ipaddress.ip_address(text.partition("/")[0])
            for pool in self._pools.get(network_id, ()):
                if address in pool.subnet:
                    work(pool, address)

    async def settle(self, busy: Iterable[str]) -> None:
        """After a restart: a default bridge that nobody is in moves away from a subnet that the
        host has got a route to meanwhile."""
        fabric = await self.need()
        survey = await fabric.call(fabric.survey)
        for network in list(self._networks.values()):
            movable = all(pool.chosen for pool in network.pools) and network.id not in set(busy)
            if not network.is_default or not movable or network.link in survey.links:
                continue
            subnets = [ipaddress.ip_network(pool.subnet) for pool in network.pools]
            if any(
                each.version == route.version and each.overlaps(route)
                for each in subnets
                for route in survey.routes
            ):
                network.pools = []
                try:
                    await self._realise(network)
                except SystemFault as error:
                    log.warning("%s", error)


def _pool(config: PoolConfig) -> ipam.Pool:
    reserved = [*config.aux.values(), *([config.gateway] if config.gateway else [])]
    return ipam.Pool(
        ipaddress.ip_network(config.subnet),
        ipaddress.ip_network(config.ip_range) if config.ip_range else None,
        [ipaddress.ip_address(each) for each in reserved],
    )
