"""What a container's start needs to know of its networks."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Joined(NamedTuple):
    """A sandbox, as the specification and the files of /etc see it."""

    path: str
    """The network namespace's pin."""
    addresses: tuple[str, ...]
    """The container's own, for /etc/hosts."""
    resolver: bool
    """Whether /etc/resolv.conf names 127.0.0.11."""
    host_gateways: tuple[str, ...]
    """What `--add-host NAME:host-gateway` means."""
    hosts: tuple[tuple[str, str], ...] = ()
    """(address, names) of legacy links."""
    environment: tuple[str, ...] = ()
    """Variables of legacy links."""
    dns: tuple[str, ...] = ()
    """Servers, search domains and options of the engine's settings, for who says nothing."""
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()

    def with_defaults(self, host: Mapping[str, Any]) -> dict[str, Any]:
        """HostConfig with the engine's settings where it says nothing about name servers."""
        result = dict(host)
        for key, default in (
            ("Dns", self.dns),
            ("DnsSearch", self.dns_search),
            ("DnsOptions", self.dns_options),
        ):
            if not result.get(key) and default:
                result[key] = list(default)
        return result
