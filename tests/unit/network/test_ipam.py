"""Subnets and addresses."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import Forbidden, InvalidInput
from skerry.network import ipam

Net = ipaddress.ip_network


def test_the_first_free_subnet_is_chosen() -> None:
    taken = [Net("172.17.0.0/16"), Net("172.18.5.0/24"), Net("fd00::/8")]
    assert ipam.choose(ipam.DEFAULT_POOLS, taken) == Net("172.19.0.0/16")


def test_no_pool_is_left() -> None:
    with pytest.raises(Forbidden, match="fully subnetted"):
        ipam.choose(ipam.DEFAULT_POOLS, [Net("0.0.0.0/0")])


@settings(deadline=None)
@given(st.lists(st.integers(0, 31), max_size=40))
def test_chosen_subnets_touch_nothing(which: list[int]) -> None:
    taken: list[ipam.Network] = [Net(f"172.{number}.128.0/17") for number in which]
    chosen = ipam.choose(ipam.DEFAULT_POOLS, taken)
    assert not any(chosen.overlaps(each) for each in taken)


def test_addresses_go_round() -> None:
    pool = ipam.Pool(Net("10.0.0.0/29"), reserved=[ipaddress.ip_address("10.0.0.1")])
    first = pool.take()
    assert str(first) == "10.0.0.2"
    pool.give_back(first)
    assert str(pool.take()) == "10.0.0.3", "what was just let go waits"


def test_a_range_is_used_up() -> None:
    gateway = ipaddress.ip_address("10.0.0.1")
    pool = ipam.Pool(Net("10.0.0.0/24"), Net("10.0.0.248/30"), [gateway])
    got = [str(pool.take()) for _ in range(4)]
    assert got == ["10.0.0.248", "10.0.0.249", "10.0.0.250", "10.0.0.251"]
    with pytest.raises(Forbidden, match="no available"):
        pool.take()
    assert str(pool.take(ipaddress.ip_address("10.0.0.77"))) == "10.0.0.77"


@pytest.mark.parametrize("wanted", ["10.0.0.1", "10.0.0.2"])
def test_taken_addresses_are_refused(wanted: str) -> None:
    pool = ipam.Pool(Net("10.0.0.0/24"), reserved=[ipaddress.ip_address("10.0.0.1")])
    pool.take()
    with pytest.raises(Forbidden, match="Address already in use"):
        pool.take(ipaddress.ip_address(wanted))
    with pytest.raises(InvalidInput, match="no configured subnet"):
        pool.take(ipaddress.ip_address("10.0.1.1"))


@settings(deadline=None)
@given(
    st.sampled_from(["10.0.0.0/29", "10.0.0.0/31", "10.0.0.7/32", "fd00::/125", "fd00::/64"]),
    st.lists(st.one_of(st.just("take"), st.integers(0, 7)), max_size=40),
)
def test_no_address_is_given_twice(subnet: str, steps: list[str | int]) -> None:
    pool = ipam.Pool(Net(subnet))
    held: list[ipam.Address] = []
    for step in steps:
        if step == "take":
            try:
                address = pool.take()
            except Forbidden:
                assert len(held) >= Net(subnet).num_addresses - 2
                continue
            assert address in Net(subnet)
            assert address not in held
            held.append(address)
        elif held:
            pool.give_back(held.pop(int(step) % len(held)))


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"])
def test_what_is_no_subnet(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid CIDR"):
        ipam.parse_subnet(text)


def test_a_subnet_is_named_by_its_own_address() -> None:
    with pytest.raises(
        InvalidInput, match=r"invalid ip-range 10\.1\.0\.5/24: it should be 10\.1\.0\.0/24"
    ):
        ipam.parse_subnet("10.1.0.5/24", "ip-range")
