"""The worker's ways to the kernel: a netlink socket for links, one for the packet filter, and the
namespace that its thread comes home to."""

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from skerry.base.errors import KernelFault, Unsupported
from skerry.kernel import links, netlink, nft
from skerry.network import firewall, namespaces

_LOOK = 0.0002
"""Seconds between two looks whether a link has gone."""


class Doors:
    """Of one engine, opened once; used by the worker's thread only."""

    def __init__(self, root: str) -> None:
        self.table = firewall.table_of(root)
        self.tag = firewall.tag(root)
        self.alias = f"skerry {self.tag}"
        """What the engine's links are known by."""
        self.home = -1
        """The engine's own network namespace."""
        self._route: netlink.Netlink | None = None
        self._nft: nft.Nft | None = None
        self._sweepers = ThreadPoolExecutor(4, "skerry-sweep")

    @property
    def opened(self) -> bool:
        """Whether `open` was called with success."""
        return self._route is not None

    def open(self, pins: str, *, closed: bool) -> None:
        """Open them; Unsupported when this host or user cannot have networks. `pins` is the folder
        that is missing when no engine was here before; `closed` as for `firewall.setup`."""
        route = None
        try:
            fresh = not os.path.isdir(pins)
            os.makedirs(pins, 0o700, exist_ok=True)
            route = netlink.Netlink(netlink.NETLINK_ROUTE)
            door = nft.Nft()
            # The table of an engine that was killed is left as it is until it is replaced.
            if fresh or self.table not in door.tables():
                door.commit(firewall.setup(self.table, {}, closed=closed))
        except (KernelFault, OSError) as error:
            if route is not None:
                route.close()
            raise Unsupported(
                f"no bridge networks here: {error}",
                hint="they need root with CAP_NET_ADMIN, and nftables in the kernel",
            ) from None
        self.home = namespaces.home()
        self._route, self._nft = route, door

    @property
    def links(self) -> netlink.Netlink:
        """Links, addresses, routes."""
        assert self._route is not None, "open() comes first"
        return self._route

    @property
    def filter(self) -> nft.Nft:
        """The packet filter."""
        assert self._nft is not None, "open() comes first"
        return self._nft

    def remove_link(self, name: str) -> None:
        """Remove a link, if it is there. On return netlink does not know it any more; /sys may for
        as long as the kernel works on it.

        The kernel forgets name and number in a moment, then waits for every processor, tens of
        milliseconds, and only then returns. So another thread is the caller. Whoever changes links
        meanwhile waits for the kernel's lock, as he would have before.
        """
        index = links.index_of(name)
        if not index:
            return
        message = links.delete_link(index, name)
        over = self._sweepers.submit(_request_alone, message)
        while not over.done() and links.index_of(name) == index:
            time.sleep(_LOOK)
        if over.done():
            over.result()

    def lay(self, elements: Sequence[firewall.Elements], *, closed: bool) -> None:
        """Make the engine's table anew with exactly these elements, in one transaction."""
        self.filter.commit(firewall.setup(self.table, firewall.merged(elements), closed=closed))

    def add(self, elements: firewall.Elements) -> None:
        """Add elements; KernelFault with EEXIST when one of them is there with another value."""
        self.filter.commit(firewall.add(self.table, elements))

    def take_away(self, elements: firewall.Elements, table: nft.Table | None = None) -> None:
        """Remove elements, those that have gone already left out."""
        table = table or self.table
        try:
            self.filter.commit(firewall.remove(table, elements))
        except KernelFault as fault:
            if fault.errno != errno.ENOENT:
                raise
            for name, listed in elements.items():
                for element in listed:
                    with contextlib.suppress(KernelFault):
                        self.filter.commit([table.delete_elements(name, [element])])

    def close(self) -> None:
        """Let go; everything stays in place."""
        self._sweepers.shutdown()
        for door in (self._route, self._nft):
            if door is not None:
                door.close()
        self._route = self._nft = None
        if self.home >= 0:
            os.close(self.home)
            self.home = -1


def _request_alone(message: netlink.Message) -> None:
    with netlink.Netlink(netlink.NETLINK_ROUTE) as route:
        route.request([message])
