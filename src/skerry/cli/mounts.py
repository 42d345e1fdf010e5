"""What a container sees of the host: -v, --mount, --tmpfs, --device, -p, --ulimit and so on."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.base.truths import FALSE, TRUE
from skerry.cli.values import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse_volume(text: str) -> str:
    """A bind `source:target[:options]` with the source made absolute, as the API takes it."""
    source, colon, rest = text.partition(":")
    if not colon:
        return text
    if not source or not rest:
        raise InvalidInput(f"invalid volume specification: {text!r}")
    if source.startswith((".", "/", "~/")):
        source = os.path.abspath(os.path.expanduser(source))
    elif "/" in source:
        raise InvalidInput(
            f"{source!r} includes invalid characters for a volume name",
            hint=f"for a folder of this host write an absolute path or ./{source}",
        )
    return f"{source}:{rest}"


def parse_mount(text: str) -> dict[str, Any]:
    """`--mount type=bind,source=…,target=…,…` as the API's Mount object."""
    mount: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    tmpfs: dict[str, Any] = {}
    image: dict[str, Any] = {}
    for field in split_csv(text):
        key, _, value = field.partition("=")
        key = key.strip().lower()
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = _switch(key, value)
        elif key == "bind-propagation":
            bind["Propagation"] = value
        elif key == "bind-nonrecursive":
            bind["NonRecursive"] = _switch(key, value)
        elif key == "bind-recursive":
            bind |= _recursive(value)
        elif key == "bind-create-src":
            bind["CreateMountpoint"] = _switch(key, value)
        elif key == "volume-nocopy":
            volume["NoCopy"] = _switch(key, value)
        elif key == "volume-subpath":
            volume["Subpath"] = value
        elif key == "image-subpath":
            image["Subpath"] = value
        elif key == "volume-label":
            name, _, content = value.partition("=")
            volume.setdefault("Labels", {})[name] = content
        elif key == "volume-driver":
            volume.setdefault("DriverConfig", {})["Name"] = value
        elif key == "volume-opt":
            name, _, content = value.partition("=")
            volume.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = content
        elif key == "tmpfs-size":
            tmpfs["SizeBytes"] = parse_size(value, "tmpfs-size")
        elif key == "tmpfs-mode":
            tmpfs["Mode"] = _octal(value)
        elif key == "consistency":
            mount["Consistency"] = value
        else:
            raise InvalidInput(f"unexpected key {key!r} in --mount {text!r}")
    return _checked_mount(
        text, mount, {"bind": bind, "volume": volume, "tmpfs": tmpfs, "image": image}
    )


def _switch(key: str, value: str) -> bool:
    """A key alone is true."""
    if value in TRUE:
        return True
    if value and value not in FALSE:
        raise InvalidInput(f"invalid value for {key}: {value}")
    return not value


def _checked_mount(
    text: str, mount: dict[str, Any], options: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    kind = mount["Type"]
    if not mount.get("Target"):
        raise InvalidInput(f"--mount {text!r} names no target")
    for prefix, given in options.items():
        if given and kind != prefix:
            raise InvalidInput(f"--mount: {prefix} options do not fit type={kind}")
        if given:
            mount[f"{prefix.capitalize()}Options"] = given
    if kind == "bind":
        if not mount.get("Source"):
            raise InvalidInput(f"--mount {text!r} names no source")
        mount["Source"] = os.path.abspath(os.path.expanduser(mount["Source"]))
    return mount


def _recursive(value: str) -> dict[str, Any]:
    choices: dict[str, dict[str, Any]] = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    if value not in choices:
        raise InvalidInput(f"invalid bind-recursive: {value!r} is none of {', '.join(choices)}")
    return choices[value]


def _octal(value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise InvalidInput(f"invalid tmpfs-mode: {value!r} is not octal") from None


def split_csv(text: str) -> list[str]:
    """Fields between commas; a field in double quotes may hold commas ("" is a quote)."""
    fields, field, quoted, at = [], "", False, 0
    while at < len(text):
        letter = text[at]
        at += 1
        if letter == '"':
            if quoted and text[at : at + 1] == '"':
                field += '"'
                at += 1
            else:
                quoted = not quoted
        elif letter == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += letter
    if quoted:
        raise InvalidInput(f"a quote is not closed in {text!r}")
    return [*fields, field]


def parse_tmpfs(items: list[str]) -> dict[str, str]:
    """`/path[:options]` each."""
    return dict(item.partition(":")[::2] for item in items)


def parse_device(text: str) -> dict[str, str]:
    """`/dev/x[:/dev/y][:rwm]` as the API's DeviceMapping."""
    parts = text.split(":")
    source, target, access = parts[0], parts[0], "rwm"
    if len(parts) == 2 and _is_access(parts[1]):
        access = parts[1]
    elif len(parts) >= 2:
        target = parts[1] or source
    if len(parts) == 3:
        access = parts[2]
    if not source or len(parts) > 3 or not _is_access(access):
        raise InvalidInput(f"invalid device: {text!r}", hint="write it as /dev/x[:/dev/y][:rwm]")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": access}


def _is_access(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and not text.strip("rwm")


def parse_ulimit(text: str) -> dict[str, Any]:
    """`name=soft[:hard]` as the API's Ulimit; -1 is unlimited."""
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        if not name or not equals:
            raise ValueError
        low, high = int(soft), int(hard) if colon else int(soft)
    except ValueError:
        raise InvalidInput(
            f"invalid ulimit: {text!r}", hint="write it as nofile=1024:4096"
        ) from None
    if name != name.lower():
        raise InvalidInput(f"invalid ulimit type: {name}")
    if low > high != -1 or (low == -1 != high):
        raise InvalidInput(f"ulimit soft limit must be less than or equal to hard limit: {text}")
    return {"Name": name, "Soft": low, "Hard": high}


def parse_throttle(text: str, *, sizes: bool) -> dict[str, Any]:
    """`/dev/x:rate` as the API's ThrottleDevice; the rate is a size or a count."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise InvalidInput(f"invalid device rate: {text!r}", hint="write it as /dev/sda:1mb")
    if sizes:
        return {"Path": path, "Rate": parse_size(rate, "rate")}
    if not rate.isdecimal():
        raise InvalidInput(f"invalid device rate: {text!r} is not a whole number")
    return {"Path": path, "Rate": int(rate)}


def parse_weight(text: str) -> dict[str, Any]:
    """`/dev/x:weight` as the API's ThrottleDevice; 0 or 10 to 1000."""
    path, colon, weight = text.rpartition(":")
    if not colon or not path.startswith("/dev/") or not weight.isdecimal():
        raise InvalidInput(f"invalid device weight: {text!r}", hint="write it as /dev/sda:500")
    return {"Path": path, "Weight": int(weight)}


def parse_ports(items: list[str]) -> dict[str, list[dict[str, str]]]:
    """`[ip:][host:]container[/protocol]` each, ranges too, as the API's PortBindings."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for item in items:
        rest, _, protocol = item.partition("/")
        host, _, container = rest.rpartition(":")
        address, _, outer = host.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            address, outer = host, ""
        inner_range = parse_port_range(container, item)
        outer_range = parse_port_range(outer, item) if outer else None
        if outer_range and len(outer_range) not in (1, len(inner_range)) and len(inner_range) != 1:
            raise InvalidInput(f"invalid port mapping {item!r}: the ranges differ in length")
        for index, port in enumerate(inner_range):
            if not outer_range:
                text = ""
            elif len(inner_range) == 1 and len(outer_range) > 1:
                text = f"{outer_range[0]}-{outer_range[-1]}"
            elif len(outer_range) == len(inner_range):
                text = str(outer_range[index])
            else:
                raise InvalidInput(f"invalid port mapping {item!r}: the ranges differ in length")
            binding = {"HostIp": address.strip("[]"), "HostPort": text}
            bindings.setdefault(f"{port}/{protocol or 'tcp'}", []).append(binding)
    return bindings


def parse_port_range(text: str, item: str) -> range:
    """`80` or `8000-8010`."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or len(text) > 11:
        raise InvalidInput(
            f"invalid port: {item!r}", hint="write it as [ip:][host:]container[/tcp]"
        )
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise InvalidInput(f"invalid port: {item!r} is out of range")
    return range(low, high + 1)
