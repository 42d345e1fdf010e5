"""`stats`: what containers use now."""

from __future__ import annotations

import time

from skerry.cli.context import Context, out, terminal
from skerry.cli.human import size_binary, size_decimal
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.table import Listing
from skerry.sdk import wire
from skerry.sdk.client import error_of, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skerry.sdk.http import Connection

    Reading = dict[str, Any]

INTERVAL = 1.0
"""Seconds between two readings: processor time is a difference."""
LISTING = Listing(
    {
        "Container": "CONTAINER",
        "ID": "CONTAINER ID",
        "Name": "NAME",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
    },
    "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs",
    "ID",
)


def stats(context: Context, parsed: Parsed) -> int:
    """A table that renews itself, or one with --no-stream."""
    once = parsed.on("no-stream")
    whole, form = parsed.on("no-trunc"), parsed.text("format")
    live = not once and terminal(1)
    before = _read(context, _names(context, parsed), bool(parsed.arguments))
    while True:
        time.sleep(INTERVAL)
        names = _names(context, parsed)
        now = _read(context, names, strict=False)
        rows = [fields(name, before.get(name), now.get(name), whole=whole) for name in names]
        text_ = LISTING.text(rows, form=form)
        # Home, each line cleared to its end, then everything below: no flicker.
        out("\x1b[H" + text_.replace("\n", "\x1b[K\n") + "\x1b[J" if live else text_, end="")
        if once:
            return 0
        before = now


def _names(context: Context, parsed: Parsed) -> list[str]:
    if parsed.arguments:
        return parsed.arguments
    target = f"/containers/json{query(all=True if parsed.on('all') else None)}"
    return [container["Id"] for container in context.client.get(target)]


def _read(context: Context, names: list[str], strict: bool) -> dict[str, Reading]:
    """A reading of each, asked for at the same time: an engine may take a second over one."""
    asked: list[tuple[str, Connection]] = []
    readings: dict[str, Reading] = {}
    try:
        for name in names:
            connection = context.client.connect()
            asked.append((name, connection))
            connection.send("GET", f"/containers/{quote(name)}/stats?stream=0&one-shot=1")
        for name, connection in asked:
            response = connection.receive()
            payload = response.read()
            if response.status == 200:
                readings[name] = wire.loads(payload)
            elif strict or response.status != 404:
                raise error_of(response.status, payload)
    finally:
        for _, connection in asked:
            connection.close()
    return readings


def fields(name: str, before: Reading | None, now: Reading | None, *, whole: bool) -> Reading:
    """A container's two readings as the table's fields; dashes while it does not run."""
    reading = now or before or {}
    full = str(reading.get("id") or name)
    row = {
        "Container": name if whole or len(name) < 64 else name[:12],
        "ID": full if whole else full[:12],
        "Name": str(reading.get("name") or "--").lstrip("/"),
    }
    if not now or not now.get("cpu_stats"):
        dashes = "-- / --"
        return row | {"CPUPerc": "--", "MemUsage": dashes, "MemPerc": "--", "NetIO": dashes,
                      "BlockIO": dashes, "PIDs": "--"}  # fmt: skip
    memory = now.get("memory_stats") or {}
    used, limit = used_memory(memory), memory.get("limit") or 0
    received, sent = _network(now)
    read, written = _block(now)
    return row | {
        "CPUPerc": f"{cpu_percent(before or {}, now):.2f}%",
        "MemUsage": f"{size_binary(used)} / {size_binary(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{size_decimal(received, 3)} / {size_decimal(sent, 3)}",
        "BlockIO": f"{size_decimal(read, 3)} / {size_decimal(written, 3)}",
        "PIDs": str((now.get("pids_stats") or {}).get("current") or 0),
    }


def cpu_percent(before: Reading, now: Reading) -> float:
    """Share of the host's processor time between the readings; 100 is one processor."""
    stats_now = now["cpu_stats"]
    stats_before = before.get("cpu_stats") or now.get("precpu_stats") or {}
    usage = stats_now.get("cpu_usage") or {}
    usage_before = stats_before.get("cpu_usage") or {}
    spent = (usage.get("total_usage") or 0) - (usage_before.get("total_usage") or 0)
    elapsed = (stats_now.get("system_cpu_usage") or 0) - (stats_before.get("system_cpu_usage") or 0)
    if spent <= 0 or elapsed <= 0:
        return 0.0
    processors = stats_now.get("online_cpus") or len(usage.get("percpu_usage") or ()) or 1
    return float(spent / elapsed * processors * 100)


def used_memory(memory: Reading) -> int:
    """Bytes without the page cache that the kernel can drop at once (cgroup v1 and v2 names)."""
    usage = memory.get("usage") or 0
    details = memory.get("stats") or {}
    idle = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(usage - idle if idle < usage else usage)


def _network(now: Reading) -> tuple[int, int]:
    interfaces = (now.get("networks") or {}).values()
    received = sum(each.get("rx_bytes") or 0 for each in interfaces)
    return received, sum(each.get("tx_bytes") or 0 for each in interfaces)


def _block(now: Reading) -> tuple[int, int]:
    entries = (now.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    totals = {"read": 0, "write": 0}
    for entry in entries:
        operation = str(entry.get("op")).lower()
        if operation in totals:
            totals[operation] += entry.get("value") or 0
    return totals["read"], totals["write"]


COMMANDS = {
    "stats": Command(
        stats,
        "Show what containers use now",
        "[CONTAINER...]",
        (
            switch("all", "Also those that do not run", "a"),
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("no-stream", "One table, then end"),
            switch("no-trunc", "Do not shorten"),
        ),
        complete="running",
    )
}
