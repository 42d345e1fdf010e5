"""The mounts that a user or an image asks for, out of Docker's four notations.

`-v` strings (`HostConfig.Binds`), `--mount` objects (`HostConfig.Mounts`), `--tmpfs`
(`HostConfig.Tmpfs`) and the image's `VOLUME`s become `MountPoint`s; later ones of this list give
way to earlier ones with the same target. Pure, but for `make_sources`.
"""

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.ids import check_volume_name
from skerry.engine.record import MountPoint
from skerry.runtime.mount_options import SUBPATH

_TYPES = ("bind", "volume", "tmpfs", "npipe", "cluster", "image")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_HARMLESS = ("z", "Z", "cached", "delegated", "consistent", "volume-nocopy")
TMPFS_DEFAULT = ("noexec", "nosuid", "nodev")
_TMPFS_FLAGS = frozenset(
    """ro rw exec noexec suid nosuid dev nodev atime noatime diratime nodiratime relatime norelatime
    strictatime nostrictatime sync async dirsync mand nomand private rprivate shared rshared
    slave rslave unbindable runbindable""".split()
)
_TMPFS_VALUES = ("size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "mpol", "huge")


def _target(path: str, what: str) -> str:
    if not path.startswith("/"):
        raise InvalidInput(f"invalid mount path: '{path}' mount path must be absolute ({what})")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidInput(f"invalid volume specification: '{what}': destination can't be '/'")
    return clean


def parse_bind(text: str) -> MountPoint:
    """A `-v` string: `[source:]target[:options]`. InvalidInput with Docker's words."""
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InvalidInput(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        return MountPoint("volume", _target(parts[0], text), anonymous=True)
    if len(parts) == 2 and not parts[1].startswith("/"):
        raise InvalidInput(
            f"invalid volume specification: '{text}': invalid mount config for type \"bind\": "
            f"invalid mount path: '{parts[1]}' mount path must be absolute"
        )
    source, target = parts[0], _target(parts[1], text)
    point = MountPoint("bind" if source.startswith("/") else "volume", target)
    if point.kind == "bind":
        point.source = posixpath.normpath("/" + source.lstrip("/"))
        point.options = ["create"]
    else:
        point.name = check_volume_name(source)
    _bind_options(point, parts[2] if len(parts) == 3 else "", text)
    return point


def _bind_options(point: MountPoint, options: str, text: str) -> None:
    point.mode = options
    for option in options.split(",") if options else ():
        if option == "ro":
            point.read_only = True
        elif option == "nocopy" and point.kind == "volume":
            point.copy_up = False
        elif option in PROPAGATIONS and point.kind == "bind":
            point.propagation = option
        elif option != "rw" and option not in _HARMLESS:
            raise InvalidInput(f"invalid mode: {options}")


def parse_mount(raw: Mapping[str, Any]) -> MountPoint:
    """A `--mount` object."""
    kind = raw.get("Type", "")
    target = raw.get("Target", "")
    if not target:
        raise InvalidInput(
            f'invalid mount config for type "{kind}": field Target must not be empty'
        )
    if kind not in _TYPES:
        raise InvalidInput(f'invalid mount config for type "{kind}": mount type unknown')
    point = MountPoint(kind, _target(target, target), read_only=bool(raw.get("ReadOnly")))
    source = raw.get("Source", "")
    if kind == "bind":
        if not source.startswith("/"):
            raise InvalidInput(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' "
                "mount path must be absolute"
            )
        point.source = posixpath.normpath(source)
        options = raw.get("BindOptions") or {}
        point.propagation = options.get("Propagation", "")
        if point.propagation and point.propagation not in PROPAGATIONS:
            raise InvalidInput(
                'invalid mount config for type "bind": '
                f"invalid propagation mode: {point.propagation}"
            )
        point.options = ["nonrecursive"] if options.get("NonRecursive") else []
        point.options += ["create"] if options.get("CreateMountpoint") else []
        point.options += _read_only_below(options, point)
    elif kind == "volume":
        options = raw.get("VolumeOptions") or {}
        driver = (options.get("DriverConfig") or {}).get("Name", "")
        if driver not in ("", "local"):
            raise InvalidInput(
                f'error looking up volume plugin {driver}: plugin "{driver}" not found'
            )
        point.subpath = _subpath(options.get("Subpath", ""))
        if point.subpath and not source:
            raise InvalidInput("must not set Subpath when using anonymous volumes")
        point.labels = dict(options.get("Labels") or {})
        point.driver_options = dict((options.get("DriverConfig") or {}).get("Options") or {})
        point.name = check_volume_name(source) if source else ""
        point.anonymous = not source
        point.copy_up = not options.get("NoCopy")
    elif kind == "image":
        if not source:
            raise InvalidInput(
                'invalid mount config for type "image": field Source must not be empty'
            )
        point.name, point.read_only, point.copy_up = source, True, False
        point.subpath = _subpath((raw.get("ImageOptions") or {}).get("Subpath", ""))
    elif kind == "tmpfs":
        if source:
            raise InvalidInput(
                'invalid mount config for type "tmpfs": field Source must not be specified'
            )
        point.options = _tmpfs_options(raw.get("TmpfsOptions") or {}, point.read_only)
    else:
        raise Unsupported(f'mounts of type "{kind}" are not supported')
    return point


def _subpath(path: str) -> str:
    """A path beneath a volume or an image; empty for the whole."""
    clean = posixpath.normpath(path) if path else ""
    if clean.startswith(("/", "../")) or clean == ".." or "\0" in clean:
        raise InvalidInput("subpath must be a relative path within the volume")
    return "" if clean == "." else clean


def _read_only_below(options: Mapping[str, Any], point: MountPoint) -> list[str]:
    """What a read-only bind says of the mounts below its source, in Docker 25's words."""
    force = bool(options.get("ReadOnlyForceRecursive"))
    loose = bool(options.get("ReadOnlyNonRecursive"))
    for name, said in (("ReadOnlyNonRecursive", loose), ("ReadOnlyForceRecursive", force)):
        if said and not point.read_only:
            raise _bad_bind(f"mount source is not read-only, but {name} is set")
        if name == "ReadOnlyForceRecursive" and said and options.get("NonRecursive"):
            raise _bad_bind("ReadOnlyForceRecursive conflicts with NonRecursive")
    if force and loose:
        raise _bad_bind("ReadOnlyForceRecursive conflicts with ReadOnlyNonRecursive")
    if force and point.propagation not in ("", "rprivate"):
        raise _bad_bind("ReadOnlyForceRecursive needs propagation rprivate")
    return ["writable-below"] if loose else []


def _bad_bind(reason: str) -> InvalidInput:
    return InvalidInput(f'invalid mount config for type "bind": {reason}')


def _tmpfs_options(options: Mapping[str, Any], read_only: bool) -> list[str]:
    result = list(TMPFS_DEFAULT)
    if read_only:
        result.append("ro")
    if options.get("SizeBytes"):
        result.append(f"size={options['SizeBytes']}")
    if options.get("Mode"):
        result.append(f"mode={options['Mode']:o}")
    for option in options.get("Options") or ():
        result = parse_tmpfs("=".join(option), result)
    return result


def parse_tmpfs(text: str, start: Iterable[str] = TMPFS_DEFAULT) -> list[str]:
    """Mount options of `--tmpfs /path:options`: safe defaults, then what was said."""
    result = list(start)
    for option in text.split(",") if text else ():
        key, equals, value = option.partition("=")
        if option in _TMPFS_FLAGS:
            opposite = option.removeprefix("no") if option.startswith("no") else f"no{option}"
            result = [each for each in result if each != opposite]
            if option not in result:
                result.append(option)
        elif equals and key in _TMPFS_VALUES and value:
            result = [each for each in result if not each.startswith(f"{key}=")] + [option]
        else:
            raise InvalidInput(f'invalid tmpfs option "{option:.60}"')
    return result


def requested(
    config: Mapping[str, Any], host: Mapping[str, Any], inherited: Iterable[MountPoint] = ()
) -> list[MountPoint]:
    """All mounts of a container, ordered so that a parent is mounted before what lies in it.

    `inherited` are those of `--volumes-from`. InvalidInput for two mounts on one target.
    """
    points: dict[str, MountPoint] = {point.target: point for point in inherited}
    said: set[str] = set()
    asked = [parse_bind(text) for text in host.get("Binds") or ()]
    asked += [parse_mount(raw) for raw in host.get("Mounts") or ()]
    for point in asked:
        if point.kind == "volume" and not point.mode:
            # Docker's word for a label of SELinux that containers share; inspect tells it.
            point.mode = "z"
    asked += [
        MountPoint("tmpfs", _target(path, path), options=parse_tmpfs(options))
        for path, options in (host.get("Tmpfs") or {}).items()
    ]
    for point in asked:
        if point.target in said:
            raise InvalidInput(f"Duplicate mount point: {point.target}")
        said.add(point.target)
        points[point.target] = point
    for path in config.get("Volumes") or ():
        target = _target(path, path)
        if target not in points:
            points[target] = MountPoint("volume", target, anonymous=True)
    return sorted(points.values(), key=lambda point: point.target.count("/"))


def make_sources(points: Iterable[MountPoint]) -> None:
    """Make the missing folders that `-v` promises, refuse the ones that `--mount` does not.

    InvalidInput with Docker's words.
    """
    for point in points:
        if point.kind != "bind" or os.path.lexists(point.source):
            continue
        if "create" not in point.options:
            raise missing(point)
        try:
            os.makedirs(point.source, mode=0o755, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"error while creating mount source path '{point.source}': {error.strerror}"
            ) from None


def missing(point: MountPoint) -> InvalidInput:
    """What Docker says of a bind mount without a source."""
    return InvalidInput(
        f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
    )


def oci_mount(point: MountPoint, layers: Sequence[str] = ()) -> dict[str, Any]:
    """The entry in the OCI specification's `mounts`; volumes have their source by now.

    `layers` are the folders of an image mount, top-most first.
    """
    part = [f"{SUBPATH}{point.subpath}"] if point.subpath else []
    if point.kind == "image" and len(layers) > 1:
        return {
            "destination": point.target,
            "type": "overlay",
            "source": "overlay",
            "options": ["ro", "nosuid", "nodev", "lowerdir=" + ":".join(layers), *part],
        }
    if point.kind == "tmpfs":
        return {
            "destination": point.target,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": point.options,
        }
    recursive = "bind" if "nonrecursive" in point.options else "rbind"
    # Never `rw`: what is mounted read-only on the host stays so.
    options = [recursive, *(["ro"] if point.read_only else []), point.propagation or "rprivate"]
    if point.read_only and recursive == "rbind" and "writable-below" not in point.options:
        options.append("rro")
    if point.kind == "image":
        options += ["nosuid", "nodev"]
    return {
        "destination": point.target,
        "type": "bind",
        "source": layers[0] if point.kind == "image" else point.source,
        "options": options + part,
    }
