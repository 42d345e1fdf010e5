"""`vm`: full machines, their states."""

from __future__ import annotations

from skerry.base.errors import InvalidInput, NotModified
from skerry.cli import vm_create
from skerry.cli.context import Context, each, err, out, terminal, write
from skerry.cli.human import ago, size_binary
from skerry.cli.options import Command, Option, Parsed, number, switch, text
from skerry.cli.table import Listing
from skerry.sdk import wire
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LISTING = Listing(
    {
        "ID": "MACHINE ID",
        "Name": "NAME",
        "Status": "STATUS",
        "Memory": "MEMORY",
        "CPUs": "CPUS",
        "Disks": "DISKS",
        "Snapshots": "SNAPSHOTS",
        "Firmware": "FIRMWARE",
        "CreatedSince": "CREATED",
        "Autostart": "AUTOSTART",
    },
    "ID Name Status Memory CPUs Disks Snapshots CreatedSince",
    "ID",
)
MACHINE, MACHINES = "MACHINE", "MACHINE [MACHINE...]"


def path(name: str, tail: str = "") -> str:
    """The API's path of a machine."""
    return f"/skerry/vms/{quote(name)}{tail}"


def create(context: Context, parsed: Parsed) -> int:
    """Make a machine; its id."""
    name = parsed.arguments[0] if parsed.arguments else ""
    body = vm_create.body(parsed)
    made = context.client.post(f"/skerry/vms/create{query(name=name)}", body)
    for warning in made.get("Warnings") or ():
        err(f"WARNING: {warning}")
    out(made["Id"] if name else made["Name"])
    if parsed.on("start"):
        context.client.post(path(made["Id"], "/start"))
    return 0


def ls(context: Context, parsed: Parsed) -> int:
    """All machines."""
    whole = parsed.on("no-trunc")
    rows = []
    for machine in context.client.get("/skerry/vms/json"):
        status = machine["status"]
        if status == "running":
            status = f"running {ago(machine['started_at'] / 1e9).removesuffix(' ago')}"
        elif machine["cause"]:
            status = f"{status}: {machine['cause']}"
        rows.append(
            {
                "ID": machine["id"] if whole else machine["id"][:12],
                "Name": machine["name"],
                "Status": status,
                "Memory": size_binary(machine["memory"]),
                "CPUs": machine["cpus"],
                "Disks": ", ".join(size_binary(size) for size in machine["disks"]) or "-",
                "Snapshots": machine["snapshots"],
                "Firmware": machine["firmware"],
                "CreatedSince": ago(machine["created_at"] / 1e9),
                "Autostart": machine["autostart"],
            }
        )
    LISTING.show(rows, form=parsed.text("format"), quiet=parsed.on("quiet"))
    return 0


def inspect(context: Context, parsed: Parsed) -> int:
    """Everything about machines."""
    found = [context.client.get(path(name, "/json")) for name in parsed.arguments]
    form = parsed.text("format")
    if not form:
        out(wire.pretty(found))
        return 0
    from skerry.cli import template

    for value in found:
        out(wire.dumps(value) if form == "json" else template.parse(form).render(value))
    return 0


def _verb(
    action: str, parameters: Callable[[Parsed], dict[str, Any]] | None = None
) -> Callable[[Context, Parsed], int]:
    def run(context: Context, parsed: Parsed) -> int:
        tail = f"/{action}{query(**parameters(parsed)) if parameters else ''}"

        def do(name: str) -> None:
            try:
                context.client.post(path(name, tail))
            except NotModified:
                return  # it is in that state already, as Docker's commands take it

        return each(context, parsed.arguments, do)

    return run


def _stop_parameters(parsed: Parsed) -> dict[str, Any]:
    given = parsed.number("time") if "time" in parsed.given else None
    return {"t": given, "force": True if parsed.on("force") else None}


def rm(context: Context, parsed: Parsed) -> int:
    """Remove machines."""
    tail = query(force=True if parsed.on("force") else None)
    return each(
        context,
        parsed.arguments,
        lambda name: context.client.delete(path(name, tail)),
    )


def logs(context: Context, parsed: Parsed) -> int:
    """What the guest wrote to its serial port, or QEMU to its log."""
    source = "qemu" if parsed.on("qemu") else None
    response = context.client.open("GET", path(parsed.arguments[0], f"/logs{query(source=source)}"))
    try:
        write(1, response.read())
    finally:
        response.connection.close()
    return 0


def console(context: Context, parsed: Parsed) -> int:
    """Join the serial console until the machine ends or the keys are pressed."""
    from skerry.cli.session import Session

    keys = parsed.text("detach-keys") or "ctrl-]"
    tail = query(detachKeys=keys, scrollback=parsed.number("scrollback", 16384))
    interactive = terminal(0)
    session = Session(context.client, "", tty=True, stdin=True, keys=keys)
    stream = context.client.hijack(path(parsed.arguments[0], f"/console{tail}"))
    if interactive:
        err(f"Joined to {parsed.arguments[0]}. {keys} leaves it running.\r")
    session.run(stream)
    return 0


def display(context: Context, parsed: Parsed) -> int:
    """Where a VNC client finds the screen."""
    found = context.client.get(path(parsed.arguments[0], "/display"))
    out(found["address"])
    return 0


def screenshot(context: Context, parsed: Parsed) -> int:
    """The screen as a PNG file."""
    target = parsed.text("output") or f"{parsed.arguments[0]}.png"
    response = context.client.open("GET", path(parsed.arguments[0], "/screenshot"))
    try:
        data = response.read()
    finally:
        response.connection.close()
    if target == "-":
        write(1, data)
        return 0
    try:
        with open(target, "wb") as file:
            file.write(data)
    except OSError as error:
        raise InvalidInput(f"cannot write {target}: {error.strerror}") from None
    out(target)
    return 0


def sendkey(context: Context, parsed: Parsed) -> int:
    """Press keys."""
    name, *chords = parsed.arguments
    if not chords and not parsed.text("text"):
        raise InvalidInput(
            "no key to press was given", hint="keys as ret or ctrl-alt-f2, or --text"
        )
    typed = parsed.text("text").replace("\\n", "\n").replace("\\t", "\t")
    context.client.post(path(name, "/keys"), {"keys": chords, "text": typed})
    return 0


def machines(
    run: Callable[[Context, Parsed], int], summary: str, *options: Option, one: bool = False
) -> Command:
    """A command on one machine or on several."""
    return Command(
        run,
        summary,
        MACHINE if one else MACHINES,
        options,
        least=1,
        most=1 if one else None,
        complete="machines",
    )


COMMANDS = {
    "vm create": Command(
        create,
        "Make a full machine from disks, images or discs",
        "[NAME]",
        vm_create.CREATE,
        most=1,
    ),
    "vm ls": Command(
        ls,
        "List machines",
        "",
        (
            text("format", "'table TEMPLATE', 'json' or a Go template", "FORMAT"),
            switch("no-trunc", "Do not shorten"),
            switch("quiet", "Ids only", "q"),
        ),
        most=0,
    ),
    "vm inspect": machines(
        inspect,
        "Show everything about machines",
        text("format", "'json' or a Go template", "FORMAT", "f"),
    ),
    "vm start": machines(_verb("start"), "Start machines, or go on from their saved state"),
    "vm stop": machines(
        _verb("stop", _stop_parameters),
        "Press the power button, then switch off",
        number("time", "Seconds to wait before it is switched off (default 30)", "SECONDS", "t"),
        switch("force", "Switch off at once", "f"),
    ),
    "vm reset": machines(_verb("reset"), "Press the reset button"),
    "vm pause": machines(_verb("pause"), "Hold the processors"),
    "vm resume": machines(_verb("resume"), "Go on after pause or save"),
    "vm save": machines(_verb("save"), "Write the whole state to the disk and switch off"),
    "vm discard": machines(_verb("discard"), "Forget the saved state"),
    "vm rm": machines(
        rm, "Remove machines, their disks and snapshots", switch("force", "Also if it runs", "f")
    ),
    "vm logs": machines(
        logs,
        "Show what the guest wrote to its serial port",
        switch("qemu", "What QEMU complained about instead"),
        one=True,
    ),
    "vm console": machines(
        console,
        "Join the serial console",
        text("detach-keys", "Keys that leave it: ctrl-]", "KEYS"),
        number("scrollback", "Bytes of the past to show (default 16384)", "BYTES"),
        one=True,
    ),
    "vm display": machines(display, "Show where VNC clients find the screen", one=True),
    "vm screenshot": machines(
        screenshot,
        "Save the screen as a PNG",
        text("output", "The file (default MACHINE.png), - for standard output", "FILE", "o"),
        one=True,
    ),
    "vm sendkey": Command(
        sendkey,
        "Press keys",
        "MACHINE [KEY...]",
        (text("text", "Type this, too; \\n is the return key", "TEXT"),),
        least=1,
        complete="machines",
        text="A KEY is a name as ret, f2, or several at once: ctrl-alt-delete.",
    ),
}
