"""docs/cli.md, made from the option tables: `python -m skerry.cli.reference > docs/cli.md`."""

from __future__ import annotations

import sys

from skerry.cli.help import option_rows
from skerry.cli.main import GLOBAL_OPTIONS
from skerry.cli.options import Command, Option
from skerry.cli.registry import COMMANDS, GROUP_SUMMARIES, GROUPS, load

_INTRODUCTION = """\
# Command line

Made from the code by `make docs`; do not edit.

    skerry [OPTIONS] COMMAND …

A command finds its engine at `--host`, else `SKERRY_HOST`, else the socket in the run folder. When
none listens there and none was named, it starts one in the background; that engine's messages are
in `engine.log` in the run folder.

Exit codes: the program's own for `run` and `exec`, 128 + n when signal n ended it; 125 when skerry
or its engine could not do it, 126 when the program cannot be executed, 127 when it is not found; 1
for what failed in other commands.

`--format` takes `json`, a Go template such as `{{.Names}}: {{.Status}}`, or `table` and a template.
Its functions: `json join split upper lower title len index slice print printf println eq ne lt le
gt ge and or not html urlquery pad truncate`, besides `if range with break continue` and variables.
"""


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Options of every command\n", _options(GLOBAL_OPTIONS, rest=False)]
    for name, module in COMMANDS.items():
        parts.append(_section(f"skerry {name}", load(module, name)))
    for group, summary in GROUP_SUMMARIES.items():
        parts.append(f"## skerry {group}\n\n{summary}.\n")
        same = []
        for name, (_, original) in sorted(GROUPS[group].items()):
            if original in COMMANDS:
                same.append(f"- `skerry {group} {name}`: `skerry {original}`")
        if same:
            parts.append("\n".join(same) + "\n")
        for name, (module, original) in sorted(GROUPS[group].items()):
            if original not in COMMANDS:
                parts.append(_section(f"skerry {group} {name}", load(module, original), "###"))
    return "\n".join(parts)


def _section(path: str, command: Command, level: str = "##") -> str:
    usage = f"{path} [OPTIONS]" if command.options else path
    text = f"{level} {path}\n\n{command.summary}.\n\n    {usage} {command.synopsis}".rstrip() + "\n"
    if command.text:
        text += "\n" + "\n".join(f"    {line}" for line in command.text.split("\n")) + "\n"
    return text + (f"\n{_options(command.options)}" if command.options else "")


def _options(options: tuple[Option, ...], *, rest: bool = True) -> str:
    lines = ["| option | meaning |", "| --- | --- |"]
    for left, right in option_rows(options):
        if rest and left.strip() == "--help":
            continue
        lines.append(f"| `{left.strip()}` | {right.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
