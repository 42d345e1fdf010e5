"""`--network` and its companions as the API's NetworkMode and EndpointsConfig."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.cli.mounts import split_csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skerry.cli.options import Parsed

_SINGLE = {"ip": "IPv4Address", "ip6": "IPv6Address", "link-local-ip": "LinkLocalIPs"}


def parse_network(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME`, or `name=NAME,alias=…,ip=…,ip6=…,mac-address=…,driver-opt=K=V,gw-priority=N`: the
    network and its EndpointSettings."""
    if not text:
        raise InvalidInput("no name set for network")
    if "=" not in text:
        return text, {}
    name = ""
    settings: dict[str, Any] = {}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        if not equals or not value:
            raise InvalidInput(f"invalid field {field!r} in --network {text!r}")
        match key.lower():
            case "name":
                name = value
            case "alias":
                settings.setdefault("Aliases", []).append(value)
            case "ip" | "ip6" as which:
                settings.setdefault("IPAMConfig", {})[_SINGLE[which]] = value
            case "link-local-ip":
                settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
            case "mac-address":
                settings["MacAddress"] = value
            case "driver-opt":
                option, _, chosen = value.partition("=")
                settings.setdefault("DriverOpts", {})[option] = chosen
            case "gw-priority":
                if not value.removeprefix("-").isdecimal():
                    raise InvalidInput(f"invalid gw-priority {value!r}")
                settings["GwPriority"] = int(value)
            case _:
                raise InvalidInput(f"invalid field key {key!r} in --network {text!r}")
    if not name:
        raise InvalidInput(f"network name is not specified: {text!r}")
    return name, settings


def endpoint(parsed: Parsed) -> dict[str, Any]:
    """The settings that stand in options of their own."""
    settings: dict[str, Any] = {}
    addresses: dict[str, Any] = {
        key: parsed.text(option)
        for option, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address"))
        if parsed.text(option)
    }
    if parsed.many("link-local-ip"):
        addresses["LinkLocalIPs"] = parsed.many("link-local-ip")
    if addresses:
        settings["IPAMConfig"] = addresses
    aliases = parsed.many("network-alias") or parsed.many("net-alias")
    if aliases:
        settings["Aliases"] = aliases
    return settings


def networking(parsed: Parsed) -> tuple[str, dict[str, Any]]:
    """NetworkMode (empty when nothing was said) and EndpointsConfig of `run` and `create`."""
    listed = [parse_network(text) for text in parsed.many("network") or parsed.many("net")]
    single = endpoint(parsed)
    mode = listed[0][0] if listed else ""
    result: dict[str, Any] = {}
    for name, settings in listed:
        if name in result:
            raise InvalidInput(f"network {name!r} is specified multiple times")
        result[name] = settings
    if single:
        main = result.setdefault(mode or "default", {})
        for key, value in single.items():
            if key in main:
                raise InvalidInput(f"conflicting options: --network and a separate {key}")
            main[key] = value
    if len(result) > 1:
        return mode, result
    return mode, {name: settings for name, settings in result.items() if settings}
