"""Networks, endpoints and ports in the shapes of Docker's API."""

import hashlib
from collections.abc import Iterable
from typing import Any

from skerry.api.formats import rfc3339
from skerry.engine import endpoint_config, port_bindings
from skerry.engine.container import Container
from skerry.engine.network_record import HOST, NONE, Network
from skerry.engine.networks import Networks
from skerry.engine.record import Record
from skerry.network.sandbox import Endpoint, Sandbox

Json = dict[str, Any]


def network(found: Network, members: Iterable[tuple[Container, Endpoint]] | None = None) -> Json:
    """A network, with the containers that are plugged into it where they are given."""
    config = []
    for pool in found.pools:
        line: Json = {"Subnet": pool.subnet}
        if pool.ip_range:
            line["IPRange"] = pool.ip_range
        if pool.gateway:
            line["Gateway"] = pool.gateway
        if pool.aux:
            line["AuxiliaryAddresses"] = pool.aux
        config.append(line)
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": rfc3339(found.created_at),
        "Scope": "local",
        "Driver": found.driver,
        "EnableIPv4": found.ipv4,
        "EnableIPv6": found.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": found.ipam_options or None,
            "Config": config or None,
        },
        "Internal": found.internal,
        "Attachable": found.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": found.config_from},
        "ConfigOnly": found.config_only,
        "Containers": {
            container.id: {
                "Name": container.record.name,
                "EndpointID": each.id,
                "MacAddress": each.mac,
                "IPv4Address": each.ipv4,
                "IPv6Address": each.ipv6,
            }
            for container, each in members or ()
        },
        "Options": found.options,
        "Labels": found.labels,
    }


def alone(found: Network, containers: Iterable[Container]) -> Json:
    """`host` or `none` with the containers that run in it."""
    result = network(found)
    result["Containers"] = {
        each.id: {
            "Name": each.record.name,
            "EndpointID": _own_id("endpoint", each.id),
            "MacAddress": "",
            "IPv4Address": "",
            "IPv6Address": "",
        }
        for each in containers
        if each.running and each.record.host.get("NetworkMode") == found.name
    }
    return result


def _own_id(what: str, container_id: str) -> str:
    """The id of something that there is once a container, and that nothing keeps."""
    return hashlib.sha256(f"{what} of {container_id}".encode()).hexdigest()


def _split(text: str) -> tuple[str, int]:
    address, _, prefix = text.partition("/")
    return address, int(prefix or 0)


def endpoint(
    record: Record,
    name: str,
    networks: Networks,
    plugged: Endpoint | None,
    *,
    running: bool = False,
) -> Json:
    """One entry of `NetworkSettings.Networks`; zeros while it is not plugged in."""
    alone = running and name in (HOST, NONE)
    given = record.network.get(name) or {}
    known = next((each for each in networks.all() if each.name == name), None)
    ipv4, prefix4 = _split(plugged.ipv4 if plugged else "")
    ipv6, prefix6 = _split(plugged.ipv6 if plugged else "")
    names = None
    if known is not None:
        names = list(endpoint_config.dns_names(record, known, given)) or None
    return {
        "IPAMConfig": given.get("IPAMConfig"),
        "Links": given.get("Links"),
        "Aliases": given.get("Aliases"),
        "MacAddress": plugged.mac if plugged else given.get("MacAddress", ""),
        "DriverOpts": given.get("DriverOpts"),
        "GwPriority": given.get("GwPriority", 0),
        "NetworkID": known.id if known else "",
        "EndpointID": plugged.id if plugged else _own_id("endpoint", record.id) if alone else "",
        "Gateway": plugged.gateway4 if plugged else "",
        "IPAddress": ipv4,
        "IPPrefixLen": prefix4,
        "IPv6Gateway": plugged.gateway6 if plugged else "",
        "GlobalIPv6Address": ipv6,
        "GlobalIPv6PrefixLen": prefix6,
        "DNSNames": names,
    }


def endpoints(
    record: Record, networks: Networks, sandbox: Sandbox | None, *, running: bool = False
) -> Json:
    """`NetworkSettings.Networks`."""
    mode = endpoint_config.mode_of(record)
    if mode.startswith("container:"):
        return {}
    plugged = {each.network: each for each in sandbox.endpoints} if sandbox else {}
    return {
        name: endpoint(record, name, networks, plugged.get(name), running=running)
        for name in endpoint_config.shown(record)
    }


def listed_endpoints(
    record: Record, networks: Networks, sandbox: Sandbox | None, *, running: bool
) -> Json:
    """`Networks` in a line of the list, where Docker leaves out what only inspect tells."""
    found = endpoints(record, networks, sandbox, running=running)
    for each in found.values():
        each.update(dict.fromkeys(("Links", "Aliases", "DriverOpts", "DNSNames")))
    return found


def ports(record: Record, sandbox: Sandbox | None, *, running: bool) -> Json:
    """`NetworkSettings.Ports`: what is exposed, with where it is published."""
    if not running:
        return {}
    result: Json = {
        f"{port}/{protocol}": None for port, protocol in port_bindings.exposed(record.config)
    }
    for name, port in sandbox.ports if sandbox else ():
        host_ip = port.host_ip or ("::" if ":" in port.address else "0.0.0.0")
        listed = result.get(name) or []
        listed.append({"HostIp": host_ip, "HostPort": str(port.host_port or "")})
        result[name] = listed
    return result


def port_list(record: Record, sandbox: Sandbox | None, *, running: bool) -> list[Json]:
    """`Ports` of a line of the list."""
    result = []
    for name, bindings in ports(record, sandbox, running=running).items():
        number, _, kind = name.partition("/")
        for each in bindings or [None]:
            line: Json = {"PrivatePort": int(number), "Type": kind}
            if each:
                line = {"IP": each["HostIp"], **line}
                if each["HostPort"]:
                    line["PublicPort"] = int(each["HostPort"])
            result.append(line)
    return result


def settings(container: Container, networks: Networks, sandbox: Sandbox | None) -> Json:
    """`NetworkSettings` of inspect. The old fields on top are of the network `bridge`."""
    record, pid = container.record, container.state.pid
    main = next(
        (each for each in sandbox.endpoints if each.network == "bridge") if sandbox else iter(()),
        None,
    )
    listed = endpoints(record, networks, sandbox, running=container.running)
    own = container.running and not endpoint_config.mode_of(record).startswith("container:")
    top = endpoint(record, "bridge", networks, main) if main else None
    key = sandbox.path if sandbox else f"/proc/{pid}/ns/net" if own and pid else ""
    return {
        "Bridge": "",
        "SandboxID": _own_id("sandbox", record.id) if own else "",
        "SandboxKey": key,
        "Ports": ports(record, sandbox, running=container.running),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": top["EndpointID"] if top else "",
        "Gateway": top["Gateway"] if top else "",
        "GlobalIPv6Address": top["GlobalIPv6Address"] if top else "",
        "GlobalIPv6PrefixLen": top["GlobalIPv6PrefixLen"] if top else 0,
        "IPAddress": top["IPAddress"] if top else "",
        "IPPrefixLen": top["IPPrefixLen"] if top else 0,
        "IPv6Gateway": top["IPv6Gateway"] if top else "",
        "MacAddress": top["MacAddress"] if top else "",
        "Networks": listed,
    }
