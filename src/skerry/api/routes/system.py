"""/_ping, /version, /info, /events, /system/df."""

import asyncio
import time
from typing import Any

from aiohttp import web

from skerry.api import container_shapes, image_shapes, versions
from skerry.api.call import Call, line
from skerry.api.formats import parse_time, rfc3339
from skerry.api.router import Route
from skerry.api.routes.build import entry_shape
from skerry.api.routes.volumes import volume_shape
from skerry.base.errors import InvalidInput
from skerry.engine import log_options, network_record
from skerry.engine.events import Event

Json = dict[str, Any]


async def ping(call: Call) -> web.StreamResponse:
    """GET and HEAD /_ping."""
    headers = {
        "Builder-Version": "1",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    text = "" if call.request.method == "HEAD" else "OK"
    return web.Response(text=text, headers=headers)


async def version(call: Call) -> web.StreamResponse:
    """GET /version."""
    facts = call.engine.system.version()
    api = str(versions.NEWEST)
    oldest = str(versions.OLDEST)
    return call.json(
        {
            "Platform": {"Name": "skerry"},
            "Components": [
                {
                    "Name": "Engine",
                    "Version": facts["version"],
                    "Details": {
                        "ApiVersion": api,
                        "MinAPIVersion": oldest,
                        "Arch": facts["arch"],
                        "Os": facts["os"],
                        "KernelVersion": facts["kernel"],
                        "Experimental": "false",
                        "Python": facts["python"],
                    },
                }
            ],
            "Version": facts["version"],
            "ApiVersion": api,
            "MinAPIVersion": oldest,
            "GitCommit": "",
            "GoVersion": "",
            "Os": facts["os"],
            "Arch": facts["arch"],
            "KernelVersion": facts["kernel"],
            "BuildTime": "",
        }
    )


async def info(call: Call) -> web.StreamResponse:
    """GET /info."""
    found = call.engine.system.info()
    counts = found["counts"]
    limits = found["limits"]
    drivers = network_record.DRIVERS if call.engine.networks.fabric else ()
    possible = {
        "MemoryLimit": limits.memory,
        "SwapLimit": limits.swap,
        "KernelMemoryTCP": limits.kernel_memory_tcp,
        "OomKillDisable": limits.oom_kill_disable,
        "CpuCfsPeriod": limits.cpu_cfs_period,
        "CpuCfsQuota": limits.cpu_cfs_quota,
        "CPUShares": limits.cpu_shares,
        "CPUSet": limits.cpu_set,
        "PidsLimit": limits.pids,
    }
    return call.json(
        {
            "ID": found["id"],
            "Containers": counts["all"],
            "ContainersRunning": counts["running"],
            "ContainersPaused": counts["paused"],
            "ContainersStopped": counts["stopped"],
            "Images": counts["images"],
            "Driver": "overlay2",
            "DriverStatus": [["Backing", "overlayfs"], ["Image layout", "OCI"]],
            "Plugins": {
                "Volume": ["local"],
                "Network": sorted((*drivers, "host", "null")),
                "Authorization": None,
                "Log": list(log_options.DRIVERS),
            },
            **possible,
            "IPv4Forwarding": True,
            "Debug": False,
            "NFd": 0,
            "NGoroutines": 0,
            "SystemTime": rfc3339(time.time_ns()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": str(found["cgroup_version"]),
            "NEventsListener": 0,
            "KernelVersion": call.engine.system.version()["kernel"],
            "OperatingSystem": found["operating_system"],
            "OSVersion": found["os_version"],
            "OSType": "linux",
            "Architecture": found["machine"],
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": versions.registry_info(call.version)
            | {
                "InsecureRegistryCIDRs": [],
                "IndexConfigs": {},
                "Mirrors": [],
            },
            "NCPU": found["cpus"],
            "MemTotal": found["memory"],
            "GenericResources": None,
            "DockerRootDir": found["root"],
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": found["name"],
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": call.engine.system.version()["version"],
            "Runtimes": {
                "skerry": {"path": "skerry-runtime"},
                "skerry-vm": {"path": "skerry"},
            },
            "DefaultRuntime": "skerry",
            "SpareMachines": [
                {
                    "ID": each["id"],
                    "Memory": each["memory"],
                    "NCPU": each["cpus"],
                    "Ready": each["ready"],
                    "Pid": each["pid"],
                    "OwnMemory": each["own_memory"],
                    "Shares": each["shares"],
                }
                for each in call.engine.spares()
            ],
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "skerry-init",
            **dict.fromkeys(
                ("ContainerdCommit", "RuncCommit", "InitCommit"), versions.commit(call.version)
            ),
            **versions.info(call.version),
            "SecurityOptions": ["name=seccomp,profile=builtin"]
            + (["name=cgroupns"] if found["cgroup_version"] == 2 else []),
            "CDISpecDirs": [],
            "Warnings": None,
        }
    )


def event_shape(event: Event) -> Json:
    """An event as Docker sends it; the first three fields are for old clients."""
    result: Json = {
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time // 10**9,
        "timeNano": event.time,
    }
    if event.kind == "container":
        old = {"status": event.action, "id": event.id, "from": event.attributes.get("image", "")}
        return old | result
    if event.kind == "image":
        return {"status": event.action, "id": event.id} | result
    return result


async def events(call: Call) -> web.StreamResponse:
    """GET /events."""
    filters = call.filters()
    since = parse_time(call.text("since")) if call.text("since") else None
    until = parse_time(call.text("until")) if call.text("until") else None
    if since is not None and until is not None and since > until:
        raise InvalidInput(
            f"`since` time ({call.text('since'):.40}) cannot be after `until` time "
            f"({call.text('until'):.40})"
        )
    response = await call.stream()
    async for event in call.engine.events.listen(filters, since, until):
        await response.write(line(event_shape(event)))
    return response


async def disk_usage(call: Call) -> web.StreamResponse:
    """GET /system/df."""
    kinds = {"container", "image", "volume", "build-cache"}
    wanted = set(call.query.getall("type", [])) or kinds
    if unknown := wanted - kinds:
        raise InvalidInput(f"unknown object type: {min(unknown):.60}")
    usage = await call.engine.accounts.usage()
    images_service = call.engine.images
    result: Json = {"LayersSize": usage.images_total, "LayersUsedSize": usage.images_used}
    if "image" in wanted:
        result["Images"] = [
            image_shapes.summary(each, call.version, containers=images_service.users(each))
            | {"Size": taken.bytes, "SharedSize": taken.shared}
            for each in images_service.select({}, all=True)
            if (taken := usage.images.get(each.id))
        ]
    if "container" in wanted:
        sizes = {each.id: each.size for each in images_service.select({}, all=True)}
        result["Containers"] = [
            container_shapes.summary(
                each,
                call.engine.networks,
                call.engine.endpoints,
                size=usage.containers.get(each.id, 0),
                root_size=sizes.get(each.record.image_id, 0),
            )
            for each in call.engine.containers.select({}, all=True)
        ]
    if "volume" in wanted:
        result["Volumes"] = [
            volume_shape(each.volume, size=each.bytes, users=each.users)
            for each in usage.volumes
            # Docker leaves out those with options: what they have may lie elsewhere.
            if each.bytes >= 0 and not each.volume.options
        ]
    if "build-cache" in wanted:
        cache = await asyncio.to_thread(call.builder.inventory.entries)
        result["BuildCache"] = [entry_shape(each, call.version) for each in cache]
        if versions.tells_builder_size(call.version):
            result["BuilderSize"] = sum(each.size for each in cache if not each.shared)
    return call.json(result)


ROUTES = [
    Route("GET", "/_ping", ping, reads=True),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version, reads=True),
    Route("GET", "/info", info, reads=True),
    Route("GET", "/events", events, streams=True),
    Route("GET", "/system/df", disk_usage),
]
