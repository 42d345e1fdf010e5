"""What is saved of a network, and how a request to make one becomes that. Pure.

Names of options are Docker's (https://docs.docker.com/engine/network/drivers/bridge/).
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec

from skerry.base.errors import Forbidden, InvalidInput, SystemFault
from skerry.base.ids import NAME_PATTERN
from skerry.base.truths import FALSE, TRUE
from skerry.engine import validation
from skerry.kernel.links import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES
from skerry.network import ipam
from skerry.network.firewall import ISOLATED, NAT, ROUTED, UNPROTECTED
from skerry.network.sandbox import Segment

VERSION = 1
KIND = "network"
BRIDGE, HOST, NONE = "bridge", "host", "none"
PREDEFINED = (BRIDGE, HOST, NONE)
DRIVERS = ("bridge", "macvlan", "ipvlan")
MTU = "com.docker.network.driver.mtu"
BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
GATEWAY_MODE4 = "com.docker.network.bridge.gateway_mode_ipv4"
GATEWAY_MODE6 = "com.docker.network.bridge.gateway_mode_ipv6"
PREFIX = "com.docker.network.container_iface_prefix"
_GATEWAY_MODES = ("", NAT, UNPROTECTED, ROUTED, ISOLATED)


class PoolConfig(msgspec.Struct, omit_defaults=True):
    """One line of `IPAM.Config`. `aux` maps names to addresses that are never given out."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    aux: dict[str, str] = {}
    chosen: bool = False
    """The engine chose the subnet."""


class Network(msgspec.Struct):
    """One network. `link` is the bridge or the parent interface."""

    id: str
    name: str
    driver: str
    created_at: int
    link: str
    pools: list[PoolConfig] = []
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    ipam_options: dict[str, str] = {}
    own_link: bool = True
    config_only: bool = False
    """It only lends its configuration to others (`network_templates`)."""
    config_from: str = ""
    """The name of the one whose configuration it has."""
    version: int = VERSION

    @property
    def is_default(self) -> bool:
        """Whether it is the one that containers are in unless told otherwise."""
        return self.name == BRIDGE

    def flag(self, option: str, default: bool = True) -> bool:
        """A truth value among the options."""
        return parse_flag(option, self.options[option]) if option in self.options else default

    @property
    def mtu(self) -> int:
        """0 is the kernel's."""
        return int(self.options.get(MTU, "0"))

    def pool(self, version: int) -> PoolConfig | None:
        """The first pool of an IP version."""
        for each in self.pools:
            if ipaddress.ip_network(each.subnet).version == version:
                return each
        return None

    def mode(self, version: int) -> str:
        """The gateway mode of an IP version."""
        return self.options.get(GATEWAY_MODE6 if version == 6 else GATEWAY_MODE4) or NAT

    def is_isolated(self, pool: PoolConfig) -> bool:
        """Whether the host is to have no address there."""
        return self.mode(ipaddress.ip_network(pool.subnet).version) == ISOLATED

    def segment(self) -> Segment:
        """What the kernel has of it."""
        gateways = [
            f"{pool.gateway}/{pool.subnet.partition('/')[2]}"
            for pool in self.pools
            if pool.gateway and self.driver == "bridge" and not self.is_isolated(pool)
        ]
        return Segment(
            id=self.id,
            driver=self.driver,
            link=self.link,
            gateways=tuple(gateways),
            mtu=self.mtu,
            internal=self.internal,
            icc=self.flag(ICC),
            masquerade=self.flag(MASQUERADE),
            modes=(self.mode(4), self.mode(6)),
            mode=self.options.get(f"{self.driver}_mode")
            or {"macvlan": "bridge", "ipvlan": "l2"}.get(self.driver, ""),
            flag=self.options.get("ipvlan_flag", "bridge"),
            own_link=self.own_link,
        )


def to_plain(network: Network) -> dict[str, Any]:
    """Builtin types, ready for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(network)
    return plain


def from_plain(data: dict[str, Any]) -> Network:
    """A network as it was saved; SystemFault when it is damaged or from a newer skerry."""
    try:
        if data.get("version", 0) > VERSION:
            raise ValueError(f"it has version {data['version']}")
        return msgspec.convert(data, Network)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise SystemFault(f"network record {data.get('id')!r:.70} is damaged: {error}") from None


def parse_flag(name: str, text: str) -> bool:
    """Go's ParseBool."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise InvalidInput(f"invalid value for {name}: {text!r:.40} is not true or false")


BODY = validation.fields(
    {
        "Name": validation.text(255),
        "CheckDuplicate": validation.flag,
        "Driver": validation.text(64),
        "Scope": validation.text(16),
        "Internal": validation.flag,
        "Attachable": validation.flag,
        "Ingress": validation.flag,
        "ConfigOnly": validation.flag,
        "ConfigFrom": validation.fields({"Network": validation.text(255)}),
        "EnableIPv4": validation.flag,
        "EnableIPv6": validation.flag,
        "Options": validation.table(validation.string, 64),
        "Labels": validation.labels,
        "IPAM": validation.fields(
            {
                "Driver": validation.text(64),
                "Options": validation.table(validation.string, 64),
                "Config": validation.items(
                    validation.fields(
                        {
                            "Subnet": validation.text(64),
                            "IPRange": validation.text(64),
                            "Gateway": validation.text(64),
                            "AuxiliaryAddresses": validation.table(validation.text(64), 256),
                        }
                    ),
                    16,
                ),
            }
        ),
    },
    keep_empty=frozenset({"EnableIPv4"}),
)
"""The body of POST /networks/create."""


def parse(body: Mapping[str, Any], id: str, created_at: int) -> Network:
    """A network as asked for, subnets that were not given still missing.

    `body` has passed BODY, `network_templates.check` and `.filled`. InvalidInput and Forbidden in
    Docker's words.
    """
    name = body.get("Name", "")
    if not name.strip():
        raise InvalidInput("invalid network name: name is empty")
    if not NAME_PATTERN.fullmatch(name) or len(name) > 255:
        raise InvalidInput(
            f"invalid network name: {name!r} is invalid: only [a-zA-Z0-9][a-zA-Z0-9_.-] is allowed"
        )
    if name in (*PREDEFINED, "default"):
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    only = bool(body.get("ConfigOnly"))
    # What it is for is said by who takes it.
    driver = "null" if only else body.get("Driver") or "bridge"
    if not only and driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if not only and driver not in DRIVERS:
        raise InvalidInput(
            f'plugin "{driver:.80}" not found'
            if driver != "overlay"
            else "this node is not a swarm manager: overlay networks need one"
        )
    if body.get("Ingress"):
        raise InvalidInput("Ingress networks need a swarm, which this engine does not have")
    if body.get("Scope") not in (None, "", "local"):
        raise InvalidInput(f"scope {body['Scope']!r} is not supported: networks are local")
    given = body.get("IPAM") or {}
    if given.get("Driver") not in (None, "", "default"):
        raise InvalidInput(f"could not find ipam driver {given['Driver']}")
    network = Network(
        id=id,
        name=name,
        driver=driver,
        created_at=created_at,
        link="",
        ipv4=body.get("EnableIPv4", True),
        ipv6=body.get("EnableIPv6", False),
        internal=bool(body.get("Internal")),
        attachable=bool(body.get("Attachable")),
        labels=dict(body.get("Labels") or {}),
        options=dict(body.get("Options") or {}),
        ipam_options=dict(given.get("Options") or {}),
        pools=[parse_pool(each) for each in given.get("Config") or ()],
        config_only=only,
        config_from=(body.get("ConfigFrom") or {}).get("Network", ""),
    )
    _check_options(network)
    versions = [ipaddress.ip_network(pool.subnet).version for pool in network.pools]
    if 6 in versions:
        network.ipv6 = True
    if not network.ipv4 and not network.ipv6:
        raise InvalidInput("IPv4 or IPv6 must be enabled")
    if not network.ipv4 and 4 in versions:
        raise InvalidInput("IPv4 subnets are given, and IPv4 is disabled")
    for version in (4, 6):
        if versions.count(version) > 1:
            raise InvalidInput(f"{driver} networks take one IPv{version} subnet")
    subnets = [ipaddress.ip_network(pool.subnet) for pool in network.pools]
    for number, subnet in enumerate(subnets):
        ipam.check_free(subnet, subnets[:number])
    network.link = _link_of(network)
    return network


def parse_pool(given: Mapping[str, Any]) -> PoolConfig:
    """A line of IPAM.Config, checked."""
    if not given.get("Subnet"):
        raise InvalidInput("an IPAM configuration needs a subnet")
    subnet = ipam.parse_subnet(given["Subnet"])
    inner = ""
    if given.get("IPRange"):
        range_ = ipam.parse_subnet(given["IPRange"], "ip-range")
        if range_.version != subnet.version or not (
            range_.network_address in subnet and range_.broadcast_address in subnet
        ):
            raise InvalidInput(
                f"invalid ip-range {given['IPRange']}: it is not inside of the subnet {subnet}"
            )
        inner = str(range_)
    addresses = {"gateway": given.get("Gateway", "")} | dict(given.get("AuxiliaryAddresses") or {})
    for what, text in addresses.items():
        if text:
            address = parse_address(text, what)
            if address not in subnet:
                raise InvalidInput(f"no matching subnet for {what} {text}")
            addresses[what] = str(address)
    gateway = addresses.pop("gateway")
    return PoolConfig(str(subnet), gateway, inner, addresses)


def parse_address(text: str, what: str) -> ipam.Address:
    """An address; InvalidInput otherwise. A prefix length, as Docker allows, is left out."""
    try:
        return ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        raise InvalidInput(f"invalid {what} address {text!r:.60}") from None


def _check_options(network: Network) -> None:
    options = network.options
    for option in (ICC, MASQUERADE):
        network.flag(option)
    if MTU in options:
        text = options[MTU]
        if not (text.isascii() and text.isdigit()) or not 68 <= int(text) <= 65535:
            raise InvalidInput(f"invalid value for {MTU}: {text!r:.40}")
    for option in (GATEWAY_MODE4, GATEWAY_MODE6):
        if options.get(option, "") not in _GATEWAY_MODES:
            raise InvalidInput(
                f"unknown gateway mode {options[option]:.40}",
                hint=f"there are {', '.join(_GATEWAY_MODES[1:])}",
            )
        if options.get(option) == ISOLATED and not network.internal:
            raise InvalidInput("gateway mode 'isolated' can only be used for an internal network")
    if options.get(HOST_BINDING):
        parse_address(options[HOST_BINDING], HOST_BINDING)
    prefix = options.get(PREFIX, "eth")
    if not prefix.isascii() or not prefix.isalnum() or len(prefix) > 10:
        raise InvalidInput(f"invalid value for {PREFIX}: {prefix!r:.40}")
    for option, known in (
        ("macvlan_mode", MACVLAN_MODES),
        ("ipvlan_mode", IPVLAN_MODES),
        ("ipvlan_flag", IPVLAN_FLAGS),
    ):
        if options.get(option) and options[option] not in known:
            raise InvalidInput(f"unknown {option.replace('_', ' ')}: {options[option]!r:.40}")


def _link_of(network: Network) -> str:
    if network.config_only:
        return ""
    wanted = network.options.get(BRIDGE_NAME if network.driver == "bridge" else "parent", "")
    if not wanted:
        prefix = {"bridge": "sk", "macvlan": "dm", "ipvlan": "di"}[network.driver]
        return f"{prefix}-{network.id[:12]}"
    if not 0 < len(wanted.encode()) < 16 or not wanted.isprintable() or set(wanted) & set("/: "):
        raise InvalidInput(f"invalid interface name {wanted!r:.40}")
    return wanted
