"""`info` and `version`."""

from __future__ import annotations

import sys

from skerry.base.errors import SkerryError
from skerry.cli.context import Context, out, report
from skerry.cli.human import size_binary
from skerry.cli.options import Command, Parsed, text
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def version(context: Context, parsed: Parsed) -> int:
    """Of the command line and of the engine; 1 when there is no engine to ask."""
    from skerry import __version__

    client = {
        "Version": __version__,
        "Python": sys.version.split()[0],
        "Os": sys.platform,
    }
    server: dict[str, Any] | None = None
    failure: SkerryError | None = None
    try:
        server = context.client.get("/version")
    except SkerryError as error:
        failure = error
    form = parsed.text("format")
    if form:
        _formatted(form, {"Client": client, "Server": server})
    else:
        out(_version_text("Client", client), end="")
        if server:
            out("")
            out(_version_text("Server", server), end="")
    if failure:
        report(failure)
        return 1
    return 0


def _version_text(what: str, facts: dict[str, Any]) -> str:
    rows = [
        ("Version", facts.get("Version")),
        ("API version", facts.get("ApiVersion")),
        ("Minimum API", facts.get("MinAPIVersion")),
        ("Python", facts.get("Python")),
        ("OS/Arch", f"{facts['Os']}/{facts['Arch']}" if facts.get("Arch") else facts.get("Os")),
        ("Kernel", facts.get("KernelVersion")),
    ]
    rows += [
        (component["Name"], component.get("Version"))
        for component in facts.get("Components") or ()
        if component.get("Name") != "Engine"
    ]
    lines = [f" {name + ':':<19}{value}" for name, value in rows if value]
    return "\n".join([f"{what}:", *lines]) + "\n"


_COUNTS = (
    ("ContainersRunning", "Running"),
    ("ContainersPaused", "Paused"),
    ("ContainersStopped", "Stopped"),
)
_FACTS = (
    ("Images", "Images"),
    ("ServerVersion", "Server Version"),
    ("Driver", "Storage Driver"),
    ("LoggingDriver", "Logging Driver"),
    ("CgroupDriver", "Cgroup Driver"),
    ("CgroupVersion", "Cgroup Version"),
    ("DefaultRuntime", "Default Runtime"),
    ("InitBinary", "Init Binary"),
    ("KernelVersion", "Kernel Version"),
    ("OperatingSystem", "Operating System"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("NCPU", "CPUs"),
    ("MemTotal", "Total Memory"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("DockerRootDir", "Root Dir"),
    ("LiveRestoreEnabled", "Live Restore Enabled"),
)


def info(context: Context, parsed: Parsed) -> int:
    """About the engine and its host."""
    facts = context.client.get("/info")
    if parsed.text("format"):
        _formatted(parsed.text("format"), facts)
        return 0
    lines = [f"Host: {context.host}", f"Containers: {facts.get('Containers', 0)}"]
    lines += [f" {label}: {facts.get(key, 0)}" for key, label in _COUNTS]
    for key, label in _FACTS:
        value = facts.get(key)
        if value in (None, ""):
            continue
        if key == "MemTotal":
            value = size_binary(value)
        lines.append(f"{label}: {str(value).lower() if isinstance(value, bool) else value}")
        if key == "Driver":
            lines += [f" {name}: {each}" for name, each in facts.get("DriverStatus") or ()]
    options = [str(option) for option in facts.get("SecurityOptions") or ()]
    if options:
        lines += ["Security Options:", *(f" {option.replace('name=', '')}" for option in options)]
    runtimes = sorted(facts.get("Runtimes") or ())
    if runtimes:
        lines.append(f"Runtimes: {' '.join(runtimes)}")
    spares = facts.get("SpareMachines") or ()
    if spares:
        lines += [f"Spare Machines: {len(spares)}", *(f" {_spare(each)}" for each in spares)]
    lines += [f"WARNING: {warning}" for warning in facts.get("Warnings") or ()]
    out("\n".join(lines))
    return 0


def _spare(machine: dict[str, Any]) -> str:
    cpus, own = machine["NCPU"], machine["OwnMemory"]
    state = f"ready, {size_binary(own)} of the host's" if machine["Ready"] else "being made"
    return f"{size_binary(machine['Memory'])}, {cpus} CPU{'s' if cpus != 1 else ''}: {state}"


def _formatted(form: str, value: Any) -> None:
    if form == "json":
        out(wire.dumps(value))
        return
    from skerry.cli import template

    out(template.parse(form).render(value))


_FORMAT = text("format", "'json' or a Go template", "FORMAT", "f")
COMMANDS = {
    "version": Command(version, "Show the versions of client and engine", "", (_FORMAT,), most=0),
    "info": Command(info, "Show facts about the engine and its host", "", (_FORMAT,), most=0),
}
