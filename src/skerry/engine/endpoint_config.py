"""What a container's place in a network is called and set to. Pure.

`settings` is Docker's EndpointSettings as a request gives it: IPAMConfig, Aliases, Links,
MacAddress, DriverOpts, GwPriority.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skerry.base.errors import InvalidInput
from skerry.engine import port_bindings
from skerry.engine.network_record import BRIDGE, HOST, NONE, PREFIX, Network, parse_address
from skerry.engine.record import Record
from skerry.network.sandbox import Endpoint

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_KEPT = ("IPAMConfig", "Aliases", "Links", "MacAddress", "DriverOpts", "GwPriority")
_SYSCTLS = "com.docker.network.endpoint.sysctls"
_IFNAME = "com.docker.network.endpoint.ifname"
LEFT = ""
"""In a record's `network`: it has left its last one, and a namespace waits for the next."""


def mode_of(record: Record) -> str:
    """The network mode: a network's name, host, none or container:ID."""
    mode: str = record.host.get("NetworkMode") or BRIDGE
    return BRIDGE if mode == "default" else mode


def names(record: Record) -> list[str]:
    """The networks that a container is to be in, the one of its mode first. The mode says what a
    create asked for and stays, wherever the container goes from there."""
    mode, listed = mode_of(record), record.network
    if mode.startswith("container:") or mode == HOST:
        return []
    first = [mode] if mode != NONE and (mode in listed or not listed) else []
    return [*first, *(name for name in listed if name not in (mode, NONE, LEFT))]


def shown(record: Record) -> list[str]:
    """What inspect lists: the same, or `host` or `none`; nothing for one that has left its last."""
    return names(record) or ([] if LEFT in record.network else [mode_of(record)])


def leave(record: Record, name: str) -> None:
    """Take a network from the record."""
    record.network.pop(name, None)
    if not record.network:
        record.network[LEFT] = {}


def join(record: Record, name: str, settings: dict[str, Any]) -> None:
    """Put a network into the record."""
    record.network = {k: v for k, v in record.network.items() if k not in (NONE, LEFT)}
    record.network[name] = settings


def normalise(
    mode: str,
    given: Mapping[str, Any],
    config: Mapping[str, Any],
    host: dict[str, Any],
    find: Callable[[str], Network],
) -> tuple[dict[str, Any], list[str]]:
    """The settings by the network's name, the mode's network first.

    The mode in `host` becomes a name too, when it was an id.
    """
    main = find(mode)
    if main.name in (HOST, NONE):
        raise InvalidInput(f"unsupported network mode {mode!r:.60}")
    if mode != "default":
        host["NetworkMode"] = main.name
    result: dict[str, Any] = {main.name: {}}
    for reference, settings in given.items():
        network = find(reference)
        if network.name in (HOST, NONE):
            raise InvalidInput(f"container cannot be connected to network {network.name} as well")
        result[network.name] = check_settings(
            settings, network, explicit=bool(mode != "default"), config=config
        )
    if config.get("MacAddress") and not result[main.name].get("MacAddress"):
        result[main.name]["MacAddress"] = check_mac(config["MacAddress"])
    return result, []


def check_settings(
    given: Mapping[str, Any], network: Network, *, explicit: bool, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept of EndpointSettings; InvalidInput in Docker's words."""
    settings = {key: given[key] for key in _KEPT if given.get(key)}
    ipam = settings.get("IPAMConfig")
    if ipam is not None and not isinstance(ipam, dict):
        raise InvalidInput("IPAMConfig: expected an object")
    for version, key in ((4, "IPv4Address"), (6, "IPv6Address")):
        text = (ipam or {}).get(key)
        if not text:
            continue
        address = parse_address(str(text), key)
        if address.version != version:
            raise InvalidInput(f"invalid IPv{version} address: {text}")
        pool = network.pool(version)
        if pool is None or address not in ipaddress.ip_network(pool.subnet):
            raise InvalidInput(
                "invalid config for network "
                f"{network.name}: invalid endpoint settings: no configured subnet or ip-range "
                f"contain the IP address {text}"
            )
        if network.is_default or pool.chosen:
            raise InvalidInput(
                f"invalid config for network {network.name}: invalid endpoint settings: "
                "user specified IP address is supported "
                + (
                    "on user defined networks only"
                    if network.is_default
                    else "only when connecting to networks with user configured subnets"
                )
            )
    listed = (ipam or {}).get("LinkLocalIPs") or []
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise InvalidInput("LinkLocalIPs: expected an array of strings")
    for text in listed:
        parse_address(text, "link-local IP")
    for key in ("Aliases", "Links"):
        listed = settings.get(key)
        if listed is not None and (
            not isinstance(listed, list) or not all(isinstance(each, str) for each in listed)
        ):
            raise InvalidInput(f"{key}: expected an array of strings")
    if settings.get("Aliases") and network.is_default:
        raise InvalidInput(
            "network-scoped alias is supported only for containers in user defined networks"
        )
    if settings.get("MacAddress"):
        settings["MacAddress"] = check_mac(str(settings["MacAddress"]))
    priority = settings.get("GwPriority", 0)
    if not isinstance(priority, int):
        raise InvalidInput("GwPriority: expected a whole number")
    options = settings.get("DriverOpts") or {}
    if not isinstance(options, dict) or not all(isinstance(v, str) for v in options.values()):
        raise InvalidInput("DriverOpts: expected an object of strings")
    sysctls(settings, "")
    return settings


def check_mac(text: str) -> str:
    """A unicast MAC address in lower case with colons."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        raise InvalidInput(f"{text:.40} is not a valid mac address")
    return mac


def mac_of(ipv4: str, ipv6: str, id: str) -> str:
    """A MAC address that follows from the IPv4 address, so that neighbours who remember the
    address are right about its next holder, too."""
    digits = ipaddress.ip_interface(ipv4).ip.packed.hex() if ipv4 else id[:8]
    return ":".join(("02", "42", *(digits[n : n + 2] for n in range(0, 8, 2))))


def gateways(network: Network) -> tuple[str, str]:
    """Where default routes go, empty for none."""
    if network.internal:
        return "", ""
    found = []
    for version in (4, 6):
        pool = network.pool(version)
        found.append(pool.gateway if pool else "")
    return found[0], found[1]


def free_interface(
    network: Network, settings: Mapping[str, Any], others: Iterable[Endpoint]
) -> str:
    """The link's name inside: the one asked for, else eth0, eth1, ..."""
    taken = {each.interface for each in others}
    wanted: str = (settings.get("DriverOpts") or {}).get(_IFNAME, "")
    if wanted:
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,15}", wanted) or wanted in ("lo", ".", ".."):
            raise InvalidInput(f"invalid interface name {wanted!r:.40}")
        if wanted in taken:
            raise InvalidInput(f"interface name {wanted} is already in use")
        return wanted
    prefix = network.options.get(PREFIX, "eth")
    return next(name for n in range(4096) if (name := f"{prefix}{n}") not in taken)


def dns_names(record: Record, network: Network, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What the container is called in a network; nothing in the default one, as with Docker."""
    if network.is_default:
        return ()
    listed = [record.name, *(settings.get("Aliases") or ()), record.id[:12]]
    if record.config.get("Hostname"):
        listed.append(record.config["Hostname"])
    return tuple(dict.fromkeys(listed))


def sysctls(settings: Mapping[str, Any], interface: str) -> tuple[tuple[str, str], ...]:
    """(path below /proc/sys/net, value) of the endpoint's own sysctls
    (`net.ipv4.conf.IFNAME.log_martians=1,…`)."""
    found = []
    text = (settings.get("DriverOpts") or {}).get(_SYSCTLS, "")
    for entry in text.split(",") if text else ():
        name, equals, value = entry.partition("=")
        parts = name.strip().split(".")
        if (
            not equals
            or len(parts) != 5
            or parts[0] != "net"
            or parts[1] not in ("ipv4", "ipv6", "mpls")
            or parts[2] not in ("conf", "neigh")
            or parts[3] != "IFNAME"
            or not re.fullmatch(r"[a-z0-9_]+", parts[4])
        ):
            raise InvalidInput(f"invalid endpoint sysctl {entry!r:.80}")
        found.append((f"{parts[1]}/{parts[2]}/{interface}/{parts[4]}", value))
    return tuple(found)


def link(
    record: Record, other: Record, alias: str, endpoint: Endpoint
) -> tuple[tuple[str, str], list[str]]:
    """A legacy link: the line of /etc/hosts as (address, names), and the variables."""
    name = alias or other.name
    words = [
        name,
        *(
            word
            for word in (other.config.get("Hostname") or other.id[:12], other.name)
            if word != name
        ),
    ]
    prefix = re.sub(r"[^A-Z0-9_]", "_", name.upper())
    address = endpoint.address4
    variables = [f"{prefix}_NAME=/{record.name}/{name}"]
    ports = port_bindings.exposed(other.config)
    if ports:
        port, protocol = ports[0]
        variables.append(f"{prefix}_PORT={protocol}://{address}:{port}")
    for port, protocol in ports:
        head = f"{prefix}_PORT_{port}_{protocol.upper()}"
        variables += [
            f"{head}={protocol}://{address}:{port}",
            f"{head}_ADDR={address}",
            f"{head}_PORT={port}",
            f"{head}_PROTO={protocol}",
        ]
    for entry in other.config.get("Env") or ():
        key, _, value = entry.partition("=")
        if key not in ("HOME", "PATH"):
            variables.append(f"{prefix}_ENV_{key}={value}")
    return (address, " ".join(words)), variables
