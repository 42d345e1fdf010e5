"""`update`: change limits of containers, running or not."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.cli.context import Context, each, err
from skerry.cli.create_body import parse_restart
from skerry.cli.options import Command, Parsed, number, text
from skerry.cli.values import parse_cpus, parse_size
from skerry.sdk.client import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "pids-limit": "PidsLimit",
}
_SIZES = {
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
}
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def update(context: Context, parsed: Parsed) -> int:
    """Send what was given; print the names."""
    body: dict[str, Any] = {
        key: parsed.number(name) for name, key in _NUMBERS.items() if name in parsed.given
    }
    for name, key in _SIZES.items():
        if name in parsed.given:
            body[key] = parse_size(parsed.text(name), f"--{name}")
    for name, key in _TEXTS.items():
        if name in parsed.given:
            body[key] = parsed.text(name)
    if "cpus" in parsed.given:
        body["NanoCpus"] = parse_cpus(parsed.text("cpus"))
    if parsed.text("restart"):
        body["RestartPolicy"] = parse_restart(parsed.text("restart"))
    if not body:
        raise InvalidInput("nothing to update", hint="give at least one limit, such as --memory")

    def do(name: str) -> None:
        answer = context.client.post(f"/containers/{quote(name)}/update", body)
        for warning in (answer or {}).get("Warnings") or ():
            err(f"WARNING: {warning}")

    return each(context, parsed.arguments, do)


COMMANDS = {
    "update": Command(
        update,
        "Change limits of containers",
        "CONTAINER [CONTAINER...]",
        (
            number("blkio-weight", "Block I/O weight, 10 to 1000"),
            number("cpu-period", "CFS period in microseconds"),
            number("cpu-quota", "CFS quota in microseconds"),
            number("cpu-rt-period", "Real-time period in microseconds"),
            number("cpu-rt-runtime", "Real-time runtime in microseconds"),
            number("cpu-shares", "Relative weight of the processors' time", "N", "c"),
            text("cpus", "Number of processors", "N"),
            text("cpuset-cpus", "Processors that may be used", "LIST"),
            text("cpuset-mems", "Memory nodes that may be used", "LIST"),
            text("memory", "Memory limit", "SIZE", "m"),
            text("memory-reservation", "Memory soft limit", "SIZE"),
            text("memory-swap", "Memory and swap together; -1 for unlimited swap", "SIZE"),
            number("pids-limit", "Limit of processes and threads; -1 for none"),
            text("restart", "no, on-failure[:N], always, unless-stopped", "POLICY", "", "restart"),
        ),
        least=1,
        complete="containers",
    )
}
