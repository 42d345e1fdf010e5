"""`help`."""

from __future__ import annotations

from skerry.cli.context import Context, out
from skerry.cli.help import command_help, group_help, overview
from skerry.cli.options import Command, Parsed


def help_(context: Context, parsed: Parsed) -> int:
    """Of everything, a group or a command."""
    if not parsed.arguments:
        out(overview(), end="")
        return 0
    from skerry.cli.main import find

    path, command, _ = find(parsed.arguments)
    out(command_help(path, command) if command else group_help(path), end="")
    return 0


COMMANDS = {"help": Command(help_, "Show help for a command", "[COMMAND]", complete="commands")}
