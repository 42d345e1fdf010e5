"""From the options of `run` and `create` to the API's ContainerCreate body.

Options that carry their value over unchanged stand in tables; what needs thought has a function.
"""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.cli import mounts
from skerry.cli.networks import networking
from skerry.cli.values import (
    environment,
    key_values,
    parse_cpus,
    parse_duration,
    parse_size,
    read_lines,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skerry.cli.options import Parsed

_CONFIG_TEXTS = {
    "hostname": "Hostname",
    "domainname": "Domainname",
    "user": "User",
    "workdir": "WorkingDir",
    "stop-signal": "StopSignal",
    "mac-address": "MacAddress",
}
_HOST_TEXTS = {
    "ipc": "IpcMode",
    "pid": "PidMode",
    "uts": "UTSMode",
    "userns": "UsernsMode",
    "cgroupns": "CgroupnsMode",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "cgroup-parent": "CgroupParent",
    "runtime": "Runtime",
    "isolation": "Isolation",
    "cidfile": "ContainerIDFile",
    "volume-driver": "VolumeDriver",
}
_HOST_NUMBERS = {
    "cpu-shares": "CpuShares",
    "cpu-quota": "CpuQuota",
    "cpu-period": "CpuPeriod",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "pids-limit": "PidsLimit",
    "blkio-weight": "BlkioWeight",
    "oom-score-adj": "OomScoreAdj",
    "memory-swappiness": "MemorySwappiness",
}
_HOST_SIZES = {
    "memory": "Memory",
    "memory-swap": "MemorySwap",
    "memory-reservation": "MemoryReservation",
    "kernel-memory": "KernelMemory",
    "shm-size": "ShmSize",
}
_HOST_LISTS = {
    "group-add": "GroupAdd",
    "add-host": "ExtraHosts",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "volumes-from": "VolumesFrom",
    "device-cgroup-rule": "DeviceCgroupRules",
    "link": "Links",
}
_HOST_SWITCHES = {
    "rm": "AutoRemove",
    "privileged": "Privileged",
    "read-only": "ReadonlyRootfs",
    "init": "Init",
    "oom-kill-disable": "OomKillDisable",
    "publish-all": "PublishAllPorts",
}
_STREAMS = ("stdin", "stdout", "stderr")


def create_body(parsed: Parsed, attached: tuple[bool, bool, bool]) -> dict[str, Any]:
    """The request for `skerry run|create`; `attached` says which of the three streams are joined.

    InvalidInput for values that cannot be meant. Only what was given is sent: defaults are the
    engine's.
    """
    body = _config(parsed, attached)
    body["HostConfig"] = _host_config(parsed)
    mode, endpoints = networking(parsed)
    if mode:
        body["HostConfig"]["NetworkMode"] = mode
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def _config(parsed: Parsed, attached: tuple[bool, bool, bool]) -> dict[str, Any]:
    stdin, stdout, stderr = attached
    config: dict[str, Any] = {
        "Image": parsed.arguments[0],
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "Tty": parsed.on("tty"),
        "OpenStdin": parsed.on("interactive"),
        "StdinOnce": stdin and parsed.on("interactive"),
    }
    if len(parsed.arguments) > 1:
        config["Cmd"] = parsed.arguments[1:]
    for name, key in _CONFIG_TEXTS.items():
        if parsed.text(name):
            config[key] = parsed.text(name)
    if "entrypoint" in parsed.given:
        # An empty --entrypoint resets the image's; the API takes [""] for that.
        config["Entrypoint"] = [parsed.text("entrypoint")]
    variables = environment(parsed.many("env"), parsed.many("env-file"))
    if variables:
        config["Env"] = variables
    labels = [line for path in parsed.many("label-file") for line in read_lines(path, "label file")]
    labels += parsed.many("label")
    if labels:
        config["Labels"] = key_values(labels, "label")
    if "stop-timeout" in parsed.given:
        config["StopTimeout"] = parsed.number("stop-timeout")
    exposed = _exposed(parsed)
    if exposed:
        config["ExposedPorts"] = exposed
    anonymous = [item for item in parsed.many("volume") if ":" not in item]
    if anonymous:
        config["Volumes"] = {path: {} for path in anonymous}
    health = _health(parsed)
    if health:
        config["Healthcheck"] = health
    return config


def _exposed(parsed: Parsed) -> dict[str, dict[str, str]]:
    ports: dict[str, dict[str, str]] = {
        port: {} for port in mounts.parse_ports(parsed.many("publish"))
    }
    for item in parsed.many("expose"):
        numbers, _, protocol = item.partition("/")
        for port in mounts.parse_port_range(numbers, item):
            ports[f"{port}/{protocol or 'tcp'}"] = {}
    return ports


def _health(parsed: Parsed) -> dict[str, Any]:
    durations = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
    }
    health: dict[str, Any] = {
        key: parse_duration(parsed.text(name), f"--{name}")
        for name, key in durations.items()
        if name in parsed.given
    }
    if "health-retries" in parsed.given:
        health["Retries"] = parsed.number("health-retries")
    if "health-cmd" in parsed.given:
        health["Test"] = ["CMD-SHELL", parsed.text("health-cmd")]
    if parsed.on("no-healthcheck"):
        if health:
            raise InvalidInput("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if any(isinstance(value, int) and value < 0 for value in health.values()):
        raise InvalidInput("--health-* options cannot be negative")
    return health


def _host_config(parsed: Parsed) -> dict[str, Any]:
    host: dict[str, Any] = {}
    for name, key in _HOST_TEXTS.items():
        if parsed.text(name):
            host[key] = parsed.text(name)
    for name, key in _HOST_NUMBERS.items():
        if name in parsed.given:
            host[key] = parsed.number(name)
    for name, key in _HOST_SIZES.items():
        if name in parsed.given:
            host[key] = parse_size(parsed.text(name), f"--{name}")
    for name, key in _HOST_LISTS.items():
        if parsed.many(name):
            host[key] = parsed.many(name)
    for name, key in _HOST_SWITCHES.items():
        if name in parsed.given:
            host[key] = parsed.on(name)
    if parsed.on("rm") and parsed.text("restart", "no") not in ("no", ""):
        raise InvalidInput("conflicting options: cannot specify both --restart and --rm")
    _host_views(parsed, host)
    _host_limits(parsed, host)
    _host_policies(parsed, host)
    return host


def _host_views(parsed: Parsed, host: dict[str, Any]) -> None:
    """Files and the network."""
    binds = [mounts.parse_volume(item) for item in parsed.many("volume") if ":" in item]
    if binds:
        host["Binds"] = binds
    if parsed.many("mount"):
        host["Mounts"] = [mounts.parse_mount(item) for item in parsed.many("mount")]
    if parsed.many("tmpfs"):
        host["Tmpfs"] = mounts.parse_tmpfs(parsed.many("tmpfs"))
    if parsed.many("publish"):
        host["PortBindings"] = mounts.parse_ports(parsed.many("publish"))


def _host_limits(parsed: Parsed, host: dict[str, Any]) -> None:
    """Devices and resources."""
    if "cpus" in parsed.given:
        host["NanoCpus"] = parse_cpus(parsed.text("cpus"))
    if parsed.many("device"):
        host["Devices"] = [mounts.parse_device(item) for item in parsed.many("device")]
    if parsed.many("ulimit"):
        host["Ulimits"] = [mounts.parse_ulimit(item) for item in parsed.many("ulimit")]
    for name, key, sizes in (
        ("device-read-bps", "BlkioDeviceReadBps", True),
        ("device-write-bps", "BlkioDeviceWriteBps", True),
        ("device-read-iops", "BlkioDeviceReadIOps", False),
        ("device-write-iops", "BlkioDeviceWriteIOps", False),
    ):
        if parsed.many(name):
            host[key] = [mounts.parse_throttle(item, sizes=sizes) for item in parsed.many(name)]
    if parsed.many("blkio-weight-device"):
        host["BlkioWeightDevice"] = [
            mounts.parse_weight(item) for item in parsed.many("blkio-weight-device")
        ]
    if parsed.text("gpus"):
        host["DeviceRequests"] = [_gpus(parsed.text("gpus"))]


def _host_policies(parsed: Parsed, host: dict[str, Any]) -> None:
    """Restarts, logs, security."""
    if parsed.text("restart"):
        host["RestartPolicy"] = parse_restart(parsed.text("restart"))
    if parsed.text("log-driver") or parsed.many("log-opt"):
        driver = parsed.text("log-driver")
        if driver == "none" and parsed.many("log-opt"):
            raise InvalidInput("--log-opt makes no sense with --log-driver none")
        host["LogConfig"] = {
            "Type": driver,
            "Config": key_values(parsed.many("log-opt"), "log option"),
        }
    dropped = capabilities(parsed.many("cap-drop"))
    added = [name for name in capabilities(parsed.many("cap-add")) if name not in dropped]
    if added:
        host["CapAdd"] = added
    if dropped:
        host["CapDrop"] = dropped
    for item in parsed.many("sysctl"):
        if "=" not in item:
            raise InvalidInput(f"sysctl {item!r} is not allowed", hint="write it as name=value")
    for name, key in (
        ("sysctl", "Sysctls"),
        ("storage-opt", "StorageOpt"),
        ("annotation", "Annotations"),
    ):
        if parsed.many(name):
            host[key] = key_values(parsed.many(name), name)
    if kernel := parsed.text("kernel"):
        from skerry.base.isolation import KERNEL_ANNOTATION

        notes = host.setdefault("Annotations", {})
        notes[KERNEL_ANNOTATION] = os.path.abspath(kernel)
    _security(parsed.many("security-opt"), host)


def capabilities(names: list[str]) -> list[str]:
    """With prefix and in capitals, sorted; ALL stands for every other."""
    full = {name.upper() for name in names}
    if "ALL" in full:
        return ["ALL"]
    return sorted(name if name.startswith("CAP_") else f"CAP_{name}" for name in full)


def _security(options: list[str], host: dict[str, Any]) -> None:
    """A seccomp profile is read here, by the user's rights, and sent as text."""
    sent = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals and ":" in option:
            name, equals, value = option.partition(":")
        if name == "systempaths" and value == "unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
            continue
        if not equals and name != "no-new-privileges":
            raise InvalidInput(f"invalid --security-opt: {option!r}")
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            value = _profile(value)
        sent.append(f"{name}={value}" if equals else name)
    if sent:
        host["SecurityOpt"] = sent


def _profile(path: str) -> str:
    from skerry.sdk import wire

    try:
        with open(path, "rb") as file:
            data = file.read(4 * 1024 * 1024)
    except OSError as error:
        raise InvalidInput(f"cannot read the seccomp profile {path}: {error.strerror}") from None
    try:
        return wire.dumps(wire.loads(data.decode()))
    except (InvalidInput, UnicodeDecodeError) as error:
        raise InvalidInput(f"the seccomp profile {path} is not JSON: {error}") from None


def parse_restart(text: str) -> dict[str, Any]:
    """`no`, `always`, `unless-stopped`, `on-failure[:N]` as the API's RestartPolicy."""
    name, colon, count = text.partition(":")
    if colon and not count.isdecimal():
        raise InvalidInput(f"invalid restart policy {text!r}: the retry count is not a number")
    return {"Name": name, "MaximumRetryCount": int(count or "0")}


def _gpus(text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Count": 1, "Capabilities": [["gpu"]]}
    for field in mounts.split_csv(text):
        name, equals, value = field.partition("=")
        if not equals:
            value, name = name, "count"
        if name == "count":
            if value != "all" and not value.isdecimal():
                raise InvalidInput(f"invalid --gpus: {text!r}")
            request["Count"] = -1 if value == "all" else int(value)
        elif name == "device":
            request["DeviceIDs"] = value.split(",")
            request["Count"] = 0
        elif name == "driver":
            request["Driver"] = value
        elif name == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        else:
            raise InvalidInput(f"unexpected key {name!r} in --gpus {text!r}")
    return request


def attached_streams(parsed: Parsed) -> tuple[bool, bool, bool]:
    """Which of stdin, stdout and stderr to join: --attach, else by -d and -i."""
    chosen = [item.lower() for item in parsed.many("attach")]
    for item in chosen:
        if item not in _STREAMS:
            raise InvalidInput(
                f"invalid --attach: {item!r}", hint="valid streams are stdin, stdout and stderr"
            )
    if parsed.on("detach"):
        if chosen:
            raise InvalidInput("conflicting options: cannot specify both --attach and --detach")
        return False, False, False
    if chosen:
        return "stdin" in chosen, "stdout" in chosen, "stderr" in chosen
    return parsed.on("interactive"), True, True
