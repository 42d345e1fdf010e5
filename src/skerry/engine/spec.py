"""Docker's `Config` and `HostConfig` as an OCI runtime specification. Pure: no root, no files.

Whatever has to be looked up on the host or in the image arrives in `Facts`. The result is plain
data that a test can compare and a person can read.

The default container: its own mount, pid, network, uts and ipc namespaces (and cgroup namespace on
cgroup v2), Docker's fourteen capabilities, Docker's seccomp policy, /proc and /sys masked and
protected, device access by list.
"""

import glob
from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput
from skerry.engine import mounts as mount_rules
from skerry.engine import resources, security
from skerry.engine.record import Record
from skerry.engine.users import User

SHM_SIZE = 64 << 20
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# How hot each processor was tells what others compute (Docker 28 masks it too).
_THERMAL = sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    *_THERMAL,
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    )
)


class Namespaces(NamedTuple):
    """Namespaces that differ from a private one: a path joins, `host` shares the host's."""

    network: str = ""
    ipc: str = ""
    pid: str = ""
    uts: str = ""
    cgroup: str = ""


class Facts(NamedTuple):
    """What had to be looked up."""

    user: User
    hostname: str
    files: Mapping[str, str]
    """Where /etc/hosts, /etc/hostname and /etc/resolv.conf lie on the host."""
    namespaces: Namespaces
    capabilities: tuple[str, ...]
    seccomp: dict[str, Any] | None
    nodes: list[dict[str, Any]]
    device_rules: list[dict[str, Any]]
    image_mounts: Mapping[str, tuple[str, ...]] = {}
    """Of images that are mounted: the layers' folders by image id, top-most first."""
    cgroup_path: str = ""
    root: str = "rootfs"
    shm: str = ""
    """The folder that is bound at /dev/shm; empty for one of the container's own."""
    environment: tuple[str, ...] = ()
    """Variables that links bring along; the container's own win."""


def environment(config: Mapping[str, Any], hostname: str, home: str) -> list[str]:
    """The process's variables: Docker's own, then the image's and the user's, last one counts.

    `NAME` without `=` takes the variable away.
    """
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": f"HOSTNAME={hostname}"}
    if config.get("Tty"):
        merged["TERM"] = "TERM=xterm"
    for entry in config.get("Env") or ():
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    merged.setdefault("HOME", f"HOME={home}")
    return list(merged.values())


def command(config: Mapping[str, Any]) -> list[str]:
    """The argument list: entry point, then command."""
    args = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not args:
        raise InvalidInput("no command specified")
    return args


def check_sysctls(host: Mapping[str, Any], namespaces: Namespaces) -> dict[str, str]:
    """The kernel settings that belong to a namespace of the container's own.

    InvalidInput for the others: they would change the host.
    """
    wanted = dict(host.get("Sysctls") or {})
    for name in wanted:
        if name.startswith("net."):
            shared = namespaces.network == "host"
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            shared = namespaces.ipc == "host"
        elif name in ("kernel.domainname", "kernel.hostname"):
            shared = namespaces.uts == "host"
        else:
            raise InvalidInput(f"invalid --sysctl '{name}': not a namespaced sysctl")
        if shared:
            raise InvalidInput(
                f"sysctl {name!r} is not allowed: the container shares that namespace with the host"
            )
    if not namespaces.network:
        # Docker's defaults: unprivileged programs may ping and bind low ports inside.
        wanted.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        wanted.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    return wanted


def namespace_list(namespaces: Namespaces) -> list[dict[str, str]]:
    """`linux.namespaces`."""
    result = [{"type": "mount"}]
    for kind, value in namespaces._asdict().items():
        if value == "host":
            continue
        result.append({"type": kind, "path": value} if value else {"type": kind})
    return result


def default_mounts(
    host: Mapping[str, Any], *, privileged: bool, shared_shm: str = ""
) -> list[dict[str, Any]]:
    """The kernel's file systems in every container."""
    guarded = ["nosuid", "noexec", "nodev"]
    access = [] if privileged else ["ro"]
    result = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": guarded},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": guarded + access},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": guarded + access,
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": guarded},
    ]
    if shared_shm:
        result.append(
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": shared_shm,
                "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev"],
            }
        )
    elif host.get("IpcMode") != "none":
        size = host.get("ShmSize") or SHM_SIZE
        result.append(
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*guarded, "mode=1777", f"size={size}"],
            }
        )
    return result


def all_mounts(record: Record, facts: Facts, *, privileged: bool) -> list[dict[str, Any]]:
    """Default mounts, the three files of /etc, then the user's; a user's mount wins its target."""
    user = [
        mount_rules.oci_mount(point, facts.image_mounts.get(point.source, ()))
        for point in record.mounts
    ]
    taken = {mount["destination"] for mount in user}
    access = "ro" if record.host.get("ReadonlyRootfs") else "rw"
    etc = [
        {
            "destination": target,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rprivate", access],
        }
        for target, source in facts.files.items()
    ]
    base = default_mounts(record.host, privileged=privileged, shared_shm=facts.shm)
    return [mount for mount in base + etc if mount["destination"] not in taken] + user


def process(record: Record, facts: Facts, options: security.Security) -> dict[str, Any]:
    """`process`: what runs, as whom."""
    config, host = record.config, record.host
    caps = list(facts.capabilities)
    result: dict[str, Any] = {
        "terminal": bool(config.get("Tty")),
        "user": {
            "uid": facts.user.uid,
            "gid": facts.user.gid,
            "additionalGids": list(facts.user.groups),
        },
        "args": command(config),
        "env": environment(
            {**config, "Env": [*facts.environment, *(config.get("Env") or ())]},
            facts.hostname,
            facts.user.home,
        ),
        "cwd": config.get("WorkingDir") or "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "noNewPrivileges": options.no_new_privileges,
        "oomScoreAdj": host.get("OomScoreAdj", 0),
    }
    if limits := resources.rlimits(host.get("Ulimits") or ()):
        result["rlimits"] = limits
    if options.apparmor:
        result["apparmorProfile"] = options.apparmor
    size = host.get("ConsoleSize") or [0, 0]
    if config.get("Tty") and any(size):
        result["consoleSize"] = {"height": size[0], "width": size[1]}
    return result


def build(record: Record, facts: Facts) -> dict[str, Any]:
    """The OCI runtime configuration (config.json) of a container."""
    host = record.host
    privileged = bool(host.get("Privileged"))
    options = security.parse_options(host.get("SecurityOpt") or (), privileged=privileged)
    limits = resources.linux_resources(host)
    limits["devices"] = facts.device_rules
    linux: dict[str, Any] = {
        "namespaces": namespace_list(facts.namespaces),
        "resources": limits,
        "cgroupsPath": facts.cgroup_path,
        "devices": facts.nodes,
        "sysctl": check_sysctls(host, facts.namespaces),
    }
    if options.system_paths:
        linux["maskedPaths"] = host.get("MaskedPaths", MASKED_PATHS)
        linux["readonlyPaths"] = host.get("ReadonlyPaths", READONLY_PATHS)
    if facts.seccomp is not None:
        linux["seccomp"] = facts.seccomp
    if _shared(record):
        linux["rootfsPropagation"] = _shared(record)
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process(record, facts, options),
        "root": {"path": facts.root, "readonly": bool(host.get("ReadonlyRootfs"))},
        "mounts": all_mounts(record, facts, privileged=privileged),
        "linux": linux,
    }
    if not facts.namespaces.uts:
        spec["hostname"] = facts.hostname
        if record.config.get("Domainname"):
            spec["domainname"] = record.config["Domainname"]
    if host.get("Annotations"):
        spec["annotations"] = host["Annotations"]
    return spec


def _shared(record: Record) -> str:
    """Propagation of the root that the mounts need: the strongest one that was asked for."""
    asked = {point.propagation for point in record.mounts}
    if asked & {"shared", "rshared"}:
        return "shared"
    return "rslave" if asked & {"slave", "rslave"} else ""


def exec_process(
    container: Mapping[str, Any],
    wanted: Mapping[str, Any],
    user: User | None,
    known: tuple[str, ...],
) -> dict[str, Any]:
    """The OCI `process` of an exec: the container's own, with what the exec changes.

    `container` is the container's `process` object, `wanted` the body of Docker's exec create,
    `known` every capability, for a privileged exec.
    """
    result = dict(container)
    result.pop("consoleSize", None)
    result["args"] = wanted.get("Cmd") or []
    if not result["args"]:
        raise InvalidInput("No exec command specified")
    result["terminal"] = bool(wanted.get("Tty"))
    if wanted.get("WorkingDir"):
        result["cwd"] = wanted["WorkingDir"]
    variables = {entry.partition("=")[0]: entry for entry in container["env"]}
    if wanted.get("Tty"):
        variables.setdefault("TERM", "TERM=xterm")
    if user is not None:
        result["user"] = {
            "uid": user.uid,
            "gid": user.gid,
            "additionalGids": list(user.groups),
        }
        variables["HOME"] = f"HOME={user.home}"
    for entry in wanted.get("Env") or ():
        name, equals, _ = entry.partition("=")
        if equals:
            variables[name] = entry
        else:
            variables.pop(name, None)
    result["env"] = list(variables.values())
    if wanted.get("Privileged"):
        result["capabilities"] = {
            "bounding": list(known),
            "effective": list(known),
            "permitted": list(known),
        }
    size = wanted.get("ConsoleSize") or [0, 0]
    if result["terminal"] and any(size):
        result["consoleSize"] = {"height": size[0], "width": size[1]}
    return result
