"""What a create refuses, rather than leave to the start: contradictions, and what is missing."""

from collections.abc import Mapping
from typing import Any

from skerry.base.errors import InvalidInput
from skerry.engine import (
    etc,
    facts,
    host_facts,
    log_options,
    resources,
    restart,
    security,
    spec,
    storage_options,
    walls,
)
from skerry.engine.signals import parse_signal
from skerry.kernel.cgroups import Layout

SHORTEST = 1_000_000
"""Nanoseconds of the shortest pause between two checks of health."""


def check(
    config: Mapping[str, Any],
    host: Mapping[str, Any],
    known: facts.Host,
) -> None:
    """Refuse now what a start would refuse later."""
    resources.check(host)
    policy = restart.parse(host.get("RestartPolicy"))
    if host.get("AutoRemove") and policy.name != "no":
        raise InvalidInput("can't create 'AutoRemove' container with restart policy")
    security.check_devices(host.get("DeviceRequests") or ())
    security.parse_options(host.get("SecurityOpt") or ())
    security.capabilities(
        host.get("CapAdd") or (), host.get("CapDrop") or (), known.known_capabilities
    )
    known.devices(host)
    log_options.log_options(host, "")
    etc.extra_hosts(host.get("ExtraHosts") or ())
    etc.resolv_conf("", host, shares_host=False)
    if config.get("StopSignal"):
        parse_signal(config["StopSignal"])
    # Never run with a thinner wall than was asked for.
    walls.wall_of(host)
    storage_options.check(host)
    _check_health(config.get("Healthcheck") or {})
    _check_modes(config, host)


def _check_health(check: Mapping[str, Any]) -> None:
    for key in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        if 0 < check.get(key, 0) < SHORTEST:
            raise InvalidInput(f"{key} in Healthcheck cannot be less than 1ms")


def _check_modes(config: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    network = host.get("NetworkMode", "")
    if network.startswith("container:") and config.get("Hostname"):
        raise InvalidInput("conflicting options: hostname and the network mode")
    for key, what in (("Dns", "dns"), ("ExtraHosts", "custom host-to-IP mapping")):
        if network.startswith("container:") and host.get(key):
            raise InvalidInput(f"conflicting options: {what} and the network mode")
    for key in ("IpcMode", "PidMode"):
        mode = host.get(key, "")
        known = ("", "host", "private", "shareable", "none") if key == "IpcMode" else ("", "host")
        if mode not in known and not mode.startswith("container:"):
            raise InvalidInput(f"invalid {key[:3].upper()} mode: {mode}")
    directory = config.get("WorkingDir", "")
    if directory and not directory.startswith("/"):
        raise InvalidInput(
            f"the working directory '{directory}' is invalid, it needs to be an absolute path"
        )
    shared = spec.Namespaces(
        network="host" if network == "host" else "",
        ipc="host" if host.get("IpcMode") == "host" else "",
        uts="host" if host.get("UTSMode") == "host" else "",
    )
    spec.check_sysctls(host, shared)


_DISCARDED = {
    "MemorySwappiness": "memory swappiness capabilities or the cgroup is not mounted. "
    "Memory swappiness discarded.",
    "OomKillDisable": "OomKillDisable. OomKillDisable discarded.",
    "BlkioWeight": "Block I/O weight or the cgroup is not mounted. Weight discarded.",
    "BlkioWeightDevice": "Block I/O weight_device or the cgroup is not mounted. "
    "Weight-device discarded.",
}
"""What is no limit, so that a container without it is as safe; in Docker's words."""
_UNSET: tuple[object, ...] = (None, -1, [])
"""Zero is a swappiness; the other fields come without their zero values."""


def discard(host: dict[str, Any], layout: Layout) -> list[str]:
    """Take out of `host` what these control groups cannot do; returns the warnings."""
    asked = [field for field in _DISCARDED if host.get(field) not in _UNSET]
    if not asked:
        return []
    can = host_facts.limits(layout)
    v1 = layout.version != 2 and walls.wall_of(host) != walls.VM
    possible = {
        "MemorySwappiness": v1,
        "OomKillDisable": can.oom_kill_disable and v1,
        "BlkioWeight": can.blkio_weight,
        "BlkioWeightDevice": can.blkio_weight,
    }
    lost = [field for field in asked if not possible[field]]
    for field in lost:
        del host[field]
    return [f"Your kernel does not support {_DISCARDED[field]}" for field in lost]


def warnings(host: Mapping[str, Any]) -> list[str]:
    """What Docker warns of and ignores."""
    result = []
    if host.get("KernelMemory") or host.get("KernelMemoryTCP"):
        result.append("Specifying a kernel memory limit is deprecated and is ignored.")
    if host.get("OomKillDisable") and not host.get("Memory"):
        result.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result "
            "in the system running out of resources."
        )
    return result
