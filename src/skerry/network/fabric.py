"""What the kernel has of an engine's networks: made, found again, removed, by one worker.

Theory. RTNL, the kernel's lock around links, is one for the whole host, so several workers would
only wait for one another: everything here runs on one thread, and each step is a few batched
messages. The thread enters containers' namespaces and comes home before it returns.

What must be there is said by the engine (segments and sandboxes). Every method may be interrupted
by the engine's death at any instruction, and `restore` brings the kernel in line with what is said
then: rules and elements in one transaction, bridges that are missing, links, pins and held sockets
that nobody speaks of any more. Links are known as ours by their alias.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from skerry.base.errors import Conflict, KernelFault, SystemFault, Unavailable, Unsupported
from skerry.kernel import links, netlink, nft
from skerry.network import firewall, flows, namespaces, ports
from skerry.network.firewall import Published
from skerry.network.helper_link import HelperLink
from skerry.network.ipam import Network
from skerry.network.sandbox import Endpoint, Sandbox, Segment, gateway_of

_LOCK = "\0skerry-subnets"
_PATIENCE = 20.0
P = ParamSpec("P")
T = TypeVar("T")


class Survey(NamedTuple):
    """What the host has: destinations of its routes, names of its links."""

    routes: tuple[Network, ...]
    links: frozenset[str]


class Fabric:
    """The worker of one engine. The coroutines may be called from the event loop only."""

    def __init__(self, root: str, run_root: str) -> None:
        self._folder = os.path.join(run_root, "net")
        self._pins = os.path.join(self._folder, "ns")
        self._table = firewall.table_of(root)
        self.tag = firewall.tag(root)
        """Twelve hex digits that tell this engine's objects from another's."""
        self._alias = f"skerry {self.tag}"
        self._helper = HelperLink(os.path.join(self._folder, "helper.sock"))
        self._pool = ThreadPoolExecutor(1, "skerry-net")
        self._route: netlink.Netlink | None = None
        self._nft: nft.Nft | None = None
        self._home = -1
        self._indexes: dict[str, int] = {}
        self._told: Callable[[], Iterable[tuple[Sandbox, dict[str, Segment]]]] = list

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of this object on the worker."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def pin(self, container_id: str) -> str:
        """Where a container's namespace is pinned."""
        return os.path.join(self._pins, container_id)

    def speak_for(self, told: Callable[[], Iterable[tuple[Sandbox, dict[str, Segment]]]]) -> None:
        """Where to ask for all sandboxes when a fresh helper has to be told everything."""
        self._told = told

    # Opening

    def open(self) -> None:
        """Open the doors to the kernel; Unsupported when this host or user cannot have networks."""
        if self._route is not None:
            return
        route = None
        try:
            fresh = not os.path.isdir(self._pins)
            os.makedirs(self._pins, 0o700, exist_ok=True)
            route = netlink.Netlink(netlink.NETLINK_ROUTE)
            door = nft.Nft()
            # The table of an engine that was killed is left as it is until `restore` replaces it.
            if fresh or self._table not in door.tables():
                door.commit(firewall.setup(self._table, {}, closed=self._closed))
        except (KernelFault, OSError) as error:
            if route is not None:
                route.close()
            raise Unsupported(
                f"no bridge networks here: {error}",
                hint="they need root with CAP_NET_ADMIN, and nftables in the kernel",
            ) from None
        self._home = namespaces.home()
        self._route, self._nft = route, door

    @property
    def _links(self) -> netlink.Netlink:
        assert self._route is not None, "open() comes first"
        return self._route

    @property
    def _filter(self) -> nft.Nft:
        assert self._nft is not None, "open() comes first"
        return self._nft

    def survey(self) -> Survey:
        """Look at the host."""
        routes = set()
        for route in links.list_routes(self._links):
            address = ipaddress.ip_address(route.address)
            if not address.is_link_local and not address.is_multicast:
                routes.add(ipaddress.ip_network((address, route.prefix), strict=False))
        names = frozenset(link.name for link in links.list_links(self._links))
        return Survey(tuple(routes), names)

    # Networks

    def claim(self, decide: Callable[[Survey], Segment]) -> None:
        """Make a network whose subnet `decide` chooses, while no other engine of this network
        namespace chooses one.

        The lock is the name of an abstract unix socket: these belong to the network namespace, as
        the routes do that the choice is made by, and go with their process.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as lock:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    lock.bind(_LOCK)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            "another engine does not stop to choose a subnet"
                        ) from None
                    time.sleep(0.005)
            segment = decide(self.survey())
            try:
                self.add_segment(segment)
            except BaseException:
                with contextlib.suppress(SystemFault):
                    self.remove_segment(segment)
                raise

    def restore(self, segments: Sequence[Segment], sandboxes: Sequence[Sandbox]) -> None:
        """Make the kernel's state be exactly this; what else is ours goes."""
        self._forward(segments)
        elements = [firewall.bridge_elements(_guarded(each)) for each in _bridges(segments)]
        elements += [firewall.port_elements(port for _, port in box.ports) for box in sandboxes]
        self._filter.commit(
            firewall.setup(self._table, firewall.merged(elements), closed=self._closed)
        )
        wanted = {each.link for each in segments}
        for link in links.list_links(self._links):
            if link.alias == self._alias and link.name not in wanted:
                self._links.request([links.delete_link(link.number, link.name)])
        for segment in segments:
            self._raise(segment)
        self._sweep_pins({each.container_id for each in sandboxes})
        self._sweep_helper(sandboxes)

    def _sweep_pins(self, known: set[str]) -> None:
        for name in os.listdir(self._pins):
            if name not in known:
                namespaces.remove(os.path.join(self._pins, name))

    def _sweep_helper(self, sandboxes: Sequence[Sandbox]) -> None:
        if not sandboxes and not os.path.exists(os.path.join(self._folder, "helper.sock")):
            return
        self._helper.ensure()
        self._tell_everything()

    def _tell_everything(self) -> None:
        """Bring the helper in line with all sandboxes."""
        wanted: dict[str, Callable[[], None]] = {}
        self._helper.tell("fresh")
        for sandbox, segments in self._told():
            self._tell_names(sandbox, segments)
            if sandbox.resolver:
                key = f"dns/{sandbox.container_id}"
                wanted[key] = partial(self._hold_resolver, key, sandbox.path)
            for name, port in ports.held(sandbox.ports):
                key = _port_key(sandbox.container_id, name, port)
                wanted[key] = partial(self._reserve, key, port)
        self._helper.tell("settled")
        held = self._helper.held()
        self._helper.drop(held - wanted.keys())
        for key in sorted(wanted.keys() - held):
            # A port that somebody took while no helper lived stays theirs; ours is still forwarded.
            with contextlib.suppress(SystemFault, Conflict):
                wanted[key]()

    def _hold_resolver(self, key: str, path: str) -> None:
        self._hold(key, "dns", self._resolver_sockets(path))

    def _reserve(self, key: str, port: Published) -> None:
        self._hold_port(key, port, ports.reserve(port))

    def _hold_port(self, key: str, port: Published, socks: list[socket.socket]) -> None:
        if ports.relayed(port):
            self._hold(key, "relay", socks, target=[port.address, port.port])
        else:
            self._hold(key, "port", socks)

    def _hold_loopbacks(self, sandbox: Sandbox) -> None:
        """[::1] of ports that are published on 0.0.0.0; where somebody has it, it stays theirs."""
        for name, port in ports.held(sandbox.ports)[len(sandbox.ports) :]:
            with contextlib.suppress(SystemFault, Conflict):
                self._reserve(_port_key(sandbox.container_id, name, port), port)

    def _hold(self, key: str, kind: str, socks: list[socket.socket], **more: Any) -> None:
        try:
            if socks:
                fds = [sock.fileno() for sock in socks]
                self._helper.tell("hold", fds, key=key, kind=kind, **more)
        finally:
            for sock in socks:
                sock.close()

    def _resolver_sockets(self, path: str) -> list[socket.socket]:
        fd = namespaces.enter_path(path)
        try:
            with namespaces.inside(fd, self._home):
                return list(namespaces.resolver_sockets(again=True))
        finally:
            os.close(fd)

    def _ready_helper(self) -> None:
        """A helper that knows everything."""
        for _ in range(2):
            try:
                if self._helper.ensure():
                    self._tell_everything()
                return
            except Unavailable:
                continue
        raise Unavailable("the network helper ends as soon as it is started")

    @property
    def _forwarding_mark(self) -> str:
        return os.path.join(self._folder, "forwarding")

    @property
    def _closed(self) -> bool:
        return os.path.exists(self._forwarding_mark)

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
                os.close(os.open(self._forwarding_mark, os.O_CREAT | os.O_WRONLY, 0o600))
            namespaces.sysctl(path, "1")

    def add_segment(self, segment: Segment) -> None:
        """Make a network's link and let the filter know it. Idempotent."""
        if segment.driver == "bridge":
            elements = firewall.bridge_elements(_guarded(segment))
            was_closed = self._closed
            self._forward([segment])
            if self._closed and not was_closed:
                self._filter.commit([self._table.add_rule("forward", firewall.CLOSED)])
            self._filter.commit(firewall.add(self._table, elements))
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
        self._links.request(messages)

    def _try_out(self, segment: Segment, parent: int) -> None:
        """Find out now, not at the first start, whether the kernel makes such links here."""
        name = f"try{self.tag}"
        endpoint = Endpoint("", segment.id, "", name, "", "02:42:00:00:00:01")
        try:
            self._links.request([self._plug(endpoint, segment, self._home)])
        except KernelFault as fault:
            raise Unsupported(
                f"{segment.driver} on {segment.link}: {os.strerror(fault.errno)}",
                hint=f"this kernel has no {segment.driver}, or the parent cannot carry one",
            ) from None
        self._links.request([links.delete_link(links.index_of(name), name)])

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
            self._links.request([message, links.set_alias(name, self._alias)])
        except KernelFault as fault:
            if fault.errno in (errno.EOPNOTSUPP, errno.ENODEV):
                raise Unsupported(f"{fault.message}: this kernel has no such links") from None
            raise

    def remove_segment(self, segment: Segment) -> None:
        """The reverse. Idempotent."""
        if segment.driver == "bridge":
            self._take_away(firewall.bridge_elements(_guarded(segment)))
        self._indexes.pop(segment.link, None)
        index = links.index_of(segment.link)
        if segment.own_link and index:
            self._links.request([links.delete_link(index, segment.link)])

    def _take_away(self, elements: firewall.Elements) -> None:
        """Remove elements, those that have gone already left out."""
        messages = firewall.remove(self._table, elements)
        try:
            self._filter.commit(messages)
        except KernelFault as fault:
            if fault.errno != errno.ENOENT:
                raise
            for name, listed in elements.items():
                for element in listed:
                    with contextlib.suppress(KernelFault):
                        self._filter.commit([self._table.delete_elements(name, [element])])

    # Sandboxes

    def build(
        self,
        sandbox: Sandbox,
        segments: dict[str, Segment],
        wanted: Sequence[ports.Wanted],
        published: Callable[[Sandbox], None],
    ) -> Sandbox:
        """Make a sandbox with all its endpoints and ports; returns it with the ports chosen.

        `published` is told before the kernel is: it saves the sandbox. On an error nothing stays.
        """
        try:
            if wanted or sandbox.resolver or any(each.names for each in sandbox.endpoints):
                # Before anything is made: a fresh helper is told of all that is there already.
                self._ready_helper()
            held: list[tuple[str, Published, list[socket.socket]]] = []
            try:
                chosen = []
                for name, port, socks in ports.choose_all(wanted):
                    held.append((_port_key(sandbox.container_id, name, port), port, socks))
                    chosen.append((name, port))
                sandbox = sandbox._replace(ports=tuple(chosen))
                published(sandbox)
                fd = namespaces.make(sandbox.path, self._home)
                try:
                    self._plug_all(fd, sandbox, segments)
                finally:
                    os.close(fd)
                for key, port, socks in held:
                    self._hold_port(key, port, socks)
                self._hold_loopbacks(sandbox)
            finally:
                for _, _, socks in held:
                    for sock in socks:
                        sock.close()
            self._tell_names(sandbox, segments)
            self._publish(sandbox)
        except BaseException:
            self.raze(sandbox)
            raise
        return sandbox

    def _publish(self, sandbox: Sandbox) -> None:
        if not sandbox.ports:
            return
        elements = firewall.port_elements(port for _, port in sandbox.ports)
        try:
            self._filter.commit(firewall.add(self._table, elements))
        except KernelFault as fault:
            if fault.errno == errno.EEXIST:
                raise Conflict("port is already allocated") from None
            raise
        flows.forget([port for _, port in sandbox.ports])

    def _plug_all(self, fd: int, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        self._links.request(
            [self._plug(each, segments[each.network_id], fd) for each in sandbox.endpoints]
        )
        self._set_ports(sandbox, sandbox.endpoints, segments)
        with namespaces.inside(fd, self._home):
            self._furnish(sandbox, sandbox.endpoints)
            socks = list(namespaces.resolver_sockets()) if sandbox.resolver else []
        if socks:
            self._hold(f"dns/{sandbox.container_id}", "dns", socks)

    def _set_ports(
        self, sandbox: Sandbox, endpoints: Iterable[Endpoint], segments: dict[str, Segment]
    ) -> None:
        """Bridge ports that are not plain ones: of containers that must not talk to one another,
        or that may reach themselves through a published port."""
        self._links.request(
            [
                links.set_port(
                    each.outside,
                    isolated=not segments[each.network_id].icc,
                    hairpin=bool(sandbox.ports),
                )
                for each in endpoints
                if each.outside and (sandbox.ports or not segments[each.network_id].icc)
            ]
        )

    def _plug(self, endpoint: Endpoint, segment: Segment, fd: int) -> netlink.Message:
        """The message that makes an endpoint's link."""
        mac = bytes.fromhex(endpoint.mac.replace(":", ""))
        index = self._indexes.get(segment.link) or links.index_of(segment.link)
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

    def _furnish(self, sandbox: Sandbox, endpoints: Iterable[Endpoint]) -> None:
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

    def connect(self, sandbox: Sandbox, endpoint: Endpoint, segments: dict[str, Segment]) -> None:
        """Plug one more endpoint, which `sandbox` has already, into a running container."""
        fd = namespaces.enter_path(sandbox.path)
        try:
            self._links.request([self._plug(endpoint, segments[endpoint.network_id], fd)])
            self._set_ports(sandbox, [endpoint], segments)
            with namespaces.inside(fd, self._home):
                self._drop_routes()
                self._furnish(sandbox, [endpoint])
        finally:
            os.close(fd)
        self._serve_names(sandbox, segments)

    def _serve_names(self, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        """Tell the helper, which may have to begin to answer inside."""
        self._ready_helper()
        self._tell_names(sandbox, segments)
        key = f"dns/{sandbox.container_id}"
        if sandbox.resolver and key not in self._helper.held():
            self._hold_resolver(key, sandbox.path)

    def _drop_routes(self) -> None:
        with netlink.Netlink(netlink.NETLINK_ROUTE) as inner:
            inner.request([links.delete_default_route(ipv6=each) for each in (False, True)])

    def disconnect(
        self, sandbox: Sandbox, endpoint: Endpoint, segments: dict[str, Segment]
    ) -> None:
        """Unplug an endpoint that `sandbox` no longer has."""
        with contextlib.suppress(SystemFault):
            fd = namespaces.enter_path(sandbox.path)
            try:
                with namespaces.inside(fd, self._home):
                    index = links.index_of(endpoint.interface)
                    with netlink.Netlink(netlink.NETLINK_ROUTE) as inner:
                        inner.request([links.delete_link(index, endpoint.interface)])
                    self._drop_routes()
                    self._furnish(sandbox, [])
            finally:
                os.close(fd)
        self._ready_helper()
        self._helper.tell("leave", network=endpoint.network_id, endpoint=endpoint.id)
        self._tell_names(sandbox, segments)

    def republish(
        self,
        before: Sandbox,
        after: Sandbox,
        segments: dict[str, Segment],
        wanted: Sequence[ports.Wanted],
    ) -> Sandbox:
        """Move published ports to another endpoint's addresses."""
        self._unpublish(before)
        chosen = []
        for name, port, socks in ports.choose_all(wanted):
            self._hold_port(_port_key(after.container_id, name, port), port, socks)
            chosen.append((name, port))
        after = after._replace(ports=tuple(chosen))
        self._hold_loopbacks(after)
        self._set_ports(after, after.endpoints, segments)
        self._publish(after)
        return after

    def _unpublish(self, sandbox: Sandbox) -> None:
        if sandbox.ports:
            self._take_away(firewall.port_elements(port for _, port in sandbox.ports))
            self._ready_helper()
            self._helper.drop(
                _port_key(sandbox.container_id, name, port)
                for name, port in ports.held(sandbox.ports)
            )

    def _tell_names(self, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        for each in sandbox.endpoints:
            if each.names:
                self._helper.tell(
                    "join",
                    network=each.network_id,
                    endpoint=each.id,
                    names=list(each.names),
                    addresses=[a for a in (each.address4, each.address6) if a],
                )
        if sandbox.resolver:
            internal = [segments[each.network_id].internal for each in sandbox.endpoints]
            self._helper.tell(
                "view",
                sandbox=sandbox.container_id,
                networks={each.network_id: each.network for each in sandbox.endpoints},
                upstream=list(sandbox.upstream),
                path=sandbox.path,
                forwards=not internal or not all(internal),
                links=[list(each) for each in sandbox.links],
            )

    def update_names(self, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        """Names have changed."""
        self._ready_helper()
        self._tell_names(sandbox, segments)

    def raze(self, sandbox: Sandbox) -> None:
        """Remove a sandbox and all that hangs on it. Idempotent; the kernel removes the links."""
        if sandbox.ports:
            self._take_away(firewall.port_elements(port for _, port in sandbox.ports))
        keys = [
            _port_key(sandbox.container_id, name, port) for name, port in ports.held(sandbox.ports)
        ]
        if sandbox.resolver:
            keys.append(f"dns/{sandbox.container_id}")
        named = [each for each in sandbox.endpoints if each.names]
        if keys or named:
            with contextlib.suppress(Unavailable):
                self._ready_helper()
                for each in named:
                    self._helper.tell("leave", network=each.network_id, endpoint=each.id)
                self._helper.drop(keys)
        namespaces.remove(sandbox.path)

    # The end

    def close(self) -> None:
        """Let go; everything stays in place."""
        self._helper.close()
        for door in (self._route, self._nft):
            if door is not None:
                door.close()
        self._route = self._nft = None
        if self._home >= 0:
            os.close(self._home)
            self._home = -1

    def dismantle(self, segments: Sequence[Segment]) -> None:
        """Nothing runs and the engine ends: leave nothing behind but the administrator's rules."""
        for segment in segments:
            self.remove_segment(segment)
        self._forward_no_more()
        if not self._filter.count_rules(self._table, firewall.USER_CHAIN):
            self._filter.commit([self._table.delete()])
        self._helper.quit()

    def _forward_no_more(self) -> None:
        """Undo `_forward`, unless bridges of somebody else may need it by now."""
        if self._closed and not any(
            link.kind == "bridge" for link in links.list_links(self._links)
        ):
            namespaces.sysctl("ipv4/ip_forward", "0", optional=True)
            os.unlink(self._forwarding_mark)

    async def shut(self) -> None:
        """`close` on the worker, and its end."""
        await self.call(self.close)
        self._pool.shutdown()


def _bridges(segments: Iterable[Segment]) -> list[Segment]:
    return [each for each in segments if each.driver == "bridge"]


def _guarded(segment: Segment) -> firewall.Guarded:
    return firewall.Guarded(
        segment.link,
        tuple(gateway.partition("/")[0] for gateway in segment.gateways),
        internal=segment.internal,
        icc=segment.icc,
        masquerade=segment.masquerade,
        unprotected=segment.unprotected,
    )


def _port_key(container_id: str, name: str, port: Published) -> str:
    family = 6 if ":" in port.address else 4
    return f"port/{container_id}/{name}/{port.host_ip}/{family}/{port.host_port}"
