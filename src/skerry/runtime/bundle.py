"""An OCI bundle's config.json: read with limits, check its shape and what contradicts itself.

Source: opencontainers/runtime-spec 1.2, config.md and config-linux.md. Unknown properties are
ignored, as the specification demands; known ones have the right type afterwards, and no string
holds a NUL byte, so what comes later need not look again.
"""

import json
import os
import re

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.light import Any, cast
from skerry.base.oci_runtime import Process, Spec

MAX_BYTES = 8 << 20
"""Larger than any configuration, smaller than what hurts."""
_MAX_STRINGS = 1 << 20
_ID_LIMIT = (1 << 32) - 1
_USER_LIMIT = _ID_LIMIT - 1
"""setresuid(2) and chown(2) take the number above for "leave it as it is"."""
_DEVICE_LIMIT = (1 << 31) - 1

_Number = int
_ID = "id"
_USER = "user"
_DEVICE = "device number"
_PATH = "absolute path"
_LIMITS = {_ID: _ID_LIMIT, _USER: _USER_LIMIT, _DEVICE: _DEVICE_LIMIT}

_HOOK = {"path": _PATH, "args": [str], "env": [str], "timeout": int}
_MAPPING = {"containerID": _ID, "hostID": _ID, "size": _ID}
_CAPABILITIES = {
    name: [str] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
}
_HOOK_POINTS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
_PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": {"height": int, "width": int},
    "user": {
        "uid": _USER,
        "gid": _USER,
        "umask": _ID,
        "additionalGids": [_USER],
        "username": str,
    },
    "args": [str],
    "env": [str],
    "cwd": str,
    "capabilities": _CAPABILITIES,
    "rlimits": [{"type": str, "soft": int, "hard": int}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "selinuxLabel": str,
    "oomScoreAdj": int,
    "scheduler": {
        "policy": str,
        "nice": int,
        "priority": int,
        "flags": [str],
        "runtime": int,
        "deadline": int,
        "period": int,
    },
    "ioPriority": {"class": str, "priority": int},
}
_SPEC: dict[str, Any] = {
    "ociVersion": str,
    "process": _PROCESS,
    "root": {"path": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "mounts": [
        {
            "destination": str,
            "type": str,
            "source": str,
            "options": [str],
            "uidMappings": [_MAPPING],
            "gidMappings": [_MAPPING],
        }
    ],
    "hooks": {point: [_HOOK] for point in _HOOK_POINTS},
    "annotations": {"*": str},
    "linux": {
        "namespaces": [{"type": str, "path": str}],
        "uidMappings": [_MAPPING],
        "gidMappings": [_MAPPING],
        "timeOffsets": {"*": {"secs": int, "nanosecs": int}},
        "devices": [
            {
                "path": str,
                "type": str,
                "major": _DEVICE,
                "minor": _DEVICE,
                "fileMode": _ID,
                "uid": _USER,
                "gid": _USER,
            }
        ],
        "cgroupsPath": str,
        "resources": dict,
        "intelRdt": dict,
        "sysctl": {"*": str},
        "seccomp": dict,
        "rootfsPropagation": str,
        "maskedPaths": [str],
        "readonlyPaths": [str],
        "mountLabel": str,
        "personality": {"domain": str, "flags": [str]},
    },
}

_NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time")
_IPC_SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)
_PROPAGATIONS = ("", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable")


def load(bundle: str) -> Spec:
    """The checked configuration of the bundle folder `bundle`.

    InvalidInput when there is none or it does not hold; LimitExceeded when it is too large.
    """
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput(
            f"JSON specification file {path} not found",
            hint="a bundle is a folder with config.json; `skerry-runtime spec` writes one",
        ) from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    return parse(data)


def parse(data: bytes) -> Spec:
    """The checked configuration in `data`; hostile bytes are fine."""
    value = _json(data, "config.json")
    _check(value, _SPEC, "", [0])
    spec = cast(Spec, value)
    _check_version(spec)
    if "process" in spec:
        check_process(spec["process"])
    _check_root(spec)
    _check_linux(spec)
    return spec


def parse_process(data: bytes) -> Process:
    """The checked `process` object in `data`, as `exec --process` is given it."""
    value = _json(data, "process")
    _check(value, _PROCESS, "process", [0])
    process = cast(Process, value)
    check_process(process)
    return process


def parse_resources(data: bytes) -> dict[str, Any]:
    """A `linux.resources` object, as `update --resources` is given it."""
    value = _json(data, "resources")
    _check(value, dict, "resources", [0])
    return cast(dict[str, Any], value)


def _json(data: bytes, what: str) -> Any:
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"{what} is larger than {MAX_BYTES} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise LimitExceeded(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from None


def _check(value: Any, shape: Any, where: str, seen: list[int]) -> None:
    """InvalidInput unless `value` has `shape`; `seen` counts the values against a limit."""
    seen[0] += 1
    if seen[0] > _MAX_STRINGS:
        raise LimitExceeded("the configuration has too many entries")
    where = where or "config.json"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise InvalidInput(f"{where} must be an object")
        every = shape.get("*")
        for name, item in list(value.items()):
            inner = shape.get(name, every)
            if item is None:
                # A null stands for an absent property, as in the specification's Go types.
                del value[name]
            elif inner is not None:
                _check(item, inner, f"{where}.{name:.60}".removeprefix("config.json."), seen)
            if every is not None and "\0" in name:
                raise InvalidInput(f"{where} has a NUL byte in a name")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise InvalidInput(f"{where} must be a list")
        for index, item in enumerate(value):
            _check(item, shape[0], f"{where}[{index}]", seen)
    else:
        _check_scalar(value, shape, where)


def _check_scalar(value: Any, shape: Any, where: str) -> None:
    if shape in _LIMITS:
        if type(value) is not int or not 0 <= value <= _LIMITS[shape]:
            raise InvalidInput(f"{where} must be a number from 0 to {_LIMITS[shape]}")
        return
    kind = str if shape is _PATH else shape
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object"}
        raise InvalidInput(f"{where} must be {names[kind]}")
    if isinstance(value, str):
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise InvalidInput(f"{where} is not valid text") from None
        if "\0" in value:
            raise InvalidInput(f"{where} has a NUL byte")
        if shape is _PATH and not value.startswith("/"):
            raise InvalidInput(f"{where} must be an absolute path: {value!r:.100}")
    elif kind is int and abs(value) >= 1 << 64:
        raise InvalidInput(f"{where} is out of range")


def _check_version(spec: Spec) -> None:
    version = spec.get("ociVersion", "")
    match = re.fullmatch(r"(\d{1,9})\.\d{1,9}\.\d{1,9}([-+].{1,100})?", version)
    if not match or match[1] != "1":
        raise InvalidInput(
            f"unsupported ociVersion {version!r:.60}", hint="this runtime speaks version 1.x"
        )


def check_args(args: list[str]) -> None:
    """InvalidInput when a process's `args` have another shape than the schema's."""
    _check(args, _PROCESS["args"], "process.args", [0])
    if not args:
        raise InvalidInput("process.args must not be empty")


def check_process(process: Process) -> None:
    """InvalidInput when the process cannot be meant."""
    if not process.get("args"):
        raise InvalidInput("process.args must not be empty")
    cwd = process.get("cwd", "")
    if not cwd.startswith("/"):
        raise InvalidInput(
            f"Cwd must be an absolute path: {cwd!r:.100}"
            if cwd
            else "Cwd property must not be empty"
        )
    for variable in process.get("env", ()):
        if variable.find("=") < 1:
            raise InvalidInput(f"invalid environment variable: {variable!r:.100} is not NAME=VALUE")
    names = [limit.get("type") for limit in process.get("rlimits", ())]
    if len(names) != len(set(names)):
        raise InvalidInput("process.rlimits names a type twice")
    if not -1000 <= process.get("oomScoreAdj", 0) <= 1000:
        raise InvalidInput("process.oomScoreAdj must be between -1000 and 1000")


def _check_root(spec: Spec) -> None:
    if not spec.get("root", {}).get("path"):
        raise InvalidInput("root.path must be given")
    for mount in spec.get("mounts", ()):
        if not mount.get("destination"):
            raise InvalidInput("a mount has no destination")
        if os.path.normpath("/" + mount["destination"]).lstrip("/") == "":
            raise InvalidInput("a mount cannot take the place of the root", hint="set root.path")


def _check_linux(spec: Spec) -> None:
    linux = spec.get("linux", {})
    kinds: dict[str, str] = {}
    for namespace in linux.get("namespaces", ()):
        kind = namespace.get("type", "")
        if kind not in _NAMESPACES:
            raise InvalidInput(f"namespace {kind!r:.60} does not exist")
        if kind in kinds:
            raise InvalidInput(f"malformed spec file: duplicated ns {kind}")
        if namespace.get("path") and not namespace["path"].startswith("/"):
            raise InvalidInput(f"path of the {kind} namespace must be absolute")
        kinds[kind] = namespace.get("path", "")
    _check_user(spec, kinds)
    if "uts" not in kinds:
        for name in ("hostname", "domainname"):
            if spec.get(name):
                raise InvalidInput(f"unable to set {name} without a private UTS namespace")
    if "mount" not in kinds and (linux.get("maskedPaths") or linux.get("readonlyPaths")):
        raise InvalidInput("unable to restrict sys entries without a private MNT namespace")
    if linux.get("timeOffsets") and ("time" not in kinds or kinds["time"]):
        raise InvalidInput("time namespace offsets need a new time namespace")
    for clock in linux.get("timeOffsets", ()):
        if clock not in ("monotonic", "boottime"):
            raise InvalidInput(f"unknown clock in timeOffsets: {clock!r:.60}")
    if linux.get("rootfsPropagation", "") not in _PROPAGATIONS:
        raise InvalidInput(f"rootfsPropagation={linux['rootfsPropagation']:.60} is not supported")
    for name in linux.get("sysctl", ()):
        _check_sysctl(name, kinds)
    for device in linux.get("devices", ()):
        if device.get("type") not in ("b", "c", "u", "p"):
            raise InvalidInput(f"device {device.get('path')}: type must be one of b, c, u, p")
        if not device.get("path", "").startswith("/"):
            raise InvalidInput(f"device path must be absolute: {device.get('path')!r:.100}")


def _check_user(spec: Spec, kinds: dict[str, str]) -> None:
    linux = spec.get("linux", {})
    mappings = [*linux.get("uidMappings", ()), *linux.get("gidMappings", ())]
    if mappings and "user" not in kinds:
        raise InvalidInput(
            "user namespace mappings specified, but USER namespace isn't enabled in the config"
        )
    if kinds.get("user") == "" and (not linux.get("uidMappings") or not linux.get("gidMappings")):
        raise InvalidInput("user namespaces enabled, but no mappings found")
    for mapping in mappings:
        if not mapping.get("size"):
            raise InvalidInput("an id mapping has no size")


def _check_sysctl(name: str, kinds: dict[str, str]) -> None:
    """Settings that no namespace of the container holds would change the host: refused."""
    dotted = name.replace("/", ".")
    if ".." in dotted or not dotted.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise InvalidInput(f"sysctl {name!r:.100} is not a name")
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        needed = "ipc"
    elif dotted.startswith("net."):
        needed = "network"
    elif dotted == "kernel.domainname":
        needed = "uts"
    elif dotted == "kernel.hostname":
        raise InvalidInput(f"sysctl {name!r} is not allowed: use the hostname property instead")
    else:
        raise InvalidInput(f"sysctl {name!r} is not in a separate kernel namespace")
    if needed not in kinds:
        raise InvalidInput(f"sysctl {name!r} is not allowed in the hosts {needed} namespace")
