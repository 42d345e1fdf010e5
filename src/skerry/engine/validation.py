"""What clients send, checked against a table of fields: type, range, size.

Everything in a request's JSON is hostile. A field that the table knows must have its type and stay
within its limit; fields that it does not know are left out, as Docker does. Empty values are left
out too, so that a record holds only what was said.
"""

from collections.abc import Callable
from typing import Any

from skerry.base.errors import InvalidInput, LimitExceeded

TEXT = 4096
LONG_TEXT = 128 * 1024
"""Bytes of one argument or variable: MAX_ARG_STRLEN of execve(2)."""
ENTRIES = 4096
NUMBER = 2**63 - 1

Check = Callable[[Any, str], Any]
"""Takes a value and the field's path; gives the value to keep."""


Schema = dict[str, Any]
_SCHEMAS: dict[Check, Schema] = {}


def schema_of(check: Check) -> Schema:
    """What a check takes, as JSON Schema; anything when that is not known."""
    return _SCHEMAS.get(check, {})


def described(check: Check, schema: Schema) -> Check:
    """The check, with its schema noted."""
    _SCHEMAS[check] = schema
    return check


def _fail(path: str, expected: str, value: Any) -> InvalidInput:
    return InvalidInput(f"{path}: expected {expected}, got {value!r:.60}")


def text(limit: int = TEXT) -> Check:
    """A string without NUL of at most `limit` bytes."""

    def check(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise _fail(path, "a string", value)
        if "\0" in value:
            raise InvalidInput(f"{path}: holds a NUL byte")
        if len(value) > limit or len(value.encode("utf-8", "surrogatepass")) > limit:
            raise LimitExceeded(f"{path}: longer than {limit} bytes")
        return value

    return described(check, {"type": "string", "maxLength": limit})


def flag(value: Any, path: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise _fail(path, "true or false", value)
    return value


def number(low: int = -NUMBER, high: int = NUMBER) -> Check:
    """A whole number within bounds."""

    def check(value: Any, path: str) -> int:
        # JSON writers of other languages send whole numbers as 1.0.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _fail(path, "a whole number", value)
        if not low <= value <= high:
            raise InvalidInput(f"{path}: {value} is not between {low} and {high}")
        return value

    return described(check, {"type": "integer", "minimum": low, "maximum": high})


def _zero(check: Check) -> Any:
    """What Go makes of a null among an array's or an object's values; None when it is none."""
    kind = str(schema_of(check).get("type"))
    return {"string": "", "integer": 0, "boolean": False, "array": [], "object": {}}.get(kind)


def items(each: Check, limit: int = ENTRIES) -> Check:
    """An array."""
    zero = _zero(each)

    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _fail(path, "an array", value)
        if len(value) > limit:
            raise LimitExceeded(f"{path}: more than {limit} entries")
        return [each(zero if entry is None else entry, path) for entry in value]

    return described(check, {"type": "array", "items": schema_of(each), "maxItems": limit})


def table(each: Check, limit: int = ENTRIES) -> Check:
    """An object with free keys."""
    key_check = text()
    zero = _zero(each)

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _fail(path, "an object", value)
        if len(value) > limit:
            raise LimitExceeded(f"{path}: more than {limit} entries")
        return {
            key_check(key, path): each(zero if entry is None else entry, f"{path}.{key}")
            for key, entry in value.items()
        }

    return described(check, {"type": "object", "additionalProperties": schema_of(each)})


def choice(*names: str) -> Check:
    """One of a few words."""

    def check(value: Any, path: str) -> str:
        if value not in names:
            raise _fail(path, "one of " + ", ".join(name or '""' for name in names), value)
        return str(value)

    return described(check, {"type": "string", "enum": list(names)})


def command(value: Any, path: str) -> list[str]:
    """Docker's StrSlice: a string or an array of strings."""
    if isinstance(value, str):
        value = [value]
    result: list[str] = items(text(LONG_TEXT), 65536)(value, path)
    return result


def empty(value: Any, path: str) -> dict[str, Any]:
    """The `{}` that Go's sets have as values."""
    if value is not None and not isinstance(value, dict):
        raise _fail(path, "an object", value)
    return {}


def ignored(check: Check) -> Check:
    """A field that must be right, and that means nothing here."""

    def dropped(value: Any, path: str) -> None:
        check(value, path)

    return described(dropped, schema_of(check))


def fields(known: dict[str, Check], *, keep_empty: frozenset[str] = frozenset()) -> Check:
    """An object whose keys are matched as Go matches them: exactly, else without case."""
    folded = {name.lower(): name for name in known}

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _fail(path or "body", "an object", value)
        result = {}
        for key, entry in value.items():
            name = key if key in known else folded.get(key.lower())
            if name is None or entry is None:
                continue
            kept = known[name](entry, f"{path}.{name}" if path else name)
            if kept or name in keep_empty:
                result[name] = kept
        return result

    return described(
        check, {"type": "object", "properties": {k: schema_of(v) for k, v in known.items()}}
    )


described(flag, {"type": "boolean"})
described(command, {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
described(empty, {"type": "object"})
string = text()
strings = items(string)
labels = table(text(LONG_TEXT))
duration = number(0)
memory = number(-1)

HEALTHCHECK = fields(
    {
        "Test": items(text(LONG_TEXT)),
        "Interval": duration,
        "Timeout": duration,
        "StartPeriod": duration,
        "StartInterval": duration,
        "Retries": number(0, 1_000_000),
    }
)

CONFIG = fields(
    {
        "Hostname": text(255),
        "Domainname": text(255),
        "User": text(255),
        "AttachStdin": flag,
        "AttachStdout": flag,
        "AttachStderr": flag,
        "ExposedPorts": table(empty, 65536),
        "Tty": flag,
        "OpenStdin": flag,
        "StdinOnce": flag,
        "Env": items(text(LONG_TEXT), 65536),
        "Cmd": command,
        "Healthcheck": HEALTHCHECK,
        "ArgsEscaped": flag,
        "Image": string,
        "Volumes": table(empty),
        "WorkingDir": string,
        "Entrypoint": command,
        "NetworkDisabled": flag,
        "MacAddress": string,
        "OnBuild": strings,
        "Labels": labels,
        "StopSignal": text(32),
        "StopTimeout": number(-1, 2**31),
        "Shell": command,
    },
    # `"Entrypoint": []` differs from leaving it out, and StopTimeout 0 from the default.
    keep_empty=frozenset({"Entrypoint", "Cmd", "StopTimeout"}),
)

_DEVICE = fields({"PathOnHost": string, "PathInContainer": string, "CgroupPermissions": text(3)})
_THROTTLE = items(fields({"Path": string, "Rate": number(0)}), 256)
_ULIMIT = fields({"Name": text(32), "Soft": number(-1), "Hard": number(-1)})
_PORT = items(fields({"HostIp": text(64), "HostPort": text(16)}), 1024)
_MOUNT = fields(
    {
        "Type": text(64),
        "Source": string,
        "Target": string,
        "ReadOnly": flag,
        "Consistency": string,
        "BindOptions": fields(
            {
                "Propagation": text(64),
                "NonRecursive": flag,
                "CreateMountpoint": flag,
                "ReadOnlyNonRecursive": flag,
                "ReadOnlyForceRecursive": flag,
            }
        ),
        "VolumeOptions": fields(
            {
                "NoCopy": flag,
                "Labels": labels,
                "Subpath": string,
                "DriverConfig": fields({"Name": string, "Options": table(string)}),
            }
        ),
        "ImageOptions": fields({"Subpath": string}),
        "TmpfsOptions": fields(
            {"SizeBytes": number(0), "Mode": number(0, 0o7777), "Options": items(strings)}
        ),
    }
)

RESOURCES: dict[str, Check] = {
    "CpuShares": number(0, 1 << 32),
    "Memory": number(0),
    "NanoCpus": number(0),
    "CgroupParent": string,
    "BlkioWeight": number(0, 1000),
    "BlkioWeightDevice": items(fields({"Path": string, "Weight": number(0, 1000)}), 256),
    "BlkioDeviceReadBps": _THROTTLE,
    "BlkioDeviceWriteBps": _THROTTLE,
    "BlkioDeviceReadIOps": _THROTTLE,
    "BlkioDeviceWriteIOps": _THROTTLE,
    "CpuPeriod": number(0),
    "CpuQuota": number(-1),
    "CpuRealtimePeriod": number(0),
    "CpuRealtimeRuntime": number(0),
    "CpusetCpus": text(1024),
    "CpusetMems": text(1024),
    "Devices": items(_DEVICE, 1024),
    "DeviceCgroupRules": items(text(64), 1024),
    "DeviceRequests": items(
        fields(
            {
                "Driver": string,
                "Count": number(),
                "DeviceIDs": strings,
                "Capabilities": items(strings),
                "Options": table(string),
            }
        ),
        64,
    ),
    # Windows alone knows them.
    "CpuCount": ignored(number()),
    "CpuPercent": ignored(number()),
    "IOMaximumIOps": ignored(number(0)),
    "IOMaximumBandwidth": ignored(number(0)),
    "KernelMemory": number(),
    "KernelMemoryTCP": number(),
    "MemoryReservation": number(0),
    "MemorySwap": memory,
    "MemorySwappiness": number(-1, 100),
    "OomKillDisable": flag,
    "PidsLimit": number(),
    "Ulimits": items(_ULIMIT, 64),
}

RESTART_POLICY = fields({"Name": string, "MaximumRetryCount": number()})
_ZERO_MATTERS = frozenset({"MemorySwappiness", "OomScoreAdj", "MaskedPaths", "ReadonlyPaths"})

HOST = fields(
    RESOURCES
    | {
        "Binds": strings,
        "ContainerIDFile": string,
        "LogConfig": fields({"Type": text(64), "Config": table(string, 64)}),
        "NetworkMode": string,
        "PortBindings": table(_PORT),
        "RestartPolicy": RESTART_POLICY,
        "AutoRemove": flag,
        "VolumeDriver": string,
        "VolumesFrom": strings,
        "Mounts": items(_MOUNT, 1024),
        "ConsoleSize": items(number(0, 65535), 2),
        "Annotations": labels,
        "CapAdd": items(text(64), 256),
        "CapDrop": items(text(64), 256),
        "CgroupnsMode": choice("", "host", "private"),
        "Dns": items(text(64), 16),
        "DnsOptions": items(text(256), 64),
        "DnsSearch": items(text(256), 64),
        "ExtraHosts": items(text(512)),
        "GroupAdd": items(text(255), 1024),
        "IpcMode": text(255),
        "Cgroup": text(255),
        "Links": strings,
        "OomScoreAdj": number(-1000, 1000),
        "PidMode": text(255),
        "Privileged": flag,
        "PublishAllPorts": flag,
        "ReadonlyRootfs": flag,
        "SecurityOpt": items(text(1 << 20), 64),
        "StorageOpt": table(string, 64),
        "Tmpfs": table(string, 1024),
        "UTSMode": text(64),
        "UsernsMode": text(64),
        "ShmSize": number(0),
        "Sysctls": table(string, 512),
        "Runtime": text(64),
        "Isolation": text(64),
        "MaskedPaths": strings,
        "ReadonlyPaths": strings,
        "Init": flag,
    },
    keep_empty=_ZERO_MATTERS,
)

UPDATE = fields(RESOURCES | {"RestartPolicy": RESTART_POLICY}, keep_empty=_ZERO_MATTERS)

EXEC = fields(
    {
        "AttachStdin": flag,
        "AttachStdout": flag,
        "AttachStderr": flag,
        "DetachKeys": text(128),
        "Tty": flag,
        "Env": items(text(LONG_TEXT), 65536),
        "Cmd": command,
        "Privileged": flag,
        "User": text(255),
        "WorkingDir": string,
        "ConsoleSize": items(number(0, 65535), 2),
    }
)

EXEC_START = fields(
    {"Detach": flag, "Tty": flag, "ConsoleSize": items(number(0, 65535), 2)},
    # A Tty that is false makes an exec without a terminal of one that was to have one.
    keep_empty=frozenset({"Tty"}),
)


def endpoints(value: Any) -> dict[str, Any]:
    """`NetworkingConfig`: the endpoints' settings by network name."""
    check = fields({"EndpointsConfig": table(endpoint, 64)})
    wanted = {} if value is None else value
    result: dict[str, Any] = check(wanted, "NetworkingConfig").get("EndpointsConfig", {})
    return result


def endpoint(value: Any, path: str) -> dict[str, Any]:
    """EndpointSettings: plain values of a limited size, empty ones left out."""
    if value is None:
        return {}
    return {
        key: entry
        for key, entry in table(_scalar, 64)(value, path).items()
        if entry not in (None, "", [], {})
    }


def _scalar(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return text()(value, path)
    if isinstance(value, list):
        return items(_scalar, 256)(value, path)
    if isinstance(value, dict):
        return table(_scalar_flat, 256)(value, path)
    return value


def _scalar_flat(value: Any, path: str) -> Any:
    if isinstance(value, dict | list) and len(repr(value)) > TEXT:
        raise LimitExceeded(f"{path}: longer than {TEXT} bytes")
    return value
