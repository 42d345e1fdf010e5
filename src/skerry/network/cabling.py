"""A sandbox's links: made in its namespace, plugged into bridges, given addresses and routes."""

import ipaddress
from collections.abc import Iterable, Mapping

from skerry.base.errors import SystemFault
from skerry.kernel import links, netlink
from skerry.network import namespaces
from skerry.network.sandbox import Endpoint, Sandbox, Segment, gateway_of


def plug(endpoint: Endpoint, segment: Segment, index: int, fd: int) -> netlink.Message:
    """The message that makes an endpoint's link in the namespace `fd`; `index` is the number of the
    network's link."""
    mac = bytes.fromhex(endpoint.mac.replace(":", ""))
    if not index:
        raise SystemFault(
            f"the interface {segment.link} of network {endpoint.network} does not exist",
            hint="somebody removed it; start the engine again",
        )
    if segment.driver == "macvlan":
        return links.add_macvlan(
            endpoint.interface, index, fd, mac=mac, mode=segment.mode, mtu=segment.mtu
        )
    if segment.driver == "ipvlan":
        return links.add_ipvlan(
            endpoint.interface,
            index,
            fd,
            mode=segment.mode,
            flag=segment.flag,
            mtu=segment.mtu,
        )
    return links.add_veth(
        endpoint.outside, endpoint.interface, fd, mac=mac, master=index, mtu=segment.mtu
    )


def port_flags(
    sandbox: Sandbox, endpoints: Iterable[Endpoint], segments: Mapping[str, Segment]
) -> list[netlink.Message]:
    """Messages for bridge ports that are not plain ones: of containers that must not talk to one
    another, or that may reach themselves through a published port."""
    return [
        links.set_port(
            each.outside,
            isolated=not segments[each.network_id].icc,
            hairpin=bool(sandbox.ports),
        )
        for each in endpoints
        if each.outside and (sandbox.ports or not segments[each.network_id].icc)
    ]


def furnish(sandbox: Sandbox, endpoints: Iterable[Endpoint]) -> None:
    """Addresses and routes, from within the namespace."""
    messages = []
    late: list[tuple[str, str]] = []
    for each in endpoints:
        index = links.index_of(each.interface)
        if each.ipv6 or any(":" in text for text in each.link_local):
            namespaces.sysctl(f"ipv6/conf/{each.interface}/disable_ipv6", "0")
        messages.append(links.set_up(index, each.interface))
        for text in (each.ipv4, each.ipv6, *each.link_local):
            if text:
                interface = ipaddress.ip_interface(text)
                messages.append(
                    links.add_address(index, interface.packed, interface.network.prefixlen)
                )
        late += each.sysctls
    for ipv6 in (False, True):
        gateway = gateway_of(sandbox, ipv6=ipv6)
        if gateway is not None:
            text = gateway.gateway6 if ipv6 else gateway.gateway4
            messages.append(
                links.add_default_route(
                    links.index_of(gateway.interface), ipaddress.ip_address(text).packed
                )
            )
    with netlink.Netlink(netlink.NETLINK_ROUTE) as inner:
        inner.request(messages)
    for path, value in late:
        namespaces.sysctl(path, value)


def drop_routes() -> None:
    """Of the thread's namespace: the default ones."""
    with netlink.Netlink(netlink.NETLINK_ROUTE) as inner:
        inner.request([links.delete_default_route(ipv6=each) for each in (False, True)])
