"""What the administrator has said about networks: `<root>/engine.json` and the command line."""

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.engine import network_record, settings_file
from skerry.network import ipam


class NetworkSettings(NamedTuple):
    """The part of `<root>/engine.json` that is about networks; names as in Docker's daemon.json."""

    publish_default_address: str = ""
    """Where published ports are bound when no address was said; empty for all addresses."""
    bip: str = ""
    """`address/prefix` of the default bridge."""
    mtu: int = 0
    icc: bool = True
    ipv6: bool = False
    """Whether the default bridge has IPv6."""
    pools: tuple[ipam.PoolRange, ...] = ipam.DEFAULT_POOLS
    host_gateways: tuple[str, ...] = ()
    """What `--add-host NAME:host-gateway` means; empty for the gateways of the container."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


def load(root: str, publish_default_address: str = "") -> NetworkSettings:
    """The settings of the engine with this root; an address that was given on the command line
    wins over the file's."""
    settings = read_settings(settings_file.path_in(root))
    if not publish_default_address:
        return settings
    address = network_record.parse_address(publish_default_address, "--publish-default-address")
    return settings._replace(publish_default_address=str(address))


def read_settings(path: str) -> NetworkSettings:
    """Read the engine's settings file; none is fine. InvalidInput names what is wrong."""
    data = settings_file.read(path)
    try:
        return parse_settings(data)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}") from None


def parse_settings(data: Mapping[str, Any]) -> NetworkSettings:
    """The settings in a decoded file; other rooms' keys are left alone."""

    def get(key: str, kind: type, default: Any) -> Any:
        value = data.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidInput(f"{key}: {value!r:.60} is not what is expected")
        return value

    address = get("publish-default-address", str, "")
    if address:
        address = str(network_record.parse_address(address, "publish-default-address"))
    bip = get("bip", str, "")
    if bip:
        try:
            if "/" not in bip:
                raise ValueError
            ipaddress.ip_interface(bip)
        except ValueError:
            raise InvalidInput(f"bip: {bip!r:.60} is not address/prefix") from None
    pools = []
    for each in get("default-address-pools", list, []):
        try:
            pools.append(ipam.PoolRange(ipaddress.ip_network(each["base"]), int(each["size"])))
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(f"default-address-pools: {each!r:.60}") from None
    servers = get("dns", list, [])
    for server in servers:
        network_record.parse_address(str(server), "dns")
    gateways = [each for each in (get("host-gateway-ip", str, ""),) if each]
    gateways += get("host-gateway-ips", list, [])
    gateways = [str(network_record.parse_address(str(each), "host-gateway")) for each in gateways]
    return NetworkSettings(
        publish_default_address=address,
        bip=bip,
        mtu=get("mtu", int, 0),
        icc=get("icc", bool, True),
        ipv6=get("ipv6", bool, False),
        pools=tuple(pools) or ipam.DEFAULT_POOLS,
        host_gateways=tuple(gateways),
        dns=tuple(map(str, servers)),
        dns_search=tuple(map(str, get("dns-search", list, []))),
        dns_options=tuple(map(str, get("dns-opts", list, []))),
    )
