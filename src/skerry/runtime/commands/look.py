"""`list` and `ps`."""

import json
import os

from skerry.base.errors import InvalidInput, SystemFault
from skerry.runtime import state
from skerry.runtime.arguments import SWITCH, VALUE, parse
from skerry.runtime.context import Context


def containers(context: Context, words: list[str]) -> int:
    """List the containers below the root."""
    given = parse(words, {"format": VALUE, "quiet": SWITCH}, {"f": "format", "q": "quiet"})
    records = state.all_records(context.root)
    if "quiet" in given.switches:
        os.write(1, "".join(f"{record.id}\n" for record in records).encode())
        return 0
    rows = []
    for record in records:
        known = state.oci_state(context.root, record)
        rows.append(
            {
                "ociVersion": known["ociVersion"],
                "id": record.id,
                "pid": known["pid"],
                "status": known["status"],
                "bundle": record.bundle,
                "rootfs": record.rootfs,
                "created": record.created,
                "owner": _owner(record.owner),
            }
        )
    how = given.value("format", "table")
    if how == "json":
        os.write(1, (json.dumps(rows or None) + "\n").encode())
    elif how == "table":
        names = ("id", "pid", "status", "bundle", "created", "owner")
        cells = [[str(row[name]) for name in names] for row in rows]
        os.write(1, _table([[name.upper() for name in names], *cells]).encode())
    else:
        raise InvalidInput(f"invalid format option: {how!r:.60}")
    return 0


def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(rows[0]))]
    widths[-1] = 0
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]
    return "".join(f"{line}\n" for line in lines)


def processes(context: Context, words: list[str]) -> int:
    """Show a container's processes: pids as JSON, or what ps(1) says about them."""
    given = parse(words, {"format": VALUE}, {"f": "format"}, command_follows=True)
    if not given.words:
        raise InvalidInput("needs a container", hint="usage: skerry-runtime ps ID [ps options]")
    record = state.load(context.root, given.words[0])
    pids = state.group_of(record).pids() if record.cgroup else [record.pid]
    how = given.value("format", "table")
    if how == "json":
        os.write(1, (json.dumps(pids) + "\n").encode())
        return 0
    if how != "table":
        raise InvalidInput(f"invalid format option: {how!r:.60}")
    lines = _ps(given.words[1:] or ["-ef"])
    column = lines[0].split().index("PID") if "PID" in lines[0].split() else -1
    if column < 0:
        raise SystemFault("couldn't find PID field in ps output")
    wanted = {str(pid) for pid in pids}
    shown = [
        line
        for line in lines[1:]
        if line.split()[column : column + 1] and line.split()[column] in wanted
    ]
    os.write(1, "".join(f"{line}\n" for line in [lines[0], *shown]).encode())
    return 0


def _ps(options: list[str]) -> list[str]:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawnp(
            "ps", ["ps", *options], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
        )
    except FileNotFoundError:
        raise SystemFault(
            "ps is not installed", hint="install procps, or use --format json"
        ) from None
    finally:
        os.close(write)
    with open(read, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 or not lines:
        raise SystemFault(f"ps {' '.join(options)} failed")
    return lines
