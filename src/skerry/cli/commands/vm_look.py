"""`vm stats`, `vm ip`: what machines use and where they are reached."""

from __future__ import annotations

import time

from skerry.base.errors import Conflict, NotFound
from skerry.cli.commands.vm import machines, path
from skerry.cli.context import Context, out
from skerry.cli.human import size_binary
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.table import Listing, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    {
        "Name": "NAME",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "DiskIO": "DISK I/O",
        "CPUs": "CPUS",
    },
    "Name CPUPerc MemUsage DiskIO CPUs",
    "Name",
)
INTERVAL = 1.0


def stats(context: Context, parsed: Parsed) -> int:
    """Two readings a second apart."""
    names = parsed.arguments or [
        each["name"]
        for each in context.client.get("/skerry/vms/json")
        if each["status"] in ("running", "paused")
    ]
    first = {name: context.client.get(path(name, "/stats")) for name in names}
    if names:
        time.sleep(INTERVAL)
    rows = []
    for name in names:
        try:
            rows.append(_row(name, first[name], context.client.get(path(name, "/stats"))))
        except (Conflict, NotFound):
            continue  # it has ended meanwhile
    LISTING.show(rows, form=parsed.text("format"))
    return 0


def _row(name: str, before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    share = (now["cpu"] - before["cpu"]) / max(1, now["at"] - before["at"])
    read = sum(each["read"] for each in now["disks"].values())
    written = sum(each["written"] for each in now["disks"].values())
    return {
        "Name": name,
        "CPUPerc": f"{100 * share:.2f}%",
        "MemUsage": f"{size_binary(now['memory'])} / {size_binary(now['memory_limit'])}",
        "DiskIO": f"{size_binary(read)} / {size_binary(written)}",
        "CPUs": now["cpus"],
    }


def ip(context: Context, parsed: Parsed) -> int:
    """Addresses, one a line; with --all every card with its ports."""
    found = context.client.get(path(parsed.arguments[0], "/addresses"))
    if not parsed.on("all"):
        out("".join(f"{address}\n" for nic in found for address in nic["addresses"]), end="")
        return 0
    rows = [["NIC", "KIND", "MAC", "ADDRESSES", "PORTS"]]
    rows += [
        [
            nic["nic"],
            f"{nic['kind']}={nic['network']}" if nic["network"] else nic["kind"],
            nic["mac"],
            ", ".join(nic["addresses"]) or "-",
            ", ".join(nic["forwards"]) or "-",
        ]
        for nic in found
    ]
    out(layout(rows), end="")
    return 0


COMMANDS = {
    "vm stats": Command(
        stats,
        "Show what running machines use",
        "[MACHINE...]",
        (text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),),
        complete="machines",
    ),
    "vm ip": machines(
        ip, "Show a machine's addresses", switch("all", "Also cards and ports", "a"), one=True
    ),
}
