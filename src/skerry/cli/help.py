"""Help texts, made from the option tables."""

from __future__ import annotations

from skerry.cli.options import HELP, LIST, NUMBER, TEXT, Command, Option
from skerry.cli.registry import COMMANDS, GROUP_SUMMARIES, GROUPS, load, members


def overview() -> str:
    """`skerry --help`."""
    from skerry.cli.main import GLOBAL_OPTIONS

    rows = [(name, load(module, name).summary) for name, module in COMMANDS.items()]
    lines = ["Usage:  skerry [OPTIONS] COMMAND", "", "Containers, images and their engine", ""]
    groups = [each for each in GROUP_SUMMARIES.items() if " " not in each[0]]
    lines += ["Commands:", *_columns(rows), "", "Groups:", *_columns(groups)]
    lines += ["", "Options:", *option_lines(GLOBAL_OPTIONS)]
    lines += ["", "See 'skerry COMMAND --help' for more on a command."]
    return "\n".join(lines) + "\n"


def group_help(group: str) -> str:
    """`skerry image --help`."""
    rows = [
        (name, load(*GROUPS[group][name]).summary)
        if name in GROUPS[group]
        else (name, GROUP_SUMMARIES[f"{group} {name}"])
        for name in members(group)
    ]
    lines = [f"Usage:  skerry {group} COMMAND", "", GROUP_SUMMARIES[group], "", "Commands:"]
    return "\n".join([*lines, *_columns(rows)]) + "\n"


def command_help(path: str, command: Command) -> str:
    """`skerry run --help`."""
    usage = f"Usage:  skerry {path}"
    if command.options:
        usage += " [OPTIONS]"
    if command.synopsis:
        usage += f" {command.synopsis}"
    lines = [usage, "", command.summary]
    if command.text:
        lines += ["", command.text]
    lines += ["", "Options:", *option_lines(command.options)]
    return "\n".join(lines) + "\n"


def option_lines(options: tuple[Option, ...]) -> list[str]:
    """One line an option."""
    return _columns(option_rows(options))


def option_rows(options: tuple[Option, ...]) -> list[tuple[str, str]]:
    """(spelling with value, meaning), sorted by name."""
    rows = []
    for option in sorted((*options, HELP), key=lambda option: option.long):
        left = f"-{option.short}, " if option.short else "    "
        left += f"--{option.long}"
        if option.kind in (TEXT, LIST, NUMBER):
            left += f" {option.metavar}"
        rows.append((left, option.help + (" (repeatable)" if option.kind == LIST else "")))
    return rows


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    width = min(max((len(left) for left, _ in rows), default=0), 34)
    lines = []
    for left, right in rows:
        if len(left) > width:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:{width}}   {right}".rstrip())
    return lines
