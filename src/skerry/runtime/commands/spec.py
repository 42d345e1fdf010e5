"""`spec`: write a sample config.json to start from."""

import json
import os

from skerry.base.errors import Conflict, InvalidInput
from skerry.base.light import Any
from skerry.base.oci_runtime import OCI_VERSION
from skerry.runtime.arguments import SWITCH, VALUE, parse
from skerry.runtime.context import Context

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_GUARDED = ["nosuid", "noexec", "nodev"]
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def spec(context: Context, words: list[str]) -> int:
    """Write config.json into the bundle; Conflict when there is one."""
    given = parse(words, {"bundle": VALUE, "rootless": SWITCH}, {"b": "bundle"})
    if given.words:
        raise InvalidInput("spec takes no arguments")
    sample = example()
    if "rootless" in given.switches:
        make_rootless(sample, os.geteuid(), os.getegid())
    path = os.path.join(given.value("bundle") or ".", "config.json")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise Conflict(f"file {path} exists. Remove it first") from None
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(sample, file, indent="\t")
    return 0


def example() -> dict[str, Any]:
    """A configuration that runs a shell in `rootfs` with few rights."""
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "skerry",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _mounts() -> list[dict[str, Any]]:
    def tmpfs(destination: str, source: str, *options: str) -> dict[str, Any]:
        return {
            "destination": destination,
            "type": "tmpfs",
            "source": source,
            "options": ["nosuid", *options],
        }

    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        tmpfs("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        tmpfs("/dev/shm", "shm", "noexec", "nodev", "mode=1777", "size=65536k"),
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _GUARDED},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_GUARDED, "ro"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*_GUARDED, "relatime", "ro"],
        },
    ]


def make_rootless(sample: dict[str, Any], uid: int, gid: int) -> None:
    """Change a configuration so that a user without privileges can run it."""
    linux = sample["linux"]
    linux["namespaces"] = [
        *(n for n in linux["namespaces"] if n["type"] != "network"),
        {"type": "user"},
    ]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    linux.pop("resources", None)
    mounts = []
    for mount in sample["mounts"]:
        options = [o for o in mount.get("options", ()) if not o.startswith(("gid=", "uid="))]
        if mount["destination"] == "/sys":
            # sysfs belongs to the network namespace, which is the host's here.
            mount = {"destination": "/sys", "type": "none", "source": "/sys"}
            options = ["rbind", *_GUARDED, "ro"]
        elif mount["destination"] == "/sys/fs/cgroup":
            continue
        mounts.append({**mount, "options": options} if options else mount)
    sample["mounts"] = mounts
