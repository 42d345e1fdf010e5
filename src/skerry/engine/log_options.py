"""Docker's `LogConfig`: which driver keeps a container's output, where and how much of it."""

import re
from collections.abc import Mapping
from typing import Any, Final

from skerry.base.errors import InvalidInput
from skerry.base.isolation import LogOptions
from skerry.engine.record import Record

JSON_FILE, LOCAL, NONE = "json-file", "local", "none"
DRIVERS: Final = (JSON_FILE, LOCAL, NONE)
ENDINGS: Final = {JSON_FILE: "-json.log", LOCAL: "-local.log"}
"""By driver, how its file is called after the container's id."""

_FILES = frozenset({"max-size", "max-file", "compress"})
_DETAILS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_KNOWN: Final = {JSON_FILE: _FILES | _DETAILS, LOCAL: _FILES}
_GENERAL = frozenset({"mode", "max-buffer-size"})
_DEFAULTS: Final = {
    JSON_FILE: LogOptions(),
    LOCAL: LogOptions(LOCAL, "", 20 << 20, 5, compress=True),
}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def driver_of(host: Mapping[str, Any]) -> str:
    """The driver that a HostConfig names."""
    return (host.get("LogConfig") or {}).get("Type") or JSON_FILE


def file_name(id: str, host: Mapping[str, Any]) -> str:
    """How a container's log is called in its folder; empty when it keeps none."""
    driver = driver_of(host)
    return f"{id}{ENDINGS[driver]}" if driver in ENDINGS else ""


def log_options(host: Mapping[str, Any], path: str) -> LogOptions:
    """How the keeper writes the log at `path`. InvalidInput in Docker's words."""
    driver = driver_of(host)
    if driver not in DRIVERS:
        raise InvalidInput(
            f'error looking up logging plugin {driver:.80}: plugin "{driver:.80}" not found',
            hint=f"there are the drivers {', '.join(DRIVERS)}",
        )
    if driver == NONE:
        return LogOptions(NONE)
    options = (host.get("LogConfig") or {}).get("Config") or {}
    unknown = set(options) - _KNOWN[driver] - _GENERAL
    if unknown:
        which = "for json-file log driver" if driver == JSON_FILE else f"for log driver {driver}"
        raise InvalidInput(f"unknown log opt '{min(unknown):.80}' {which}")
    if options.get("mode", "") not in ("", "blocking", "non-blocking"):
        raise InvalidInput(f"logger: logging mode not supported: {options['mode']:.40}")
    defaults = _DEFAULTS[driver]
    size = options.get("max-size", "")
    count = options.get("max-file", str(defaults.max_file))
    if not (count.isascii() and count.isdigit()) or len(count) > 4 or not 1 <= int(count) <= 1000:
        raise InvalidInput(f"max-file cannot be less than 1 or more than 1000: {count:.20}")
    max_size = defaults.max_size if not size else 0 if size == "-1" else parse_size(size)
    if max_size == 0 and size != "-1":
        raise InvalidInput("max-size must be a positive number")
    said = options.get("compress", "")
    if said and said.lower() not in _TRUTH:
        raise InvalidInput(f"invalid value for compress: {said:.20}")
    compress = _TRUTH[said.lower()] if said else defaults.compress
    return LogOptions(driver, path, max_size, int(count), compress)


def tag(template: str, record: Record) -> str:
    """The option `tag` for one container: Docker's fields in double braces are filled in, what is
    none of them stays as it is."""
    image = record.image_id
    fields = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageName": record.image,
        "ImageID": image.removeprefix("sha256:")[:12],
        "ImageFullID": image,
        "DaemonName": "docker",
    }
    return _FIELD.sub(lambda found: fields.get(found[1], found[0]), template)


def parse_size(text: str) -> int:
    """Bytes of `10m`; units are powers of 1024. InvalidInput otherwise."""
    lower = text.strip().lower().removesuffix("b") or "x"
    unit = lower[-1] if lower[-1] in _UNITS else ""
    digits = lower[: len(lower) - len(unit)]
    try:
        size = int(float(digits) * _UNITS[unit])
        if size < 0:
            raise ValueError
        return size
    except (ValueError, OverflowError):
        raise InvalidInput(f"invalid size: '{text:.40}'") from None
