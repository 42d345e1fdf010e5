"""A run for practice: what a machine's first container would pay for is paid before there is one.

Under TCG each piece of guest code is translated when it runs for the first time, and the guest's
kernel and agent set up much when they first need it. So a machine runs a small container on disks
that are thrown away, and is then as it was before: nothing mounted, no addresses, no hostname.

`spec_for` keeps of a real container's configuration only what says which of the guest's code runs;
nothing that its user wrote passes into another's machine. Pure, but for `rehearse`.
"""

from typing import Any

from skerry.base.errors import SystemFault
from skerry.machine import qemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.machine.template import Talk

PROGRAM = "/bin/sh"
_SCRIPT = "echo up >/made; read word </made; echo $word"
_NAME = "rehearsal"
_KERNELS = ("/proc", "/dev", "/sys")
"""Below these the engine itself mounts the kernel's file systems."""
_TYPES = frozenset({"proc", "sysfs", "tmpfs", "devpts", "cgroup", "mqueue"})
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "1\t0"}
"""The kernel's own values, so that nothing has changed."""
_PATHS = ("maskedPaths", "readonlyPaths", "seccomp")
FILES = ("hosts", "hostname", "resolv.conf")
CARD = {
    "slot": qemu.SLOT_MAC,
    "name": "eth0",
    "mac": "02:00:00:00:00:01",
    "mtu": 1500,
    "addresses": ["192.0.2.2/24"],
    "gateway": "192.0.2.1",
}
"""Addresses of RFC 5737; the card leads nowhere."""
_STREAMS = {"stdout": 1, "stderr": 2}
_SECONDS = 120.0


def spec_for(spec: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a rehearsal for containers as this one."""
    process, linux = spec.get("process", {}), spec.get("linux", {})
    mounts = [
        {key: mount[key] for key in ("destination", "type", "source", "options") if key in mount}
        for mount in spec.get("mounts", ())
        if mount.get("type") in _TYPES and str(mount.get("destination", "")).startswith(_KERNELS)
    ]
    mounts += [
        {
            "destination": f"/etc/{name}",
            "type": "bind",
            "source": name,
            "options": ["rbind", "rprivate"],
        }
        for name in FILES
    ]
    spaces = [
        {"type": space["type"]}
        for space in linux.get("namespaces", ())
        if space.get("type") != "user"
    ]
    named = {"hostname": _NAME} if {"type": "uts"} in spaces else {}
    return {
        "ociVersion": str(spec.get("ociVersion", "1.0.2")),
        **named,
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": [PROGRAM, "-c", _SCRIPT],
            "env": ["PATH=/usr/bin:/bin"],
            "capabilities": process.get("capabilities", {}),
        },
        "mounts": mounts,
        "linux": {
            **{key: linux[key] for key in _PATHS if key in linux},
            "namespaces": spaces,
            "sysctl": dict(_SYSCTLS),
            "resources": {
                "devices": list((linux.get("resources") or {}).get("devices", ())),
                "memory": {"limit": 64 << 20},
                "pids": {"limit": 64},
            },
        },
    }


def plan_for(spec: dict[str, Any]) -> bytes:
    """What the guest's agent is given to run; errors as `planning.guest_for`."""
    from skerry.machine import planning  # Whoever rehearses has no use for it.

    made = planning.guest_for(
        spec_for(spec), container_id=_NAME, state_dir="/nowhere", has_layers=True, host_cpus=1
    )
    return made.plan.to_wire()


def rehearse(talk: "Talk", plan: bytes, identity: dict[str, Any], *, shares: bool = False) -> None:
    """Run the plan in a machine whose disks are a rehearsal's, and leave it as it was; SystemFault
    when it does not run to its end. `shares`: folders are plugged in, for the caller to unplug."""
    talk.swallow(*_STREAMS.values())
    talk.ask(
        "start",
        seconds=_SECONDS,
        body=plan,
        id="main",
        layers=qemu.LAYERS_SERIAL,
        writable=qemu.WRITABLE_SERIAL,
        identity=identity,
        files=dict.fromkeys(FILES, ""),
        cards=[CARD],
        shares=shares,
        streams=_STREAMS,
        renew={},
    )
    end = talk.next(_SECONDS).head
    if end.get("event") != "exit" or end.get("code") or end.get("signal"):
        raise SystemFault(f"the rehearsal of a machine's start went wrong: {end!r:.200}")
    talk.ask("rest", seconds=_SECONDS, cards=[CARD], shares=shares)
