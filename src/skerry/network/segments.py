"""Networks in the kernel: bridges with their addresses, parents of macvlans, what the packet filter
knows of them, and whether the host forwards at all.

Links are known as ours by their alias.
"""

import errno
import ipaddress
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skerry.base.errors import KernelFault, SystemFault, Unsupported
from skerry.kernel import links
from skerry.network import cabling, firewall, namespaces
from skerry.network.doors import Doors
from skerry.network.ipam import Network
from skerry.network.sandbox import Endpoint, Segment


class Survey(NamedTuple):
    """What the host has: destinations of its routes, names of its links."""

    routes: tuple[Network, ...]
    links: frozenset[str]


class Segments:
    """Of one engine; `folder` is where it notes that the host did not forward before."""

    def __init__(self, doors: Doors, folder: str) -> None:
        self._doors = doors
        self._mark = os.path.join(folder, "forwarding")
        self._indexes: dict[str, int] = {}

    def survey(self) -> Survey:
        """Look at the host."""
        routes = set()
        for route in links.list_routes(self._doors.links):
            address = ipaddress.ip_address(route.address)
            if not address.is_link_local and not address.is_multicast:
                routes.add(ipaddress.ip_network((address, route.prefix), strict=False))
        names = frozenset(link.name for link in links.list_links(self._doors.links))
        return Survey(tuple(routes), names)

    def index(self, link: str) -> int:
        """The number of a network's link, 0 when it has gone."""
        return self._indexes.get(link) or links.index_of(link)

    @property
    def closed(self) -> bool:
        """Whether the filter has to keep the host from becoming a router: it did not forward before
        there were networks."""
        return os.path.exists(self._mark)

    def _forward(self, segments: Sequence[Segment]) -> None:
        """Let the host forward packets. When it did not before, the filter lets nothing pass that
        is not about our bridges: the host does not become a router."""
        wanted = []
        if any(not each.internal for each in _bridges(segments)):
            wanted.append("ipv4/ip_forward")
            if any(":" in gateway for each in segments for gateway in each.gateways):
                wanted.append("ipv6/conf/all/forwarding")
        for path in wanted:
            with open(f"/proc/sys/net/{path}", encoding="ascii") as file:
                if file.read().strip() != "0":
                    continue
            if path == "ipv4/ip_forward":
                os.close(os.open(self._mark, os.O_CREAT | os.O_WRONLY, 0o600))
            namespaces.sysctl(path, "1")

    def restore(self, segments: Sequence[Segment], more: Sequence[firewall.Elements]) -> None:
        """Make links and filter be exactly this, with `more` elements in the filter; what else is
        ours goes."""
        self._forward(segments)
        elements = [firewall.bridge_elements(_guarded(each)) for each in _bridges(segments)]
        self._doors.lay([*elements, *more], closed=self.closed)
        wanted = {each.link for each in segments}
        for link in links.list_links(self._doors.links):
            if link.alias == self._doors.alias and link.name not in wanted:
                self._doors.remove_link(link.name)
        for segment in segments:
            self._raise(segment)

    def add(self, segment: Segment) -> None:
        """Make a network's link and let the filter know it. Idempotent."""
        if segment.driver == "bridge":
            elements = firewall.bridge_elements(_guarded(segment))
            was_closed = self.closed
            self._forward([segment])
            if self.closed and not was_closed:
                self._doors.filter.commit([self._doors.table.add_rule("forward", firewall.CLOSED)])
            self._doors.add(elements)
        self._raise(segment)

    def _raise(self, segment: Segment) -> None:
        index = links.index_of(segment.link)
        if not index:
            if not segment.own_link and segment.driver != "bridge":
                raise SystemFault(f"the parent interface {segment.link} does not exist")
            self._make_link(segment)
            index = links.index_of(segment.link)
        self._indexes[segment.link] = index
        if segment.driver != "bridge":
            self._try_out(segment, index)
            return
        ipv6 = any(":" in gateway for gateway in segment.gateways)
        conf = f"conf/{segment.link}"
        namespaces.sysctl(f"ipv4/{conf}/route_localnet", "1")
        namespaces.sysctl(f"ipv4/{conf}/rp_filter", "1", optional=True)
        namespaces.sysctl(f"ipv6/{conf}/accept_ra", "0", optional=True)
        namespaces.sysctl(f"ipv6/{conf}/disable_ipv6", "0" if ipv6 else "1", optional=True)
        messages = [links.set_up(index, segment.link)]
        for gateway in segment.gateways:
            interface = ipaddress.ip_interface(gateway)
            messages.append(links.add_address(index, interface.packed, interface.network.prefixlen))
        self._doors.links.request(messages)

    def _try_out(self, segment: Segment, parent: int) -> None:
        """Find out now, not at the first start, whether the kernel makes such links here."""
        name = f"try{self._doors.tag}"
        endpoint = Endpoint("", segment.id, "", name, "", "02:42:00:00:00:01")
        try:
            self._doors.links.request([cabling.plug(endpoint, segment, parent, self._doors.home)])
        except KernelFault as fault:
            raise Unsupported(
                f"{segment.driver} on {segment.link}: {os.strerror(fault.errno)}",
                hint=f"this kernel has no {segment.driver}, or the parent cannot carry one",
            ) from None
        self._doors.remove_link(name)

    def _make_link(self, segment: Segment) -> None:
        name = segment.link
        parent, dot, number = name.rpartition(".")
        if segment.driver == "bridge":
            # A bridge without an address of its own takes its ports', and changes with them.
            mac = b"\x02\x42" + bytes.fromhex(segment.id[:8])
            message = links.add_bridge(name, mac=mac, mtu=segment.mtu)
        elif dot and number.isdigit() and (index := links.index_of(parent)):
            message = links.add_vlan(name, index, int(number))
        elif segment.own_link and not dot:
            message = links.add_dummy(name)
        else:
            raise SystemFault(f"the parent interface {parent or name} does not exist")
        try:
            self._doors.links.request([message, links.set_alias(name, self._doors.alias)])
        except KernelFault as fault:
            if fault.errno in (errno.EOPNOTSUPP, errno.ENODEV):
                raise Unsupported(
                    f"{segment.driver} network on {name}: {fault.message}",
                    hint=f"this kernel has no links of the kind that it needs ({segment.driver})",
                ) from None
            raise

    def remove(self, segment: Segment) -> None:
        """The reverse. Idempotent."""
        if segment.driver == "bridge":
            self._doors.take_away(firewall.bridge_elements(_guarded(segment)))
        self._indexes.pop(segment.link, None)
        if segment.own_link:
            self._doors.remove_link(segment.link)

    def forward_no_more(self) -> None:
        """Undo it, unless bridges of somebody else may need it by now."""
        if self.closed and not any(
            link.kind == "bridge" for link in links.list_links(self._doors.links)
        ):
            namespaces.sysctl("ipv4/ip_forward", "0", optional=True)
            os.unlink(self._mark)


def _bridges(segments: Iterable[Segment]) -> list[Segment]:
    return [each for each in segments if each.driver == "bridge"]


def _guarded(segment: Segment) -> firewall.Guarded:
    return firewall.Guarded(
        segment.link,
        tuple(gateway.partition("/")[0] for gateway in segment.gateways),
        internal=segment.internal,
        icc=segment.icc,
        masquerade=segment.masquerade,
        modes=segment.modes,
    )
