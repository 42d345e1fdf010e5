"""Configuration networks: what `--config-only` saves and `--config-from` takes. Pure.

A configuration network has subnets, options and labels, but nothing in the kernel, and no container
is ever in it. Networks that are made from it have these, and say nothing of the kind themselves.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from skerry.base.errors import Forbidden, NotFound
from skerry.engine.network_record import Network, PoolConfig

_OPERATORS = ("Ingress", "Internal", "Attachable", "Scope")
_SPECIFIC = ("EnableIPv6", "Labels", "Options")


def source_of(body: Mapping[str, Any]) -> str:
    """The name of the configuration network that a request is made from, or nothing."""
    return str((body.get("ConfigFrom") or {}).get("Network", ""))


def check(body: Mapping[str, Any]) -> None:
    """Forbidden, in Docker's words, for what a configuration network cannot be."""
    if body.get("ConfigOnly"):
        if any(body.get(each) for each in _OPERATORS):
            raise Forbidden(
                "configuration network can only contain network specific fields. Network operator "
                "fields like [ ingress | internal | attachable | scope ] are not supported."
            )
        if source_of(body):
            raise Forbidden(
                "a configuration network cannot depend on another configuration network"
            )
    elif source_of(body):
        ipam = body.get("IPAM") or {}
        if any(body.get(each) for each in _SPECIFIC) or ipam.get("Options") or ipam.get("Config"):
            raise Forbidden(
                "user specified configurations are not supported if the network depends on a "
                "configuration network"
            )


def filled(body: Mapping[str, Any], known: Iterable[Network]) -> dict[str, Any]:
    """A request with what its configuration network says, if it names one. NotFound when there is
    none of that name."""
    name = source_of(body)
    if not name:
        return dict(body)
    for each in known:
        if each.config_only and each.name == name:
            return {
                **body,
                "EnableIPv4": each.ipv4,
                "EnableIPv6": each.ipv6,
                "Labels": each.labels,
                "Options": each.options,
                "IPAM": {"Options": each.ipam_options, "Config": [_line(p) for p in each.pools]},
            }
    raise NotFound(f'configuration network "{name:.70}" not found')


def _line(pool: PoolConfig) -> dict[str, Any]:
    return {
        "Subnet": pool.subnet,
        "IPRange": pool.ip_range,
        "Gateway": pool.gateway,
        "AuxiliaryAddresses": pool.aux,
    }
