"""Docker's port words: `80/tcp` and what a container asks to publish. Pure."""

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.network.firewall import PROTOCOLS


class Binding(NamedTuple):
    """One port to publish; `low` and `high` are 0 for a random one, `host_ip` empty for any."""

    name: str
    protocol: str
    port: int
    host_ip: str
    low: int
    high: int


def parse_port(text: str) -> tuple[int, str]:
    """(80, "tcp") of `80/tcp` or `80`; InvalidInput in Docker's words."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidInput(f"invalid port specification: unknown protocol in {text!r:.40}")
    return _number(number, text), protocol


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6) or not 0 < int(text) < 65536:
        raise InvalidInput(f"invalid port specification: {whole!r:.40}")
    return int(text)


def exposed(config: Mapping[str, Any]) -> list[tuple[int, str]]:
    """`ExposedPorts` in order; a range such as `80-82/tcp` is all of its ports."""
    found = set()
    for text in config.get("ExposedPorts") or ():
        numbers, _, protocol = text.partition("/")
        low, dash, high = numbers.partition("-")
        first, protocol = parse_port(f"{low}/{protocol}")
        last = _number(high, text) if dash else first
        if last < first:
            raise InvalidInput(f"invalid port range {text!r:.40}")
        found |= {(number, protocol) for number in range(first, last + 1)}
    return sorted(found, key=lambda each: (each[1], each[0]))


def wanted(config: Mapping[str, Any], host: Mapping[str, Any]) -> list[Binding]:
    """All that a container publishes: `PortBindings`, and with PublishAllPorts what is exposed."""
    result = []
    for text, bindings in (host.get("PortBindings") or {}).items():
        port, protocol = parse_port(text)
        result += [_binding(port, protocol, each) for each in bindings or [{}]]
    if host.get("PublishAllPorts"):
        given = {(each.port, each.protocol) for each in result}
        result += [
            Binding(f"{port}/{protocol}", protocol, port, "", 0, 0)
            for port, protocol in exposed(config)
            if (port, protocol) not in given
        ]
    return result


def _binding(port: int, protocol: str, given: Mapping[str, str]) -> Binding:
    host_ip = given.get("HostIp") or ""
    if host_ip:
        try:
            host_ip = str(ipaddress.ip_address(host_ip.strip("[]")))
        except ValueError:
            raise InvalidInput(f"invalid IP address: {host_ip!r:.60}") from None
    text = given.get("HostPort") or ""
    low = high = 0
    if text not in ("", "0"):
        first, dash, last = text.partition("-")
        low = _number(first, text)
        high = _number(last, text) if dash else low
        if high < low:
            raise InvalidInput(f"invalid port range {text!r:.40}")
    return Binding(f"{port}/{protocol}", protocol, port, host_ip, low, high)
