"""`network create`, `ls`, `rm`, `connect`, `disconnect`; `port`."""

from __future__ import annotations

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli import networks
from skerry.cli.context import Context, each, out
from skerry.cli.options import Command, Parsed, many, number, switch, text
from skerry.cli.table import Listing, label_method, label_text
from skerry.cli.values import key_values, parse_filters
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    {
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "IPv4": "IPV4",
        "IPv6": "IPV6",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    "ID Name Driver Scope",
    "ID",
)


def create(context: Context, parsed: Parsed) -> int:
    """A network of its own for containers."""
    body: dict[str, Any] = {
        "Name": parsed.arguments[0],
        "Driver": parsed.text("driver", "bridge"),
        "Internal": parsed.on("internal"),
        "Attachable": parsed.on("attachable"),
        "Options": key_values(parsed.many("opt"), "option"),
        "Labels": key_values(parsed.many("label"), "label"),
        "IPAM": {
            "Driver": parsed.text("ipam-driver", "default"),
            "Options": key_values(parsed.many("ipam-opt"), "option"),
            "Config": _pools(parsed),
        },
        "ConfigOnly": parsed.on("config-only"),
        "ConfigFrom": {"Network": parsed.text("config-from", "")},
    }
    for option, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if option in parsed.given:
            body[key] = parsed.on(option)
    out(context.client.post("/networks/create", body)["Id"])
    return 0


def _pools(parsed: Parsed) -> list[dict[str, Any]]:
    """Gateways, ranges and auxiliary addresses go to the subnet that holds them."""
    import ipaddress

    pools: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in parsed.many("subnet")]
    try:
        nets = [ipaddress.ip_network(pool["Subnet"], strict=False) for pool in pools]

        def home(address: str) -> dict[str, Any]:
            place = ipaddress.ip_interface(address).ip
            for net, pool in zip(nets, pools, strict=True):
                if place in net:
                    return pool
            raise InvalidInput(f"no matching subnet for {address}")

        for value in parsed.many("gateway"):
            home(value)["Gateway"] = value
        for value in parsed.many("ip-range"):
            home(value)["IPRange"] = value
        for name, value in key_values(parsed.many("aux-address"), "auxiliary address").items():
            home(value).setdefault("AuxiliaryAddresses", {})[name] = value
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    return pools


def list_all(context: Context, parsed: Parsed) -> int:
    """Networks."""
    filters = parse_filters(parsed.many("filter"))
    whole = parsed.on("no-trunc")
    found = context.client.get("/networks" + query(filters=filters or None))
    found.sort(key=lambda network: network["Name"])
    rows = [_row(network, whole=whole) for network in found]
    form, quiet = parsed.text("format"), parsed.on("quiet")
    LISTING.show(rows, form=form, quiet=quiet, methods=label_method)
    return 0


def _row(network: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    labels = network.get("Labels") or {}
    return {
        "ID": network["Id"] if whole else network["Id"][:12],
        **{name: network.get(name, "") for name in ("Name", "Driver", "Scope")},
        "IPv4": str(network.get("EnableIPv4") is not False).lower(),
        "IPv6": str(bool(network.get("EnableIPv6"))).lower(),
        "Internal": str(bool(network.get("Internal"))).lower(),
        "Labels": label_text(labels),
        "labels": labels,
        # As Go writes a time.
        "CreatedAt": network.get("Created", "").replace("T", " ").replace("Z", " +0000 UTC"),
    }


def remove(context: Context, parsed: Parsed) -> int:
    """Networks that no running container is in."""

    def one(name: str) -> None:
        try:
            context.client.delete(f"/networks/{quote(name)}")
        except NotFound:
            if not parsed.on("force"):
                raise

    return each(context, parsed.arguments, one)


def connect(context: Context, parsed: Parsed) -> int:
    """Put a container into a network."""
    network, container = parsed.arguments
    settings = networks.endpoint(parsed)
    if parsed.many("alias"):
        settings["Aliases"] = parsed.many("alias")
    if parsed.many("link"):
        settings["Links"] = parsed.many("link")
    if parsed.many("driver-opt"):
        settings["DriverOpts"] = key_values(parsed.many("driver-opt"), "option")
    if "gw-priority" in parsed.given:
        settings["GwPriority"] = parsed.number("gw-priority")
    body = {"Container": container, "EndpointConfig": settings}
    context.client.post(f"/networks/{quote(network)}/connect", body)
    return 0


def disconnect(context: Context, parsed: Parsed) -> int:
    """Take a container out of a network."""
    network, container = parsed.arguments
    body = {"Container": container, "Force": parsed.on("force")}
    context.client.post(f"/networks/{quote(network)}/disconnect", body)
    return 0


def port(context: Context, parsed: Parsed) -> int:
    """Where a container's ports are published."""
    name, *rest = parsed.arguments
    found = context.client.get(f"/containers/{quote(name)}/json")
    published: dict[str, Any] = found["NetworkSettings"].get("Ports") or {}
    wanted = ""
    if rest:
        wanted = rest[0] if "/" in rest[0] else f"{rest[0]}/tcp"
        if not published.get(wanted):
            raise NotFound(f"no public port '{wanted}' published for {name}")
    for inner in sorted(published):
        for binding in published[inner] or ():
            host = binding["HostIp"]
            shown = f"[{host}]" if ":" in host else host
            outer = f"{shown}:{binding['HostPort']}"
            if not wanted:
                out(f"{inner} -> {outer}")
            elif inner == wanted:
                out(outer)
    return 0


COMMANDS = {
    "network create": Command(
        create,
        "Make a network",
        "NETWORK",
        (
            switch("attachable", "Kept for other tools"),
            many("aux-address", "An address that is never given out", "NAME=ADDRESS"),
            text("config-from", "Have the configuration of this network", "NETWORK"),
            switch("config-only", "Make no network, only a configuration for others"),
            text("driver", "Driver: bridge, macvlan or ipvlan", "DRIVER", "d"),
            many("gateway", "The gateway's address", "ADDRESS"),
            switch("internal", "Nothing leads out of it"),
            many("ip-range", "Give out addresses of this range only", "RANGE"),
            text("ipam-driver", "Only 'default'", "DRIVER"),
            many("ipam-opt", "Kept for other tools", "NAME=VALUE"),
            switch("ipv4", "IPv4 addresses (on unless =false)"),
            switch("ipv6", "IPv6 addresses as well"),
            many("label", "Set a label", "NAME=VALUE"),
            many("opt", "Of the driver", "NAME=VALUE", "o"),
            many("subnet", "Its subnet", "SUBNET"),
        ),
        least=1,
        most=1,
    ),
    "network ls": Command(
        list_all,
        "List networks",
        "",
        (
            many("filter", "Only what matches: driver=, label=, name=, …", "NAME=VALUE", "f"),
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("no-trunc", "Do not shorten"),
            switch("quiet", "Ids only", "q"),
        ),
        most=0,
    ),
    "network rm": Command(
        remove,
        "Remove networks",
        "NETWORK [NETWORK...]",
        (switch("force", "No error for a network that is not there", "f"),),
        least=1,
        complete="networks",
    ),
    "network connect": Command(
        connect,
        "Connect a container to a network",
        "NETWORK CONTAINER",
        (
            many("alias", "Further name in the network", "NAME"),
            many("driver-opt", "Of the endpoint", "NAME=VALUE"),
            number("gw-priority", "The highest makes the default route"),
            text("ip", "IPv4 address", "ADDRESS"),
            text("ip6", "IPv6 address", "ADDRESS"),
            many("link", "Know another container by a name", "NAME[:ALIAS]"),
            many("link-local-ip", "Link-local address", "ADDRESS"),
        ),
        least=2,
        most=2,
        complete="networks containers",
    ),
    "network disconnect": Command(
        disconnect,
        "Disconnect a container from a network",
        "NETWORK CONTAINER",
        (switch("force", "Also when it is stopped", "f"),),
        least=2,
        most=2,
        complete="networks containers",
    ),
    "port": Command(
        port,
        "Show where ports are published",
        "CONTAINER [PORT[/PROTOCOL]]",
        (),
        least=1,
        most=2,
        complete="running",
    ),
}
