"""Containers in the shapes of Docker's API: a line of the list, the whole of inspect."""

import time
from typing import Any

from skerry.api import image_shapes, network_shapes, versions
from skerry.api.formats import human_duration, rfc3339
from skerry.api.versions import Version
from skerry.engine import log_options
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.filters import health_of
from skerry.engine.networks import Networks
from skerry.engine.record import MountPoint, Record
from skerry.engine.spec import MASKED_PATHS, READONLY_PATHS, SHM_SIZE

Json = dict[str, Any]

CONFIG_DEFAULTS: Json = {**image_shapes.CONFIG_DEFAULTS, "Labels": {}}

HOST_DEFAULTS: Json = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "default",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "host",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": SHM_SIZE,
    "Runtime": "skerry",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": [],
    "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [],
    "BlkioDeviceWriteIOps": [],
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": [],
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": list(MASKED_PATHS),
    "ReadonlyPaths": list(READONLY_PATHS),
}


def status_word(container: Container) -> str:
    """Docker's word for the state."""
    return "removing" if container.removing else container.state.status


def status_text(container: Container, now: float | None = None) -> str:
    """The STATUS column of `docker ps`."""
    now = time.time() if now is None else now
    state = container.state
    if container.removing:
        return "Removal In Progress"
    if container.running:
        up = f"Up {human_duration(now - state.started_at / 1e9)}"
        if state.status == "paused":
            return f"{up} (Paused)"
        health = health_of(container)
        if health == "none":
            return up
        return f"{up} (health: starting)" if health == "starting" else f"{up} ({health})"
    ago = human_duration(now - state.finished_at / 1e9) + " ago"
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {ago}"
    if state.status == "created":
        return "Created"
    return f"Exited ({state.exit_code}) {ago}" if state.finished_at else "Created"


def network_mode(record: Record) -> str:
    """The mode as inspect shows it."""
    return record.host.get("NetworkMode") or "bridge"


def mount(point: MountPoint) -> Json:
    """A line of `Mounts`."""
    result: Json = {"Type": point.kind}
    if point.kind in ("volume", "image"):
        result |= {"Name": point.name}
    result |= {
        "Source": point.source,
        "Destination": point.target,
    }
    if point.kind == "volume":
        result |= {"Driver": "local"}
    result |= {
        "Mode": point.mode,
        "RW": not point.read_only,
        "Propagation": (point.propagation or "rprivate") if point.kind == "bind" else "",
    }
    return result


def mounts(record: Record) -> list[Json]:
    """`Mounts`; those of --tmpfs are only in HostConfig, as with Docker."""
    plain = record.host.get("Tmpfs") or {}
    return [mount(point) for point in record.mounts if point.target not in plain]


def command_of(record: Record) -> list[str]:
    """Path and arguments."""
    return [*(record.config.get("Entrypoint") or ()), *(record.config.get("Cmd") or ())]


def summary(
    container: Container,
    networks: Networks,
    endpoints: Endpoints,
    *,
    size: int | None = None,
    root_size: int = 0,
) -> Json:
    """A line of `GET /containers/json`."""
    record = container.record
    sandbox = endpoints.sandbox(container.id)
    command = " ".join(_quoted(word) for word in command_of(record))
    result = {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image or record.image_id,
        "ImageID": record.image_id,
        "Command": command,
        "Created": record.created_at // 10**9,
        "Ports": network_shapes.port_list(record, sandbox, running=container.running),
        "Labels": record.config.get("Labels") or {},
        "State": status_word(container),
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": network_mode(record)},
        "NetworkSettings": {
            "Networks": network_shapes.listed_endpoints(
                record, networks, sandbox, running=container.running
            )
        },
        "Mounts": mounts(record),
    }
    if size is not None:
        result["SizeRw"] = size
        result["SizeRootFs"] = size + root_size
    return result


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def state(container: Container) -> Json:
    """`State`."""
    saved = container.state
    word = status_word(container)
    result: Json = {
        "Status": word,
        "Running": container.running or word == "restarting",
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": saved.oom_killed,
        "Dead": False,
        "Pid": saved.pid,
        "ExitCode": saved.exit_code,
        "Error": saved.error,
        "StartedAt": rfc3339(saved.started_at),
        "FinishedAt": rfc3339(saved.finished_at),
    }
    health = container.health
    if health is not None:
        result["Health"] = {
            "Status": health.status,
            "FailingStreak": health.failing,
            "Log": [
                {
                    "Start": rfc3339(each.start),
                    "End": rfc3339(each.end),
                    "ExitCode": each.code,
                    "Output": each.output,
                }
                for each in health.log
            ],
        }
    return result


def config(record: Record) -> Json:
    """`Config`, complete."""
    result = {**CONFIG_DEFAULTS, **record.config}
    result["Hostname"] = result["Hostname"] or record.id[:12]
    result["Image"] = record.image
    return result


def _log_path(record: Record, state_dir: str) -> str:
    """Told of json-file alone: the others' files are nobody else's to read."""
    if log_options.driver_of(record.host) != log_options.JSON_FILE:
        return ""
    return f"{state_dir}/{log_options.file_name(record.id, record.host)}"


def host_config(record: Record, *, cgroup_version: int) -> Json:
    """`HostConfig`, complete."""
    host = record.host
    result = {**HOST_DEFAULTS, **host}
    if not host.get("CgroupnsMode"):
        result["CgroupnsMode"] = "private" if cgroup_version == 2 else "host"
    result["NetworkMode"] = network_mode(record)
    result["LogConfig"] = {
        "Type": log_options.driver_of(host),
        "Config": (host.get("LogConfig") or {}).get("Config") or {},
    }
    if host.get("MemorySwappiness") == -1:
        result["MemorySwappiness"] = None
    policy = host.get("RestartPolicy") or {}
    result["RestartPolicy"] = {
        "Name": policy.get("Name") or "no",
        "MaximumRetryCount": policy.get("MaximumRetryCount", 0),
    }
    if host.get("Memory") and not host.get("MemorySwap"):
        result["MemorySwap"] = host["Memory"] * 2
    if host.get("Privileged"):
        result["MaskedPaths"] = result["ReadonlyPaths"] = None
    return result


def inspect(
    container: Container,
    networks: Networks,
    endpoints: Endpoints,
    *,
    state_dir: str,
    platform: str,
    cgroup_version: int,
    version: Version = versions.NEWEST,
    sizes: tuple[int, int] | None = None,
) -> Json:
    """`GET /containers/{id}/json`. `sizes` are the own layer's and the whole root's bytes."""
    record = container.record
    command = command_of(record)
    result: Json = {
        "Id": record.id,
        "Created": rfc3339(record.created_at),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": state(container),
        "Image": record.image_id,
        "ResolvConfPath": f"{state_dir}/resolv.conf",
        "HostnamePath": f"{state_dir}/hostname",
        "HostsPath": f"{state_dir}/hosts",
        "LogPath": _log_path(record, state_dir),
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(container.execs) or None,
        "HostConfig": host_config(record, cgroup_version=cgroup_version),
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "Mounts": mounts(record),
        "Config": config(record),
        "NetworkSettings": network_shapes.settings(
            container, networks, endpoints.sandbox(container.id)
        ),
    }
    if versions.knows_kernel_memory(version):
        result["HostConfig"] = {"KernelMemory": 0, "KernelMemoryTCP": 0} | result["HostConfig"]
    if versions.aliases_have_the_id(version):
        for each in result["NetworkSettings"]["Networks"].values():
            if each["DNSNames"]:
                each["Aliases"] = [*(each["Aliases"] or ()), record.id[:12]]
    if sizes is not None:
        result["SizeRw"], result["SizeRootFs"] = sizes
    return result
