"""Which subnet a network gets, and which address an endpoint. Pure.

Addresses are given out in turn, not the lowest free one: an address that was just let go keeps
being known to neighbours for a while.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from skerry.base.errors import Forbidden, InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PoolRange(NamedTuple):
    """A range to cut subnets of `size` out of (`default-address-pools`)."""

    base: Network
    size: int


DEFAULT_POOLS = (
    *(PoolRange(ipaddress.IPv4Network(f"172.{n}.0.0/16"), 16) for n in range(17, 32)),
    PoolRange(ipaddress.IPv4Network("192.168.0.0/16"), 20),
)
"""Docker's."""


def choose(pools: Iterable[PoolRange], taken: Iterable[Network]) -> Network:
    """The first subnet that touches none of `taken`. Forbidden, as Docker, when there is none."""
    occupied = list(taken)
    for pool in pools:
        for subnet in _subnets(pool):
            if not any(_overlap(subnet, each) for each in occupied):
                return subnet
    raise Forbidden(
        "all predefined address pools have been fully subnetted",
        hint="remove unused networks, or give --subnet",
    )


def _subnets(pool: PoolRange) -> Iterator[Network]:
    if pool.base.prefixlen > pool.size:
        return
    yield from pool.base.subnets(new_prefix=pool.size)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def parse_subnet(text: str, what: str = "subnet") -> Network:
    """`10.1.0.0/16`; InvalidInput in Docker's words."""
    try:
        if "/" not in text:
            raise ValueError
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidInput(f"invalid {what} {text:.60}: invalid CIDR block notation") from None
    if ipaddress.ip_interface(text).ip != subnet.network_address:
        raise InvalidInput(f"invalid {what} {text:.60}: it should be {subnet}")
    return subnet


class Pool:
    """The addresses of one subnet of a network."""

    def __init__(
        self, subnet: Network, inner: Network | None = None, reserved: Iterable[Address] = ()
    ) -> None:
        """`inner` is --ip-range: what is given out unless asked for. `reserved` are never given
        out: gateway and auxiliary addresses."""
        self.subnet = subnet
        self._range = inner or subnet
        self._reserved = {int(each) for each in reserved}
        self._taken: set[int] = set()
        low, high = int(self._range.network_address), int(self._range.broadcast_address)
        if subnet.version == 4 and subnet.prefixlen < 31:
            low = max(low, int(subnet.network_address) + 1)
            high = min(high, int(subnet.broadcast_address) - 1)
        elif subnet.version == 6 and subnet.prefixlen < 127:
            # The first is the routers' anycast address (RFC 4291, 2.6.1).
            low = max(low, int(subnet.network_address) + 1)
        self._low, self._high = low, high
        self._next = low

    def take(self, wanted: Address | None = None) -> Address:
        """An address, the wanted one if one is. Forbidden in Docker's words."""
        if wanted is not None:
            number = int(wanted)
            if wanted not in self.subnet:
                raise InvalidInput(
                    f"invalid endpoint settings: no configured subnet contains IP address {wanted}"
                )
            if number in self._taken or number in self._reserved:
                raise Forbidden("Address already in use")
            self._taken.add(number)
            return wanted
        size = self._high - self._low + 1
        # Taken and reserved ones outside of the range only make this bound generous.
        for _ in range(min(size, len(self._taken) + len(self._reserved) + 1)):
            number = self._next
            self._next = self._low if number >= self._high else number + 1
            if number not in self._taken and number not in self._reserved:
                self._taken.add(number)
                return type(self.subnet.network_address)(number)
        raise Forbidden(f"no available IPv{self.subnet.version} addresses on this network's pool")

    def hold(self, address: Address) -> None:
        """It is taken already: found again after a crash."""
        self._taken.add(int(address))

    def give_back(self, address: Address) -> None:
        """It is free again."""
        self._taken.discard(int(address))

    def first(self) -> Address:
        """What the gateway gets when none was given."""
        return type(self.subnet.network_address)(self._low)


def check_free(subnet: Network, others: Iterable[Network]) -> None:
    """Forbidden, in Docker's words, when it touches another network's."""
    for other in others:
        if _overlap(subnet, other):
            raise Forbidden("Pool overlaps with other one on this address space")
