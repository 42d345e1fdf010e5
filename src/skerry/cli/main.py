"""The `skerry` command: find the command by hand, parse only its options, run it.

Exit codes are Docker's: the program's own for run and exec, 125 when skerry or its engine is at
fault there, 126 and 127 for a command that cannot be run or found, 1 for what failed elsewhere.
"""

from __future__ import annotations

import os
import sys

from skerry.base.errors import GuestFault, SkerryError
from skerry.cli.context import Context, err, out, report
from skerry.cli.options import Option, Parsed, UsageError, check_count, parse, switch, text
from skerry.cli.registry import COMMANDS, GROUPS, HIDDEN, load, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.cli.options import Command

GLOBAL_OPTIONS: tuple[Option, ...] = (
    text("host", "The engine's socket (SKERRY_HOST)", "unix://PATH", "H"),
    text("root", "State that survives a reboot (SKERRY_ROOT)", "DIR", complete="folders"),
    text("run-root", "Sockets and pids (SKERRY_RUN_ROOT)", "DIR", complete="folders"),
    switch("debug", "Show the traceback of an unexpected error", "D"),
    switch("version", "Show the version", "v"),
)


def entry() -> int:
    """The command's exit code. Nothing escapes as a traceback unless --debug asks for it."""
    words = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]
    context: Context | None = None
    try:
        parsed = parse(GLOBAL_OPTIONS, words, intermixed=False)
        if parsed.on("version"):
            from skerry import __version__

            out(f"skerry version {__version__}")
            return 0
        if parsed.on("help") or not parsed.arguments:
            from skerry.cli.help import overview

            out(overview(), end="")
            return 0
        context = Context(
            root=parsed.text("root"),
            run_root=parsed.text("run-root"),
            host=parsed.text("host"),
            debug=parsed.on("debug"),
        )
        return dispatch(context, parsed.arguments)
    except SkerryError as error:
        return _failed(context, error)
    except GuestFault as fault:
        err(f"skerry: {fault.message}")
        return fault.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`skerry ps | head`): no error of ours.
        return 141
    except Exception as error:
        if context and context.debug:
            raise
        err(f"skerry: unexpected {type(error).__name__}: {error}")
        err("This is a defect in skerry; --debug shows where.")
        return 125
    finally:
        if context:
            context.close()


def dispatch(context: Context, words: list[str]) -> int:
    """Run the command that `words` begin with."""
    path, command, rest = find(words)
    if command is None:
        from skerry.cli.help import group_help

        out(group_help(path), end="")
        return 0
    context.path = path
    if command.verbatim and rest not in (["--help"], ["-h"]):
        parsed = Parsed()
        parsed.arguments = rest
    else:
        parsed = parse(command.options, rest, intermixed=command.intermixed)
    if parsed.on("help"):
        from skerry.cli.help import command_help

        out(command_help(path, command), end="")
        return 0
    check_count(path, command, parsed)
    return command.run(context, parsed)


def find(words: list[str]) -> tuple[str, Command | None, list[str]]:
    """(path, command, the words after it); no command for a bare group, whose help is shown."""
    name = words[0]
    if name in GROUPS:
        return _within(name, words[1:])
    if name in HIDDEN:
        return name, load(HIDDEN[name], name), words[1:]
    if name not in COMMANDS:
        known = [*COMMANDS, *(group for group in GROUPS if " " not in group)]
        raise UsageError(f"unknown command: skerry {name}{_similar(name, known)}", exit_code=1)
    return name, load(COMMANDS[name], name), words[1:]


def _within(group: str, words: list[str]) -> tuple[str, Command | None, list[str]]:
    """`find` behind a group's name."""
    if not words or words[0] in ("--help", "-h"):
        return group, None, []
    name, *rest = words
    path = f"{group} {name}"
    if path in GROUPS:
        return _within(path, rest)
    if name not in GROUPS[group]:
        similar = _similar(name, members(group))
        raise UsageError(f"unknown command: skerry {path}{similar}", exit_code=1)
    return path, load(*GROUPS[group][name]), rest


def _similar(word: str, known: object) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)  # type: ignore[call-overload]
    return f"; did you mean {near[0]}?" if near else ""


def _failed(context: Context | None, error: SkerryError) -> int:
    if context and context.debug:
        import traceback

        err("".join(traceback.format_exception(error)))
    report(error)
    path = context.path if context else ""
    if isinstance(error, UsageError):
        err(f"\nSee 'skerry{' ' + path if path else ''} --help'.")
        return error.exit_code
    if path.removeprefix("container ") in ("run", "create", "exec"):
        if path.removeprefix("container ") == "run":
            err("\nSee 'skerry run --help'.")
            return 125
        return 1
    return 1


__all__ = ["GLOBAL_OPTIONS", "Parsed", "dispatch", "entry", "find"]
