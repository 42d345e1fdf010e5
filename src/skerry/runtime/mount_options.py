"""Mount options by name, as OCI's config.md lists them, to flags; and an OCI mount to a step."""

import os
from collections.abc import Sequence

from skerry.base.errors import InvalidInput
from skerry.base.light import NamedTuple
from skerry.base.oci_runtime import IdMapping, Mount
from skerry.kernel import mounts as k
from skerry.runtime.steps import IdMap, MountStep

FLAGS: dict[str, tuple[bool, int]] = {
    "acl": (True, k.MS_POSIXACL),
    "async": (False, k.MS_SYNCHRONOUS),
    "atime": (False, k.MS_NOATIME),
    "bind": (True, k.MS_BIND),
    "defaults": (True, 0),
    "dev": (False, k.MS_NODEV),
    "diratime": (False, k.MS_NODIRATIME),
    "dirsync": (True, k.MS_DIRSYNC),
    "exec": (False, k.MS_NOEXEC),
    "iversion": (True, k.MS_I_VERSION),
    "lazytime": (True, k.MS_LAZYTIME),
    "loud": (False, k.MS_SILENT),
    "mand": (True, k.MS_MANDLOCK),
    "noacl": (False, k.MS_POSIXACL),
    "noatime": (True, k.MS_NOATIME),
    "nodev": (True, k.MS_NODEV),
    "nodiratime": (True, k.MS_NODIRATIME),
    "noexec": (True, k.MS_NOEXEC),
    "noiversion": (False, k.MS_I_VERSION),
    "nolazytime": (False, k.MS_LAZYTIME),
    "nomand": (False, k.MS_MANDLOCK),
    "norelatime": (False, k.MS_RELATIME),
    "nostrictatime": (False, k.MS_STRICTATIME),
    "nosuid": (True, k.MS_NOSUID),
    "nosymfollow": (True, k.MS_NOSYMFOLLOW),
    "rbind": (True, k.MS_BIND | k.MS_REC),
    "relatime": (True, k.MS_RELATIME),
    "remount": (True, k.MS_REMOUNT),
    "ro": (True, k.MS_RDONLY),
    "rw": (False, k.MS_RDONLY),
    "silent": (True, k.MS_SILENT),
    "strictatime": (True, k.MS_STRICTATIME),
    "suid": (False, k.MS_NOSUID),
    "symfollow": (False, k.MS_NOSYMFOLLOW),
    "sync": (True, k.MS_SYNCHRONOUS),
}
"""mount(2) flags: whether the option sets or clears them."""

PROPAGATION: dict[str, int] = {
    "private": k.MS_PRIVATE,
    "rprivate": k.MS_PRIVATE | k.MS_REC,
    "shared": k.MS_SHARED,
    "rshared": k.MS_SHARED | k.MS_REC,
    "slave": k.MS_SLAVE,
    "rslave": k.MS_SLAVE | k.MS_REC,
    "unbindable": k.MS_UNBINDABLE,
    "runbindable": k.MS_UNBINDABLE | k.MS_REC,
}

_TIMES = k.ATTR_ATIME
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (k.ATTR_RDONLY, 0),
    "rw": (0, k.ATTR_RDONLY),
    "nosuid": (k.ATTR_NOSUID, 0),
    "suid": (0, k.ATTR_NOSUID),
    "nodev": (k.ATTR_NODEV, 0),
    "dev": (0, k.ATTR_NODEV),
    "noexec": (k.ATTR_NOEXEC, 0),
    "exec": (0, k.ATTR_NOEXEC),
    "nodiratime": (k.ATTR_NODIRATIME, 0),
    "diratime": (0, k.ATTR_NODIRATIME),
    "relatime": (k.ATTR_RELATIME, _TIMES),
    "norelatime": (k.ATTR_STRICTATIME, _TIMES),
    "noatime": (k.ATTR_NOATIME, _TIMES),
    "atime": (k.ATTR_RELATIME, _TIMES),
    "strictatime": (k.ATTR_STRICTATIME, _TIMES),
    "nostrictatime": (k.ATTR_RELATIME, _TIMES),
    "nosymfollow": (k.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, k.ATTR_NOSYMFOLLOW),
}
"""mount_setattr(2) attributes: what is set and what is cleared. With an `r` in front they hold for
the whole tree."""

REPLACEABLE = frozenset(
    {
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    }
)
"""Files below /proc that a mount may cover."""

SPECIAL = ("tmpcopyup", "idmap", "ridmap")
SUBPATH = "x-skerry.subpath="
"""An option of the engine's own: mount only what is at a path beneath the source."""
_LAYERS = "lowerdir="


class Options(NamedTuple):
    """Mount options, sorted by what carries them out."""

    flags: int
    attr_set: int
    attr_clear: int
    tree_set: int
    tree_clear: int
    propagation: tuple[int, ...]
    data: str
    special: frozenset[str]


def parse(options: Sequence[str]) -> Options:
    """Sort `options`; a later one wins. What no table knows is data for the file system."""
    flags = attr_set = attr_clear = tree_set = tree_clear = 0
    propagation: list[int] = []
    data: list[str] = []
    special: set[str] = set()
    for name in options:
        if name in FLAGS:
            sets, bits = FLAGS[name]
            flags = flags | bits if sets else flags & ~bits
            if name in ATTRIBUTES:
                attr_set, attr_clear = _merge(attr_set, attr_clear, *ATTRIBUTES[name])
        elif name in PROPAGATION:
            propagation.append(PROPAGATION[name])
        elif name.startswith("r") and name[1:] in ATTRIBUTES:
            tree_set, tree_clear = _merge(tree_set, tree_clear, *ATTRIBUTES[name[1:]])
        elif name in SPECIAL:
            special.add(name)
        elif name:
            data.append(name)
    return Options(
        flags,
        attr_set,
        attr_clear,
        tree_set,
        tree_clear,
        tuple(propagation),
        ",".join(data),
        frozenset(special),
    )


def _merge(old_set: int, old_clear: int, new_set: int, new_clear: int) -> tuple[int, int]:
    # Access times are one field of several bits: the kernel wants all of it cleared to change it.
    return (old_set & ~new_clear) | new_set, (old_clear & ~(new_set & ~_TIMES)) | new_clear


def known() -> list[str]:
    """Every option that has a meaning here, sorted; for `features`."""
    recursive = [f"r{name}" for name in ATTRIBUTES]
    return sorted({*FLAGS, *PROPAGATION, *recursive, *SPECIAL})


def step(mount: Mount, bundle: str) -> MountStep:
    """An OCI mount as a step. InvalidInput when its options contradict its type."""
    target = mount["destination"]
    if not target.startswith("/"):
        target = f"/{target}"
    _check_place(os.path.normpath(target), mount)
    fstype = mount.get("type", "")
    words = mount.get("options", ())
    subpath = next((word[len(SUBPATH) :] for word in words if word.startswith(SUBPATH)), "")
    options = parse([word for word in words if not word.startswith(SUBPATH)])
    source = mount.get("source", "")
    mapped = _idmap(mount, options)
    if options.flags & k.MS_BIND or fstype == "bind":
        if not source:
            raise InvalidInput(f"bind mount at {target} has no source")
        kind = "bind"
        source = source if source.startswith("/") else f"{bundle}/{source}"
    elif fstype in ("cgroup", "cgroup2"):
        kind = "cgroup"
    elif fstype == "overlay" and options.data.startswith(_LAYERS) and "," not in options.data:
        # Read-only layers: mount(2) would stop at 4 KB of options.
        kind = "layers"
    else:
        kind = "filesystem"
        if not fstype:
            raise InvalidInput(f"mount at {target} has neither a type nor bind among its options")
        if mapped is not None:
            raise InvalidInput(f"mount at {target}: id mappings are supported for bind mounts only")
    return MountStep(
        kind=kind,
        target=target,
        source=source,
        fstype=fstype,
        flags=options.flags & ~(k.MS_BIND | k.MS_REC),
        data=options.data,
        recursive=bool(options.flags & k.MS_REC),
        attr_set=options.attr_set,
        attr_clear=options.attr_clear,
        tree_set=options.tree_set,
        tree_clear=options.tree_clear,
        propagation=options.propagation,
        copy_up="tmpcopyup" in options.special,
        idmap=mapped,
        idmap_recursive="ridmap" in options.special,
        subpath=subpath,
    )


def _check_place(target: str, mount: Mount) -> None:
    """Foreign files may only lie over those of /proc that tools like lxcfs replace."""
    bound = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", ()))
    if not target.startswith("/proc/") or not bound:
        return
    if target.removeprefix("/proc/") not in REPLACEABLE:
        raise InvalidInput(f'"{target}" cannot be mounted because it is inside /proc')


def _idmap(mount: Mount, options: Options) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]] | None:
    uids, gids = mount.get("uidMappings", []), mount.get("gidMappings", [])
    if bool(uids) != bool(gids):
        raise InvalidInput(
            f"mount at {mount['destination']}: uidMappings and gidMappings belong together"
        )
    if not uids and not options.special & {"idmap", "ridmap"}:
        return None
    return id_maps(uids), id_maps(gids)


def id_maps(mappings: Sequence[IdMapping]) -> tuple[IdMap, ...]:
    """OCI id mappings as rows."""
    return tuple(
        IdMap(m.get("containerID", 0), m.get("hostID", 0), m.get("size", 0)) for m in mappings
    )
