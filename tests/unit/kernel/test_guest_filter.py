"""The order of the rules that keep guests off the host."""

import struct

from skerry.kernel import guest_filter, nft

ACCEPT, DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
GUEST = nft.meta("iifname") + nft.equal(nft.ifname("ve0"))


def test_only_plain_frames_come_as_far_as_the_mark() -> None:
    """A tag would take them to a link above the bridge, past the mark."""
    other, mark = guest_filter.marks(GUEST)
    assert other.startswith(GUEST)
    assert other.endswith(DROP)
    for ethertype in (0x0800, 0x86DD, 0x0806):
        assert nft.unequal(struct.pack(">H", ethertype)) in other
    assert mark.startswith(GUEST)
    assert mark.endswith(nft.set_meta("priority"))


def test_answers_come_first_and_what_nobody_named_is_dropped() -> None:
    first, *between, last = guest_filter.rules()
    assert nft.answers() in first
    assert first.endswith(ACCEPT)
    assert all(each.endswith(ACCEPT) for each in between)
    guest = last.removesuffix(DROP)
    assert all(each.startswith(guest) for each in (first, *between)), "nobody else is asked"
    assert len(guest_filter.rules(dhcp=True)) == len(between) + 3


def test_on_an_internal_network_the_resolver_is_not_reached_either() -> None:
    internal = nft.meta("iifname") + nft.lookup("internal")
    rules = guest_filter.rules(internal=internal)
    port = nft.equal(struct.pack(">H", 53))
    (at,) = (n for n, rule in enumerate(rules) if rule.endswith(internal + DROP))
    assert [n for n, rule in enumerate(rules) if port in rule] == [at + 1, at + 2]
