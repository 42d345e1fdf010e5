"""From an OCI configuration to a `Plan`: every decision about a container, made without privileges.

`launch` and `init` execute the plan and decide nothing.
"""

import os
import stat
from collections.abc import Sequence

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.isolation import Overlay
from skerry.base.oci_runtime import Device, HookSpec, Linux, Spec
from skerry.kernel import cgroups, namespaces
from skerry.kernel.cgroups import Layout
from skerry.kernel.mounts import MS_PRIVATE, MS_REC, MS_SLAVE
from skerry.runtime import mount_options
from skerry.runtime.process_plan import plan_process
from skerry.runtime.steps import DeviceStep, Hook, Join, MountStep, Plan, ProcessPlan

__all__ = [
    "DEFAULT_DEVICES",
    "DeviceStep",
    "Hook",
    "MountStep",
    "Plan",
    "ProcessPlan",
    "plan",
    "plan_process",
]

_READ_WRITE = 0o666
DEFAULT_DEVICES: tuple[DeviceStep, ...] = tuple(
    DeviceStep(f"/dev/{name}", stat.S_IFCHR | _READ_WRITE, major, minor, 0, 0)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
"""What config-linux.md, "Default Devices", asks for; /dev/console and /dev/ptmx are init's."""

_FILE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def plan(
    spec: Spec,
    *,
    bundle: str,
    container_id: str,
    layout: Layout,
    rootfs: Overlay | None = None,
    cgroup_path: str = "",
    pivot: bool = True,
    new_keyring: bool = True,
    preserve_fds: int = 0,
    seccomp_cache: str = "",
    systemd_cgroup: bool = False,
) -> Plan:
    """Decide everything about a container from its configuration.

    `rootfs` replaces `root.path`; `cgroup_path` replaces `linux.cgroupsPath`, which with
    `systemd_cgroup` has the form slice:prefix:name; `seccomp_cache` is a
    folder for compiled filters. Touches nothing but that folder. Raises InvalidInput for what
    cannot be meant and Unsupported for what this version cannot do.
    """
    linux: Linux = spec.get("linux", {})
    if linux.get("intelRdt"):
        raise Unsupported(
            "intelRdt is set, but Intel RDT is not supported",
            hint="remove linux.intelRdt from the configuration",
        )
    new, joins = _namespaces(linux)
    if not cgroup_path and layout.version:
        cgroup_path = cgroups.container_path(
            linux.get("cgroupsPath", ""), container_id, layout, systemd=systemd_cgroup
        )
    writes = cgroups.plan(cgroup_path, linux.get("resources"), layout) if cgroup_path else ()
    root = spec.get("root", {})
    path = "" if rootfs else os.path.normpath(os.path.join(bundle, root.get("path", "")))
    process = spec.get("process")
    return Plan(
        id=container_id,
        bundle=bundle,
        annotations=tuple(sorted(spec.get("annotations", {}).items())),
        new_namespaces=new,
        joins=joins,
        uid_map=mount_options.id_maps(linux.get("uidMappings", ())),
        gid_map=mount_options.id_maps(linux.get("gidMappings", ())),
        time_offsets=tuple(
            (clock, offset.get("secs", 0), offset.get("nanosecs", 0))
            for clock, offset in sorted(linux.get("timeOffsets", {}).items())
        ),
        cgroup_path=cgroup_path,
        cgroup_writes=writes,
        rootfs=path,
        overlay=rootfs,
        root_readonly=root.get("readonly", False),
        root_propagation=_propagation(linux),
        pivot=pivot,
        mounts=tuple(mount_options.step(mount, bundle) for mount in spec.get("mounts", ())),
        devices=_devices(spec),
        masked=tuple(linux.get("maskedPaths", ())),
        readonly=tuple(linux.get("readonlyPaths", ())),
        hostname=spec.get("hostname", ""),
        domainname=spec.get("domainname", ""),
        sysctls=tuple(
            (_sysctl_path(name), value) for name, value in sorted(linux.get("sysctl", {}).items())
        ),
        mount_label=linux.get("mountLabel", ""),
        hooks=plan_hooks(spec),
        process=None
        if process is None
        else plan_process(
            process,
            spec,
            new_keyring=new_keyring,
            preserve_fds=preserve_fds,
            seccomp_cache=seccomp_cache,
        ),
    )


def _namespaces(linux: Linux) -> tuple[int, tuple[Join, ...]]:
    new = 0
    paths: dict[int, str] = {}
    for namespace in linux.get("namespaces", ()):
        flag = namespaces.FLAGS[namespace["type"]]
        if namespace.get("path"):
            paths[flag] = namespace["path"]
        else:
            new |= flag
    # The user namespace first (it gives the right to the others), the mount namespace last (the
    # paths of the others are looked up before).
    return new, tuple(Join(flag, paths[flag]) for flag in namespaces.FILES if flag in paths)


def _propagation(linux: Linux) -> int:
    name = linux.get("rootfsPropagation", "")
    flags = mount_options.PROPAGATION.get(name, MS_SLAVE)
    # A private root would still have to let go of the host's mounts: as a slave it does, and the
    # container's own mounts do not come back either way.
    return (flags | MS_REC) if not flags & MS_PRIVATE else MS_PRIVATE | MS_REC


def _devices(spec: Spec) -> tuple[DeviceStep, ...]:
    """The default devices and the spec's, which win; none when the host's /dev is bound there."""
    for mount in spec.get("mounts", ()):
        bound = "bind" in mount.get("options", ()) or "rbind" in mount.get("options", ())
        if os.path.normpath(mount["destination"]) == "/dev" and (
            bound or mount.get("type") == "bind"
        ):
            return ()
    nodes = {device.path: device for device in DEFAULT_DEVICES}
    for device in spec.get("linux", {}).get("devices", ()):
        step = _device(device)
        nodes[step.path] = step
    return tuple(nodes.values())


def _device(device: Device) -> DeviceStep:
    kind = device["type"]
    if kind != "p" and not ("major" in device and "minor" in device):
        raise InvalidInput(f"device {device['path']} needs major and minor")
    mode = device.get("fileMode", _READ_WRITE) & 0o7777
    return DeviceStep(
        os.path.normpath(device["path"]),
        _FILE_TYPES[kind] | mode,
        device.get("major", 0),
        device.get("minor", 0),
        device.get("uid", 0),
        device.get("gid", 0),
    )


def _sysctl_path(name: str) -> str:
    """A name with dots or slashes as a path; whichever separator comes first is the separator."""
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        return name.replace("/", "\0").replace(".", "/").replace("\0", ".")
    return name


def plan_hooks(spec: Spec) -> tuple[tuple[str, tuple[Hook, ...]], ...]:
    """The hooks, by point of the life cycle, in the order they run."""
    hooks = spec.get("hooks", {})
    return tuple(
        (kind, tuple(_hook(hook) for hook in _listed(hooks.get(kind))))
        for kind in HOOKS
        if kind in hooks
    )


def _listed(hooks: Sequence[HookSpec] | None) -> Sequence[HookSpec]:
    return hooks or ()


def _hook(hook: HookSpec) -> Hook:
    path = hook.get("path", "")
    if not path:
        raise InvalidInput("a hook has no path")
    timeout = hook.get("timeout", 0)
    if "timeout" in hook and timeout <= 0:
        raise InvalidInput(f"hook {path}: timeout must be greater than zero")
    return Hook(path, tuple(hook.get("args", ())) or (path,), tuple(hook.get("env", ())), timeout)
