"""`RUN --mount=type=…,key=value,…` (Dockerfile reference, "RUN --mount")."""

import csv
import posixpath
import re
from collections.abc import Callable
from typing import Any, Final

from skerry.build.language.faults import DockerfileFault, suggestion
from skerry.build.operations import Mount

_KEYS: Final[dict[str, frozenset[str]]] = {
    "bind": frozenset({"target", "source", "from", "rw", "ro"}),
    "cache": frozenset({"id", "target", "ro", "rw", "sharing", "from", "source", "mode"})
    | {"uid", "gid"},
    "tmpfs": frozenset({"target", "size"}),
    "secret": frozenset({"id", "target", "required", "mode", "uid", "gid", "env"}),
    "ssh": frozenset({"id", "target", "required", "mode", "uid", "gid"}),
}
_ALIASES: Final = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "readonly": "ro",
    "readwrite": "rw",
}
_SWITCHES: Final = frozenset({"ro", "rw", "required"})
_SHARING: Final = ("shared", "private", "locked")
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_ID: Final = (1 << 32) - 2


def parse(text: str, directory: str, expand: Callable[[str], str]) -> Mount:
    """One flag's value; relative targets are below `directory`. DockerfileFault without a place."""
    fields = _fields(text, expand)
    kind = fields.pop("type", "bind").lower()
    known = _KEYS.get(kind)
    if known is None:
        raise DockerfileFault(f"unsupported mount type {kind!r}{suggestion(kind, _KEYS)}")
    for key in fields:
        if key not in known:
            raise DockerfileFault(
                f"unexpected key {key!r} for mount type {kind!r}{suggestion(key, known)}"
            )
    target = fields.get("target", "")
    if kind in ("bind", "cache", "tmpfs") and not target:
        raise DockerfileFault('invalid mount target "": a target is required')
    if target:
        target = posixpath.normpath(posixpath.join(directory, target))
        if target == "/":
            raise DockerfileFault('invalid mount target "/"')
    sharing = fields.get("sharing", "shared").lower()
    if sharing not in _SHARING:
        raise DockerfileFault(
            f"unsupported sharing value {sharing!r}{suggestion(sharing, _SHARING)}"
        )
    read_only = kind == "bind"
    if "rw" in fields:
        read_only = not _truth(fields["rw"], "rw")
    if "ro" in fields:
        read_only = _truth(fields["ro"], "ro")
    id_ = fields.get("id", "")
    if kind == "secret":
        id_ = id_ or posixpath.basename(target)
        if not id_:
            raise DockerfileFault("one of source, target required")
    elif kind == "ssh":
        id_ = id_ or "default"
    return Mount(
        kind,
        target,
        fields.get("source", ""),
        fields.get("from", ""),
        id_,
        sharing,
        _mode(fields["mode"]) if "mode" in fields else None,
        _number(fields.get("uid", "0"), "uid"),
        _number(fields.get("gid", "0"), "gid"),
        _size(fields["size"]) if "size" in fields else 0,
        "required" in fields and _truth(fields["required"], "required"),
        read_only,
        fields.get("env", ""),
    )


def _fields(text: str, expand: Callable[[str], str]) -> dict[str, str]:
    try:
        parts = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise DockerfileFault(f"invalid mount {text[:80]!r}: {error}") from None
    found: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        key = _ALIASES.get(key, key)
        if not equals and key not in _SWITCHES:
            raise DockerfileFault(f"invalid field {part[:80]!r} must be a key=value pair")
        found[key] = expand(value.strip()) if equals else "true"
    return found


def _truth(text: str, key: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise DockerfileFault(f"invalid value for {key}: {text[:40]!r}")
    return text.lower() in ("true", "1")


def _mode(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", text) or int(text, 8) > 0o7777:
        raise DockerfileFault(f"invalid value {text[:40]!r} for mode")
    return int(text, 8)


def _number(text: str, key: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _MAX_ID:
        raise DockerfileFault(f"invalid value {text[:40]!r} for {key}")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise DockerfileFault(f"invalid value for size: {text[:40]!r}")
    return int(found[1]) * _UNITS[found[2]]
