"""`update`: change the limits of a container that runs."""

import os

from skerry.base.errors import Conflict, InvalidInput
from skerry.base.light import Any
from skerry.kernel import cgroups
from skerry.runtime import bundle, state
from skerry.runtime.arguments import VALUE, Parsed, exactly, parse
from skerry.runtime.context import Context

_NUMBERS: dict[str, tuple[str, str]] = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
"""Option: where its number goes in `linux.resources`."""
_WORDS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_REFUSED = ("l3-cache-schema", "mem-bw-schema")
_IGNORED = ("kernel-memory", "kernel-memory-tcp")
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def update(context: Context, words: list[str]) -> int:
    """Apply `--resources FILE` (`-` is standard input) or the single options."""
    names = (*_NUMBERS, *_WORDS, *_REFUSED, *_IGNORED, "resources")
    given = parse(words, dict.fromkeys(names, VALUE), {"r": "resources"})
    (name,) = exactly(given.words, 1, "skerry-runtime update [options] ID")
    for refused in _REFUSED:
        if given.value(refused):
            raise InvalidInput(f"--{refused}: Intel RDT is not supported")
    record = state.load(context.root, name)
    if state.status(context.root, record) == "stopped":
        raise Conflict("container not running")
    resources = _from_file(given.value("resources")) if given.value("resources") else _given(given)
    layout = cgroups.detect()
    writes = cgroups.plan(record.cgroup, resources, layout, devices=False)
    cgroups.Cgroup(record.cgroup, layout).apply(writes)
    return 0


def _from_file(path: str) -> dict[str, Any]:
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            data = file.read(bundle.MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    return _without_defaults(bundle.parse_resources(data))


def _without_defaults(resources: dict[str, Any]) -> dict[str, Any]:
    """Callers send whole objects whose zeros and empty texts mean "as it is"."""
    kept: dict[str, Any] = {}
    for part, fields in resources.items():
        if part == "devices":
            continue
        if isinstance(fields, dict):
            fields = {k: v for k, v in fields.items() if v not in (0, "", None, [])}
        if fields:
            kept[part] = fields
    return kept


def _given(given: Parsed) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for option, (part, field) in _NUMBERS.items():
        text = given.value(option)
        if text and text != "0":
            resources.setdefault(part, {})[field] = _amount(option, text)
    for option, (part, field) in _WORDS.items():
        if given.value(option):
            resources.setdefault(part, {})[field] = given.value(option)
    return resources


def _amount(option: str, text: str) -> int:
    """A number, with a unit where it counts bytes."""
    factor = 1
    lowered = text.lower().removesuffix("b") if option.startswith("memory") else text
    if option.startswith("memory") and lowered[-1:] in _UNITS:
        factor = _UNITS[lowered[-1]]
        lowered = lowered[:-1]
    try:
        return int(lowered) * factor
    except ValueError:
        raise InvalidInput(f"invalid value for --{option}: {text!r:.60}") from None
