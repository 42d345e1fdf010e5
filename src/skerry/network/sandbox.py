"""The words between the engine and its networks, as frozen plain data that is saved as JSON.

A *network* is what containers join; a *sandbox* is one container's network namespace with its
*endpoints*, one per network, as long as the container runs. Addresses are text.
"""

from typing import Any, NamedTuple

from skerry.network.firewall import NAT, Published


class Segment(NamedTuple):
    """What the kernel has of a network: a bridge with its addresses, or the parent of macvlans."""

    id: str
    driver: str
    """bridge, macvlan or ipvlan."""
    link: str
    """The bridge, or the parent link."""
    gateways: tuple[str, ...] = ()
    """The bridge's addresses, `address/prefix`."""
    mtu: int = 0
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    modes: tuple[str, str] = (NAT, NAT)
    """The gateway modes of IPv4 and IPv6 (`firewall`)."""
    mode: str = ""
    flag: str = ""
    own_link: bool = True
    """The engine made the link, and removes it with the network."""


class Endpoint(NamedTuple):
    """A container's place in a network."""

    id: str
    network_id: str
    network: str
    """The network's name."""
    interface: str
    """The link's name inside."""
    outside: str
    """The host's end of the pair; empty for macvlan and ipvlan."""
    mac: str
    ipv4: str = ""
    """`address/prefix`; empty for none."""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    priority: int = 0
    """Of the gateway: the highest makes the default route."""
    names: tuple[str, ...] = ()
    """What the resolver calls it in this network; the first is the answer of reverse look-ups."""
    sysctls: tuple[tuple[str, str], ...] = ()
    """(path below /proc/sys/net, value), set once the link is there."""
    link_local: tuple[str, ...] = ()
    """Further addresses, `address/prefix`, that nobody gave out."""

    @property
    def address4(self) -> str:
        """Without the prefix length."""
        return self.ipv4.partition("/")[0]

    @property
    def address6(self) -> str:
        """Without the prefix length."""
        return self.ipv6.partition("/")[0]


class Sandbox(NamedTuple):
    """What a running container has; saved in `<run-root>/net/sandboxes/<container id>.json`."""

    container_id: str
    path: str
    """The namespace's pin."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[tuple[str, Published], ...] = ()
    """(`80/tcp`, where it is published)."""
    resolver: bool = False
    """Whether 127.0.0.11 answers inside."""
    upstream: tuple[str, ...] = ()
    """--dns; empty for the host's."""
    links: tuple[tuple[str, str, str], ...] = ()
    """(network id, name, target name): names of --link that only this container knows."""
    guest: bool = False
    """A machine is behind the links: it reaches nothing of the host."""

    @property
    def guest_ports(self) -> tuple[str, ...]:
        """The host's ends of a machine's links."""
        return tuple(each.outside for each in self.endpoints if each.outside and self.guest)


VERSION = 1


def to_plain(sandbox: Sandbox) -> dict[str, Any]:
    """Ready for JSON."""
    plain = sandbox._asdict()
    plain["endpoints"] = [each._asdict() for each in sandbox.endpoints]
    plain["ports"] = [[name, each._asdict()] for name, each in sandbox.ports]
    return {"version": VERSION, **plain}


def from_plain(data: dict[str, Any]) -> Sandbox:
    """What `to_plain` gave; KeyError, TypeError or ValueError when it is not that."""
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r}")
    endpoints = []
    for each in data["endpoints"]:
        fields = dict(each)
        fields["names"] = tuple(fields["names"])
        fields["sysctls"] = tuple((path, value) for path, value in fields["sysctls"])
        fields["link_local"] = tuple(fields.get("link_local", ()))
        endpoints.append(Endpoint(**fields))
    return Sandbox(
        container_id=data["container_id"],
        path=data["path"],
        endpoints=tuple(endpoints),
        ports=tuple((name, Published(**each)) for name, each in data["ports"]),
        resolver=data["resolver"],
        upstream=tuple(data["upstream"]),
        links=tuple((network, name, target) for network, name, target in data["links"]),
        guest=data.get("guest", False),
    )


def gateway_of(sandbox: Sandbox, *, ipv6: bool) -> Endpoint | None:
    """The endpoint with the default route: highest priority, then the network's name."""
    having = [each for each in sandbox.endpoints if (each.gateway6 if ipv6 else each.gateway4)]
    return min(having, key=lambda each: (-each.priority, each.network), default=None)
