"""What requests about networks are accepted, and what becomes of them; no kernel is asked."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import Forbidden, InvalidInput, NotFound, SkerryError
from skerry.engine import (
    endpoint_config,
    etc,
    network_record,
    network_templates,
    port_bindings,
)
from skerry.engine.network_record import BODY, Network, PoolConfig
from skerry.engine.record import Record


def parse(**body: Any) -> Network:
    return made_from(body, [])


def made_from(body: dict[str, Any], known: list[Network]) -> Network:
    checked = BODY({"Name": "mine", **body}, "")
    network_templates.check(checked)
    return network_record.parse(network_templates.filled(checked, known), "ab" * 32, 1)


def test_a_plain_network() -> None:
    made = parse()
    assert (made.driver, made.ipv4, made.ipv6, made.link) == (
        "bridge",
        True,
        False,
        "sk-" + "ab" * 6,
    )
    assert network_record.from_plain(network_record.to_plain(made)) == made


def test_everything_that_can_be_said() -> None:
    made = parse(
        EnableIPv6=True,
        Internal=True,
        Options={network_record.ICC: "false", network_record.MTU: "1400"},
        IPAM={
            "Config": [
                {
                    "Subnet": "10.5.0.0/16",
                    "IPRange": "10.5.1.0/24",
                    "Gateway": "10.5.0.1",
                    "AuxiliaryAddresses": {"x": "10.5.0.9"},
                },
                {"Subnet": "fd05::/64"},
            ]
        },
    )
    assert made.pools[0] == PoolConfig("10.5.0.0/16", "10.5.0.1", "10.5.1.0/24", {"x": "10.5.0.9"})
    segment = made.segment()
    assert (segment.icc, segment.mtu, segment.internal) == (False, 1400, True)
    assert segment.gateways == ("10.5.0.1/16",)


def test_a_network_made_from_a_configuration() -> None:
    pool = {"Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "AuxiliaryAddresses": {}}
    said = {"Options": {"parent": "eth0"}, "Labels": {"a": "b"}, "IPAM": {"Config": [pool]}}
    lent = parse(Name="lent", ConfigOnly=True, Driver="bridge", **said)
    assert (lent.driver, lent.link, lent.config_only) == ("null", "", True)
    made = made_from({"Driver": "macvlan", "ConfigFrom": {"Network": "lent"}}, [parse(), lent])
    assert (made.driver, made.link, made.config_from) == ("macvlan", "eth0", "lent")
    assert (made.pools, made.labels, made.config_only) == (lent.pools, {"a": "b"}, False)
    assert network_record.from_plain(network_record.to_plain(made)) == made
    for other in ([], [parse(Name="lent")]):
        with pytest.raises(NotFound, match='configuration network "lent" not found'):
            made_from({"ConfigFrom": {"Network": "lent"}}, other)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"ConfigOnly": True, "Internal": True}, Forbidden, "can only contain network specific"),
        ({"ConfigOnly": True, "ConfigFrom": {"Network": "x"}}, Forbidden, "cannot depend on"),
        ({"ConfigFrom": {"Network": "x"}, "Labels": {"a": "b"}}, Forbidden, "not supported"),
        ({"Name": "bridge"}, Forbidden, "predefined bridge"),
        ({"Name": "a b"}, InvalidInput, "is invalid"),
        ({"Name": ""}, InvalidInput, "is empty"),
        ({"Driver": "host"}, Forbidden, "only one instance"),
        ({"Driver": "overlay"}, InvalidInput, "swarm"),
        ({"Driver": "weave"}, InvalidInput, 'plugin "weave" not found'),
        ({"IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, InvalidInput, "needs a subnet"),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0"}]}}, InvalidInput, "CIDR"),
        (
            {"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.1.1"}]}},
            InvalidInput,
            "no matching subnet",
        ),
        (
            {"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "IPRange": "10.0.0.0/16"}]}},
            InvalidInput,
            "ip-range",
        ),
        (
            {"IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}, {"Subnet": "10.0.1.0/24"}]}},
            InvalidInput,
            "one IPv4 subnet",
        ),
        ({"Options": {network_record.ICC: "maybe"}}, InvalidInput, "true or false"),
        ({"Options": {network_record.MTU: "9"}}, InvalidInput, "mtu"),
        ({"Options": {network_record.BRIDGE_NAME: "../x"}}, InvalidInput, "interface name"),
        ({"Options": {network_record.BRIDGE_NAME: "x" * 16}}, InvalidInput, "interface name"),
        ({"EnableIPv4": False}, InvalidInput, "must be enabled"),
        ({"IPAM": {"Driver": "dhcp"}}, InvalidInput, "ipam driver"),
        ({"Scope": "swarm"}, InvalidInput, "local"),
    ],
)
def test_what_is_refused(body: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        parse(**body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            "Driver Options EnableIPv6 IPAM Labels Scope ConfigOnly ConfigFrom".split(), JSON
        ),
    )
)
def test_any_request_is_parsed_or_refused(body: dict[str, Any]) -> None:
    try:
        made = parse(**body)
    except SkerryError:
        return
    assert network_record.from_plain(network_record.to_plain(made)) == made


@pytest.mark.parametrize(
    ("text", "wanted"), [("80", (80, "tcp")), ("53/udp", (53, "udp")), ("9/SCTP", (9, "sctp"))]
)
def test_ports(text: str, wanted: tuple[int, str]) -> None:
    assert port_bindings.parse_port(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "80/icmp", "²", "-1", "1/tcp/udp"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid port"):
        port_bindings.parse_port(text)


def test_bindings() -> None:
    host = {
        "PortBindings": {
            "80/tcp": [{"HostPort": "8000-8010"}, {"HostIp": "127.0.0.1", "HostPort": "81"}],
            "53/udp": None,
        },
        "PublishAllPorts": True,
    }
    config = {"ExposedPorts": {"80/tcp": {}, "90-91/tcp": {}}}
    got = [(each.name, each.host_ip, each.low, each.high) for each in
           port_bindings.wanted(config, host)]  # fmt: skip
    assert got == [
        ("80/tcp", "", 8000, 8010),
        ("80/tcp", "127.0.0.1", 81, 81),
        ("53/udp", "", 0, 0),
        ("90/tcp", "", 0, 0),
        ("91/tcp", "", 0, 0),
    ]


@pytest.mark.parametrize(
    "binding", [{"HostIp": "localhost"}, {"HostPort": "9-8"}, {"HostPort": "x"}, {"HostPort": "-"}]
)
def test_what_is_no_binding(binding: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        port_bindings.wanted({}, {"PortBindings": {"80": [binding]}})


MINE = Network("cd" * 32, "mine", "bridge", 1, "sk-mine", [PoolConfig("10.5.0.0/24", "10.5.0.1")])
CHOSEN = PoolConfig("172.17.0.0/16", "172.17.0.1", chosen=True)
BRIDGE = Network("ef" * 32, "bridge", "bridge", 1, "sk-b", [CHOSEN])


def find(reference: str) -> Network:
    for network in (MINE, BRIDGE):
        if reference in (network.name, network.id) or (reference, network) == ("default", BRIDGE):
            return network
    raise NotFound(f"network {reference} not found")


def test_settings_are_kept_by_name() -> None:
    host: dict[str, Any] = {"NetworkMode": MINE.id}
    got, _ = endpoint_config.normalise(
        MINE.id,
        {MINE.id: {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.5.0.7"}}, "bridge": {}},
        {"MacAddress": "02-42-00-00-00-01"},
        host,
        find,
    )
    assert host["NetworkMode"] == "mine"
    assert list(got) == ["mine", "bridge"]
    assert got["mine"]["MacAddress"] == "02:42:00:00:00:01"


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (MINE, {"IPAMConfig": {"IPv4Address": "10.6.0.1"}}, "no configured subnet"),
        (MINE, {"IPAMConfig": {"IPv4Address": "fd00::1"}}, "invalid IPv4"),
        (MINE, {"IPAMConfig": {"IPv6Address": "fd00::1"}}, "no configured subnet"),
        (BRIDGE, {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}, "user defined networks only"),
        (BRIDGE, {"Aliases": ["x"]}, "network-scoped alias"),
        (MINE, {"MacAddress": "01:00:00:00:00:00"}, "not a valid mac"),
        (MINE, {"MacAddress": "zz"}, "not a valid mac"),
        (MINE, {"GwPriority": "high"}, "whole number"),
        (MINE, {"Aliases": [1]}, "array of strings"),
        (
            MINE,
            {"DriverOpts": {"com.docker.network.endpoint.sysctls": "kernel.x=1"}},
            "endpoint sysctl",
        ),
        (
            MINE,
            {
                "DriverOpts": {
                    "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.../../x=1"
                }
            },
            "endpoint sysctl",
        ),
    ],
)
def test_settings_that_are_refused(network: Network, settings: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        endpoint_config.check_settings(settings, network, explicit=True, config={})


def record(**fields: Any) -> Record:
    return Record("12" * 32, "web", "busybox", "sha256:0", 1, {}, **{"host": {}, **fields})


def test_networks_of_a_container() -> None:
    assert endpoint_config.names(record()) == ["bridge"]
    assert endpoint_config.names(record(host={"NetworkMode": "none"})) == []
    assert endpoint_config.names(record(host={"NetworkMode": "container:x"})) == []
    both = record(host={"NetworkMode": "mine"}, network={"bridge": {}, "mine": {}})
    assert endpoint_config.names(both) == ["mine", "bridge"]
    left = record(host={"NetworkMode": "mine"}, network={"other": {}})
    assert endpoint_config.names(left) == ["other"]


@pytest.mark.parametrize("mode", ["mine", "none"])
def test_the_mode_stays_when_the_last_network_is_left(mode: str) -> None:
    one = record(host={"NetworkMode": mode}, network={mode: {}})
    assert endpoint_config.shown(one) == [mode]
    endpoint_config.leave(one, mode)
    assert endpoint_config.shown(one) == endpoint_config.names(one) == []
    endpoint_config.join(one, "other", {"Aliases": ["x"]})
    assert endpoint_config.shown(one) == endpoint_config.names(one) == ["other"]
    assert one.network == {"other": {"Aliases": ["x"]}}
    assert endpoint_config.mode_of(one) == mode


def test_names_in_the_resolver() -> None:
    assert endpoint_config.dns_names(record(), BRIDGE, {}) == ()
    names = endpoint_config.dns_names(record(), MINE, {"Aliases": ["svc", "web"]})
    assert names == ("web", "svc", "121212121212")


def test_addresses_make_macs() -> None:
    assert endpoint_config.mac_of("10.5.0.7/24", "", "ff") == "02:42:0a:05:00:07"
    assert endpoint_config.check_mac(endpoint_config.mac_of("", "fd00::1/64", "deadbeef" * 8))


def test_hosts_follow_the_networks() -> None:
    text = etc.hosts("me", "", [], own_addresses=["10.0.0.2"])
    changed = etc.change_hosts(text + "1.1.1.1\tmine\n", {"10.0.0.2"}, ["10.1.0.2"], "me")
    assert "10.0.0.2" not in changed
    assert changed.endswith("1.1.1.1\tmine\n10.1.0.2\tme\n")
    before = etc.resolv_conf("nameserver 1.1.1.1\nsearch lan\n", {}, shares_host=False)
    assert etc.through_resolver("# my own\n" + before) == (
        "nameserver 127.0.0.11\n# my own\nsearch lan\noptions ndots:0\n\n"
        "# Based on host file: '/etc/resolv.conf' (internal resolver)\n"
        "# ExtServers: [host(1.1.1.1)]\n# Overrides: []\n# Option ndots from: internal\n"
    )


def test_gateway_modes() -> None:
    mode = "com.docker.network.bridge.gateway_mode_ipv"
    network = parse(Options={f"{mode}4": "routed"}, IPAM={"Config": [{"Subnet": "10.1.0.0/24"}]})
    assert network.segment().modes == ("routed", "nat")
    with pytest.raises(InvalidInput, match="unknown gateway mode bridged"):
        parse(Options={f"{mode}6": "bridged"})
    isolated = {f"{mode}4": "isolated"}
    with pytest.raises(InvalidInput, match="can only be used for an internal network"):
        parse(Options=isolated)
    given = {"Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"}]}
    assert parse(Options=isolated, Internal=True, IPAM=given).segment().gateways == ()
