"""What a create refuses, rather than leave to the start: contradictions, and what is missing."""

from collections.abc import Mapping
from typing import Any

from skerry.base.errors import InvalidInput
from skerry.engine import etc, facts, log_options, resources, restart, security, spec, walls
from skerry.engine.signals import parse_signal

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
    if host.get("StorageOpt"):
        raise InvalidInput(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
        )
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
