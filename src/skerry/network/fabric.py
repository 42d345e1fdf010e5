"""What the kernel has of an engine's networks: made, found again, removed, by one worker.

Theory. RTNL, the kernel's lock around links, is one for the whole host, so several workers would
only wait for one another: everything here runs on one thread, and each step is a few batched
messages. The thread enters containers' namespaces and comes home before it returns.

What must be there is said by the engine (segments and sandboxes). Every method may be interrupted
by the engine's death at any instruction, and `restore` brings the kernel in line with what is said
then: rules and elements in one transaction, bridges that are missing, links, pins and held sockets
that nobody speaks of any more.

`Doors` are the ways to the kernel, `Segments` the networks in it, `cabling` makes a sandbox's
links, `Holding` speaks with the helper.
"""

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from skerry.base.errors import Conflict, KernelFault, SystemFault, Unavailable
from skerry.kernel import links, netlink
from skerry.network import cabling, firewall, flows, namespaces, ports
from skerry.network.doors import Doors
from skerry.network.guests import Guests
from skerry.network.holding import Holding
from skerry.network.sandbox import Endpoint, Sandbox, Segment
from skerry.network.segments import Segments, Survey

_LOCK = "\0skerry-subnets"
_PATIENCE = 20.0
P = ParamSpec("P")
T = TypeVar("T")


class Fabric:
    """The worker of one engine. The coroutines may be called from the event loop only."""

    def __init__(self, root: str, run_root: str) -> None:
        folder = os.path.join(run_root, "net")
        self._pins = os.path.join(folder, "ns")
        self._doors = Doors(root)
        self._segments = Segments(self._doors, folder)
        self._holding = Holding(self._doors, os.path.join(folder, "helper.sock"))
        self._guests = Guests(root, self._doors)
        self._pool = ThreadPoolExecutor(1, "skerry-net")
        self.tag = self._doors.tag
        """Twelve hex digits that tell this engine's objects from another's."""

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of this object on the worker."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def pin(self, container_id: str) -> str:
        """Where a container's namespace is pinned."""
        return os.path.join(self._pins, container_id)

    def speak_for(self, told: Callable[[], Iterable[tuple[Sandbox, dict[str, Segment]]]]) -> None:
        """Where to ask for all sandboxes when a fresh helper has to be told everything."""
        self._holding.told = told

    def open(self) -> None:
        """Open the doors to the kernel; Unsupported when this host or user cannot have networks."""
        if not self._doors.opened:
            self._doors.open(self._pins, closed=self._segments.closed)

    # Networks

    def survey(self) -> Survey:
        """Look at the host."""
        return self._segments.survey()

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
                self._segments.add(segment)
            except BaseException:
                with contextlib.suppress(SystemFault):
                    self._segments.remove(segment)
                raise

    def remove_segment(self, segment: Segment) -> None:
        """Remove a network. Idempotent."""
        self._segments.remove(segment)

    def restore(self, segments: Sequence[Segment], sandboxes: Sequence[Sandbox]) -> None:
        """Make the kernel's state be exactly this; what else is ours goes."""
        published = [firewall.port_elements(port for _, port in box.ports) for box in sandboxes]
        self._segments.restore(segments, published)
        self._guests.restore(port for box in sandboxes for port in box.guest_ports)
        known = {each.container_id for each in sandboxes}
        for name in os.listdir(self._pins):
            if name not in known:
                namespaces.remove(os.path.join(self._pins, name))
        self._holding.restore(sandboxes)

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
                self._holding.ready()
            with ports.Reserved(wanted) as reserved:
                sandbox = sandbox._replace(ports=reserved.ports)
                published(sandbox)
                self._guests.guard(sandbox.guest_ports)
                fd = namespaces.make(sandbox.path, self._doors.home)
                try:
                    self._furnish(fd, sandbox, segments)
                finally:
                    os.close(fd)
                self._holding.keep(sandbox, reserved)
            self._holding.tell_names(sandbox, segments)
            self._publish(sandbox)
        except BaseException:
            self.raze(sandbox)
            raise
        return sandbox

    def _furnish(self, fd: int, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        self._plug(fd, sandbox, sandbox.endpoints, segments)
        with namespaces.inside(fd, self._doors.home):
            cabling.furnish(sandbox, sandbox.endpoints)
            socks = list(namespaces.resolver_sockets()) if sandbox.resolver else []
        if socks:
            self._holding.resolve(sandbox, socks)

    def _plug(
        self,
        fd: int,
        sandbox: Sandbox,
        endpoints: Sequence[Endpoint],
        segments: dict[str, Segment],
    ) -> None:
        messages = []
        for each in endpoints:
            segment = segments[each.network_id]
            messages.append(cabling.plug(each, segment, self._segments.index(segment.link), fd))
        self._doors.links.request(messages)
        self._doors.links.request(cabling.port_flags(sandbox, endpoints, segments))

    def _publish(self, sandbox: Sandbox) -> None:
        if not sandbox.ports:
            return
        try:
            self._doors.add(firewall.port_elements(port for _, port in sandbox.ports))
        except KernelFault as fault:
            if fault.errno == errno.EEXIST:
                raise Conflict("port is already allocated") from None
            raise
        flows.forget([port for _, port in sandbox.ports])

    def connect(self, sandbox: Sandbox, endpoint: Endpoint, segments: dict[str, Segment]) -> None:
        """Plug one more endpoint, which `sandbox` has already, into a running container."""
        self._guests.guard([endpoint.outside] if sandbox.guest else [])
        fd = namespaces.enter_path(sandbox.path)
        try:
            self._plug(fd, sandbox, [endpoint], segments)
            with namespaces.inside(fd, self._doors.home):
                cabling.drop_routes()
                cabling.furnish(sandbox, [endpoint])
        finally:
            os.close(fd)
        self._holding.serve(sandbox, segments)

    def disconnect(
        self, sandbox: Sandbox, endpoint: Endpoint, segments: dict[str, Segment]
    ) -> None:
        """Unplug an endpoint that `sandbox` no longer has."""
        with contextlib.suppress(SystemFault):
            fd = namespaces.enter_path(sandbox.path)
            try:
                with namespaces.inside(fd, self._doors.home):
                    index = links.index_of(endpoint.interface)
                    with netlink.Netlink(netlink.NETLINK_ROUTE) as inner:
                        inner.request([links.delete_link(index, endpoint.interface)])
                    cabling.drop_routes()
                    cabling.furnish(sandbox, [])
            finally:
                os.close(fd)
        if sandbox.guest:
            self._guests.release([endpoint.outside])
        self._holding.ready()
        self._holding.leave(endpoint)
        self._holding.tell_names(sandbox, segments)

    def republish(
        self,
        before: Sandbox,
        after: Sandbox,
        segments: dict[str, Segment],
        wanted: Sequence[ports.Wanted],
    ) -> Sandbox:
        """Move published ports to another endpoint's addresses."""
        self._unpublish(before)
        self._holding.ready()
        self._holding.free(before)
        with ports.Reserved(wanted) as reserved:
            after = after._replace(ports=reserved.ports)
            self._holding.keep(after, reserved)
        self._doors.links.request(cabling.port_flags(after, after.endpoints, segments))
        self._publish(after)
        return after

    def _unpublish(self, sandbox: Sandbox) -> None:
        if sandbox.ports:
            self._doors.take_away(firewall.port_elements(port for _, port in sandbox.ports))

    def update_names(self, sandbox: Sandbox, segments: dict[str, Segment]) -> None:
        """Names have changed."""
        self._holding.ready()
        self._holding.tell_names(sandbox, segments)

    def raze(self, sandbox: Sandbox) -> None:
        """Remove a sandbox and all that hangs on it. Idempotent; the kernel removes the links."""
        self._unpublish(sandbox)
        self._holding.forget(sandbox)
        namespaces.remove(sandbox.path)
        self._guests.release(sandbox.guest_ports)

    # The end

    def close(self) -> None:
        """Let go; everything stays in place."""
        self._holding.close()
        self._doors.close()

    def dismantle(self, segments: Sequence[Segment]) -> None:
        """Nothing runs and the engine ends: leave nothing behind but the administrator's rules."""
        for segment in segments:
            self._segments.remove(segment)
        self._segments.forward_no_more()
        if not self._doors.filter.count_rules(self._doors.table, firewall.USER_CHAIN):
            self._doors.filter.commit([self._doors.table.delete()])
        self._guests.dismantle()
        self._holding.quit()

    async def shut(self) -> None:
        """`close` on the worker, and its end."""
        await self.call(self.close)
        self._pool.shutdown()
