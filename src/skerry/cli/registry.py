"""Where each command lives. A command's module is imported when it is called, never before."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.cli.options import Command

COMMANDS: dict[str, str] = {
    "build": "build",
    "run": "run",
    "create": "run",
    "exec": "exec",
    "attach": "attach",
    "ps": "ps",
    "logs": "logs",
    "port": "networks",
    "start": "lifecycle",
    "stop": "lifecycle",
    "restart": "lifecycle",
    "kill": "lifecycle",
    "pause": "lifecycle",
    "unpause": "lifecycle",
    "wait": "lifecycle",
    "rename": "lifecycle",
    "rm": "lifecycle",
    "update": "update",
    "top": "top",
    "stats": "stats",
    "inspect": "inspect",
    "events": "events",
    "cp": "copy",
    "diff": "changes",
    "commit": "changes",
    "fork": "snapshot",
    "promote": "snapshot",
    "export": "archives",
    "save": "archives",
    "load": "archives",
    "import": "archives",
    "copy": "copy_images",
    "images": "images",
    "rmi": "images",
    "tag": "images",
    "history": "images",
    "pull": "pull",
    "push": "push",
    "login": "login",
    "logout": "login",
    "search": "search",
    "sign": "sign",
    "verify": "verify",
    "sbom": "sbom",
    "bootstrap": "bootstrap",
    "info": "system",
    "version": "system",
    "doctor": "doctor",
    "engine": "engine",
    "registry": "registry",
    "completion": "completion",
    "help": "help",
}
"""Command to the module in `skerry.cli.commands` whose COMMANDS has it."""

HIDDEN: dict[str, str] = {"__names": "names"}
"""Commands of the completion scripts."""

_CONTAINER_VERBS = (
    *("attach", "commit", "cp", "create", "diff", "exec", "export", "fork", "kill", "logs"),
    *("pause", "port", "rename", "restart", "rm", "run", "start", "stats", "stop", "top"),
    *("unpause", "update", "wait"),
)

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "container": {name: (COMMANDS[name], name) for name in _CONTAINER_VERBS}
    | {
        "ls": ("ps", "ps"),
        "ps": ("ps", "ps"),
        "list": ("ps", "ps"),
        "inspect": ("inspect", "container inspect"),
        "prune": ("prune", "container prune"),
    },
    "builder": {
        "build": ("build", "build"),
        "prune": ("builder", "builder prune"),
        "du": ("builder", "builder du"),
        "mounts": ("builder", "builder mounts"),
        "place": ("builder", "builder place"),
        "export": ("builder", "builder export"),
        "import": ("builder", "builder import"),
        "rm": ("builder", "builder rm"),
    },
    "image": {
        "build": ("build", "build"),
        "ls": ("images", "images"),
        "list": ("images", "images"),
        "rm": ("images", "rmi"),
        "remove": ("images", "rmi"),
        "tag": ("images", "tag"),
        "history": ("images", "history"),
        "exists": ("images", "image exists"),
        "inspect": ("inspect", "image inspect"),
        "prune": ("prune", "image prune"),
        "pull": ("pull", "pull"),
        "push": ("push", "push"),
        "save": ("archives", "save"),
        "load": ("archives", "load"),
        "import": ("archives", "import"),
        "copy": ("copy_images", "copy"),
    },
    "system": {
        "df": ("usage", "system df"),
        "prune": ("prune", "system prune"),
        "info": ("system", "info"),
        "events": ("events", "events"),
    },
    "network": {
        "create": ("networks", "network create"),
        "ls": ("networks", "network ls"),
        "list": ("networks", "network ls"),
        "inspect": ("inspect", "network inspect"),
        "rm": ("networks", "network rm"),
        "remove": ("networks", "network rm"),
        "prune": ("prune", "network prune"),
        "connect": ("networks", "network connect"),
        "disconnect": ("networks", "network disconnect"),
    },
    "snapshot": {
        name: ("snapshot", f"snapshot {name}")
        for name in ("create", "ls", "tree", "inspect", "restore", "rm", "export", "import")
    },
    "volume": {
        "create": ("volumes", "volume create"),
        "ls": ("volumes", "volume ls"),
        "list": ("volumes", "volume ls"),
        "inspect": ("inspect", "volume inspect"),
        "rm": ("volumes", "volume rm"),
        "remove": ("volumes", "volume rm"),
        "prune": ("prune", "volume prune"),
        "export": ("volumes", "volume export"),
        "import": ("volumes", "volume import"),
        "backup": ("volumes", "volume backup"),
    },
    "vm": {
        name: ("vm", f"vm {name}")
        for name in (
            *("create", "ls", "inspect", "start", "stop", "reset", "pause", "resume", "save"),
            *("discard", "rm", "logs", "console", "display", "screenshot", "sendkey"),
        )
    }
    | {name: ("vm_copy", f"vm {name}") for name in ("clone", "edit", "export", "import")}
    | {name: ("vm_look", f"vm {name}") for name in ("stats", "ip")},
    "vm snapshot": {
        name: ("vm_snapshot", f"vm snapshot {name}")
        for name in ("create", "ls", "tree", "inspect", "restore", "rm")
    },
    "trust": {"generate-key": ("sign", "trust generate-key")},
}
"""Group to its commands: module and the name in that module's COMMANDS. A group within another is
named after both."""

GROUP_SUMMARIES = {
    "builder": "Manage the build cache and cache mounts",
    "container": "Manage containers",
    "image": "Manage images",
    "network": "Manage networks",
    "snapshot": "Manage snapshots of containers",
    "system": "Manage the engine and its disk space",
    "vm": "Manage full machines",
    "vm snapshot": "Manage snapshots of full machines",
    "trust": "Manage keys that sign images",
    "volume": "Manage volumes",
}


def load(module: str, name: str) -> Command:
    """The command `name` of `skerry.cli.commands.<module>`."""
    full = f"skerry.cli.commands.{module}"
    __import__(full)
    commands: dict[str, Command] = sys.modules[full].COMMANDS
    return commands[name]


def members(group: str) -> list[str]:
    """What may follow a group's name: its commands and the groups within it, sorted."""
    inner = [each.rpartition(" ")[2] for each in GROUPS if each.rpartition(" ")[0] == group]
    return sorted([*GROUPS[group], *inner])


def every() -> list[tuple[str, Command]]:
    """All commands, as (path, command): for the help, the manual and the completions."""
    found = [(name, load(module, name)) for name, module in COMMANDS.items()]
    for group, members in GROUPS.items():
        found += [(f"{group} {name}", load(*place)) for name, place in members.items()]
    return found
