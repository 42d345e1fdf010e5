"""Saved sandboxes, and what networks and ports are to the packet filter."""

import json

import pytest

from skerry.network import firewall, sandbox
from skerry.network.firewall import Guarded, Published
from skerry.network.ports import Wanted, choose, held
from skerry.network.sandbox import Endpoint, Sandbox


def endpoint(name: str, priority: int = 0, gateway: str = "10.0.0.1") -> Endpoint:
    return Endpoint(
        f"id-{name}", f"net-{name}", name, "eth0", "ve0", "02:42:0a:00:00:02", "10.0.0.2/24",
        "", gateway, "", priority, ("web",), (("ipv4/conf/eth0/log_martians", "1"),),
    )  # fmt: skip


def test_what_is_saved_comes_back() -> None:
    port = Published("tcp", "", 8080, "10.0.0.2", 80, "br0")
    box = Sandbox(
        "c", "/run/ns/c", (endpoint("a"), endpoint("b")), (("80/tcp", port),), True, ("1.1.1.1",),
        (("net-a", "db", "postgres"),), True,
    )  # fmt: skip
    assert sandbox.from_plain(json.loads(json.dumps(sandbox.to_plain(box)))) == box


@pytest.mark.parametrize("change", [{"version": 99}, {"ports": [["80/tcp", {"no": 1}]]}])
def test_what_is_damaged_is_refused(change: dict[str, object]) -> None:
    plain = sandbox.to_plain(Sandbox("c", "/p", (endpoint("a"),))) | change
    with pytest.raises((ValueError, KeyError, TypeError)):
        sandbox.from_plain(plain)


def test_the_default_route_goes_by_priority_then_name() -> None:
    boxes = (endpoint("b"), endpoint("a"), endpoint("c", gateway=""))
    chosen = sandbox.gateway_of(Sandbox("c", "/p", boxes), ipv6=False)
    assert chosen is not None
    assert chosen.network == "a"
    chosen = sandbox.gateway_of(Sandbox("c", "/p", (*boxes, endpoint("z", 5))), ipv6=False)
    assert chosen is not None
    assert chosen.network == "z"
    assert sandbox.gateway_of(Sandbox("c", "/p", boxes), ipv6=True) is None


def test_a_bridge_in_the_sets() -> None:
    plain = firewall.bridge_elements(Guarded("br0", ("10.0.0.1", "fd00::1")))
    masqueraded = {"masqueraded4", "masqueraded6"}
    assert {"bridges", "same", "talking", "gateways4", "own4", "gateways6", "own6"} | masqueraded \
        == set(plain)  # fmt: skip
    walled = firewall.bridge_elements(Guarded("br0", ("10.0.0.1",), internal=True, icc=False))
    assert {"bridges", "same", "internal", "gateways4", "own4"} == set(walled)


@pytest.mark.parametrize(
    ("modes", "internal", "found"),
    [
        (("nat-unprotected", "nat"), False, {"masqueraded4", "masqueraded6", "open4"}),
        (("routed", "nat-unprotected"), False, {"routed4", "masqueraded6", "open6"}),
        (("routed", "routed"), True, set[str]()),
        (("isolated", "nat"), True, {"isolated4"}),
    ],
)
def test_gateway_modes_in_the_sets(modes: tuple[str, str], internal: bool, found: set[str]) -> None:
    usual = {"bridges", "same", "talking", "internal"}
    sets = firewall.bridge_elements(Guarded("br0", (), internal=internal, modes=modes))
    assert set(sets) - usual == found


def test_a_routed_port_takes_none_of_the_host() -> None:
    port = Published("tcp", "", 0, "10.0.0.2", 80, "br0", direct=True)
    found = firewall.port_elements([port])
    assert found == {"reachable4": [(b"\x0a\0\0\2" + b"\6\0\0\0" + b"\0\x50\0\0", b"")]}
    wanted = Wanted("80/tcp", "tcp", 80, "10.0.0.2", "", 0, 0, "br0", direct=True)
    assert choose(wanted) == (port, [])
    assert held([("80/tcp", port)]) == []


def test_ports_in_the_maps() -> None:
    found = firewall.port_elements(
        [
            Published("tcp", "", 8080, "10.0.0.2", 80, "br0"),
            Published("udp", "127.0.0.1", 53, "10.0.0.2", 5353, "br0"),
            Published("sctp", "", 9, "fd00::2", 9, "br0"),
        ]
    )
    assert found["published4"] == [(b"\6\0\0\0\x1f\x90\0\0", b"\x0a\0\0\2\0\x50\0\0")]
    assert found["published_at4"][0][0] == b"\x7f\0\0\1" + b"\x11\0\0\0" + b"\0\x35\0\0"
    assert len(found["published6"][0][0]) == 8
    assert len(found["selves4"]) == 1, "one element however many ports"


def test_two_roots_have_two_tables() -> None:
    assert firewall.table_of("/a") != firewall.table_of("/b")
    assert firewall.table_of("/a") == firewall.table_of("/a")
    assert len(f"sk-{firewall.tag('/a')}") == 15


def test_a_host_that_forwarded_before_is_left_so() -> None:
    open_, closed = list(firewall.rules(closed=False)), list(firewall.rules(closed=True))
    assert len(closed) == len(open_) + 1
    assert ("forward", firewall.CLOSED) in closed


def test_a_machines_links_are_in_the_table_of_guests() -> None:
    ends = (endpoint("a"), endpoint("b")._replace(outside=""))
    assert Sandbox("c", "/p", ends).guest_ports == ()
    ports = Sandbox("c", "/p", ends, guest=True).guest_ports
    assert ports == ("ve0",), "one that is not on a bridge has no port"
    assert firewall.guest_elements(ports) == {"guests": [(b"ve0".ljust(16, b"\0"), b"")]}
    assert firewall.guest_elements([]) == {}
    table, other = firewall.guests_of("/a"), firewall.table_of("/a")
    assert table.name == other.name
    assert table.family != other.family
