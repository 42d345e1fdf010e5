"""The resolver's wire format and memory, with dnspython as the second opinion."""

import socket
import struct

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.reversename
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skerry.network import dns_wire as wire
from skerry.network.resolver import HostServers, parse_servers
from skerry.network.zones import Zones

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_ABC", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) < 250)


@settings(deadline=None)
@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "MX", "TXT", "ANY"]), st.booleans())
def test_reads_what_others_write(name: str, kind: str, edns: bool) -> None:
    query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=1400)
    got = wire.parse_query(query.to_wire())
    assert got.id == query.id
    assert got.name == name.lower()
    assert got.type == dns.rdatatype.from_text(kind)
    assert got.edns == edns
    assert got.size == (1400 if edns else wire.PLAIN_SIZE)


@settings(deadline=None)
@given(NAME, st.lists(st.binary(min_size=4, max_size=4), max_size=200), st.booleans())
def test_others_read_what_it_writes(name: str, addresses: list[bytes], edns: bool) -> None:
    question = dns.message.make_query(name, "A", use_edns=0 if edns else False, payload=900)
    query = wire.parse_query(question.to_wire())
    data = wire.answer(query, [(wire.A, each) for each in addresses])
    assert len(data) <= query.size
    got = dns.message.from_wire(data, ignore_trailing=False)
    assert question.is_response(got)
    found = {rd.address for rrset in got.answer for rd in rrset}
    wanted = {socket.inet_ntoa(each) for each in addresses}
    cut = bool(got.flags & dns.flags.TC)
    assert found <= wanted
    assert cut or found == wanted
    assert (got.edns >= 0) == edns
    whole = dns.message.from_wire(
        wire.answer(query, [(wire.A, each) for each in addresses], udp=False)
    )
    assert {rd.address for rrset in whole.answer for rd in rrset} == wanted


@settings(deadline=None)
@given(st.binary(max_size=600))
@example(b"\0" * 12)
@example(b"\0\1\0\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1")
@example(b"\0\1\0\0\0\1\0\0\0\0\0\2\1a\0\0\1\0\1\0\0\x29\xff\xff\0\0\0\0\xff\xff")
def test_any_bytes_are_a_query_or_malformed(data: bytes) -> None:
    try:
        query = wire.parse_query(data)
    except wire.Malformed as fault:
        # Only a header that is there and is no answer is worth a reply.
        assert fault.id is None or len(data) >= 12
        return
    assert data.startswith(struct.pack(">H", query.id))
    assert len(query.question) <= 255 + 4
    reply = wire.answer(query, [(wire.A, b"\1\2\3\4")])
    assert len(reply) <= query.size
    dns.message.from_wire(reply)


@settings(deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=80))
def test_only_the_answer_to_the_question_passes(data: bytes, question: bytes) -> None:
    if wire.is_answer_to(data, 7, question):
        assert data[:2] == b"\0\7"
        assert data[2] & 0x80


def test_an_answer_is_never_answered() -> None:
    reply = dns.message.make_response(dns.message.make_query("a", "A"))
    with pytest.raises(wire.Malformed) as caught:
        wire.parse_query(reply.to_wire())
    assert caught.value.id is None


@pytest.mark.parametrize("address", ["10.0.0.1", "172.17.255.2", "fd00::1", "fe80::42:1"])
def test_reverse_names(address: str) -> None:
    name = dns.reversename.from_address(address).to_text(omit_final_dot=True)
    assert wire.reverse_address(name) == address


@pytest.mark.parametrize(
    "name", ["1.2.3.in-addr.arpa", "a.b.c.d.in-addr.arpa", "0.ip6.arpa", "web", "", "²" * 4]
)
def test_what_is_no_reverse_name(name: str) -> None:
    assert wire.reverse_address(name) == ""


@settings(deadline=None)
@given(NAME)
def test_names_are_encoded_as_others_do(name: str) -> None:
    assert wire.encode_name(name) == dns.name.from_text(name).to_wire()


def view(*networks: str, links: list[tuple[str, str, str]] | None = None) -> dict[str, object]:
    return {
        "networks": {each: f"name-of-{each}" for each in networks},
        "upstream": [],
        "path": "",
        "forwards": True,
        "links": links or [],
    }


def test_a_sandbox_sees_its_own_networks_only() -> None:
    zones = Zones()
    zones.set_view("box", view("n1"))
    zones.join("n1", "e1", ["Web", "www"], ["10.0.0.2", "fd00::2"])
    zones.join("n2", "e2", ["db"], ["10.1.0.2"])
    assert zones.find("box", "web") == ["10.0.0.2", "fd00::2"]
    assert zones.find("box", "www.name-of-n1") == ["10.0.0.2", "fd00::2"]
    assert zones.find("box", "db") is None
    assert zones.find("other", "web") is None
    assert zones.reverse("box", "10.0.0.2") == "web.name-of-n1"
    assert zones.reverse("box", "10.1.0.2") == ""


def test_shared_names_take_turns() -> None:
    zones = Zones()
    zones.set_view("box", view("n1"))
    for number in range(4):
        zones.join("n1", f"e{number}", ["svc"], [f"10.0.0.{number}"])
    orders = {tuple(zones.find("box", "svc") or ()) for _ in range(200)}
    assert len(orders) > 1
    assert {order[0] for order in orders} == {f"10.0.0.{number}" for number in range(4)}


def test_links_are_private_names() -> None:
    zones = Zones()
    zones.set_view("box", view("n1", links=[("n1", "DB", "postgres")]))
    zones.set_view("other", view("n1"))
    zones.join("n1", "e1", ["postgres"], ["10.0.0.9"])
    assert zones.find("box", "db") == ["10.0.0.9"]
    assert zones.find("other", "db") is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave"]),
            st.sampled_from(["n1", "n2"]),
            st.sampled_from(["e1", "e2", "e3"]),
            st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
        ),
        max_size=30,
    )
)
def test_zones_are_what_the_last_words_said(steps: list[tuple[str, str, str, list[str]]]) -> None:
    zones = Zones()
    zones.set_view("box", view("n1"))
    model: dict[tuple[str, str], tuple[list[str], str]] = {}
    for number, (what, network, endpoint, names) in enumerate(steps):
        address = f"10.0.0.{number}"
        if what == "join":
            zones.join(network, endpoint, names, [address])
            model[network, endpoint] = names, address
        else:
            zones.leave(network, endpoint)
            model.pop((network, endpoint), None)
    for name in "abc":
        wanted = {a for (net, _), (names, a) in model.items() if net == "n1" and name in names}
        assert set(zones.find("box", name) or ()) == wanted


def test_host_servers_follow_the_file(tmp_path: object) -> None:
    path = f"{tmp_path}/resolv.conf"
    servers = HostServers(path)
    assert servers.get() == ()
    with open(path, "w") as file:
        file.write("# x\nnameserver 10.0.0.1\noptions a\n")
    assert servers.get() == ("10.0.0.1",)
    with open(f"{path}.new", "w") as file:
        file.write("nameserver 10.0.0.2\nnameserver fe80::1%eth0\n")
    import os

    os.rename(f"{path}.new", path)
    assert servers.get() == ("10.0.0.2", "fe80::1%eth0")


@settings(deadline=None)
@given(st.text(max_size=500))
def test_any_resolv_conf_gives_addresses(text: str) -> None:
    found = parse_servers(text)
    assert len(found) <= 3
    for each in found:
        socket.getaddrinfo(each.partition("%")[0], None, flags=socket.AI_NUMERICHOST)
