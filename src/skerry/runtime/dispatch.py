"""From the words of a command line to a command, and from errors to lines and exit codes."""

import os
import sys
from collections.abc import Callable
from importlib import import_module

from skerry.base.errors import GuestFault, InvalidInput, SkerryError
from skerry.runtime import arguments, main
from skerry.runtime.context import Context, default_root

Command = Callable[[Context, list[str]], int]

COMMANDS = {
    "create": ("start", "create", "make a container, not started yet"),
    "start": ("start", "start", "run the program of a created container"),
    "run": ("start", "run", "make and start a container"),
    "exec": ("further", "execute", "run a further process in a container"),
    "state": ("life", "show_state", "show the state of a container"),
    "kill": ("life", "kill", "send a signal to a container's init"),
    "delete": ("life", "delete", "remove what is left of a container"),
    "pause": ("life", "pause", "freeze a container"),
    "resume": ("life", "resume", "thaw a container"),
    "list": ("look", "containers", "list containers"),
    "ps": ("look", "processes", "list the processes of a container"),
    "events": ("events", "events", "show counters and out-of-memory events"),
    "update": ("update", "update", "change the limits of a container"),
    "spec": ("spec", "spec", "write a sample configuration"),
    "features": ("features", "features", "show what this runtime can do"),
}
"""Command: module in `skerry.runtime.commands`, function, what it does."""

_FAILED = 1
_EXEC_FAILED = 255
_INTERRUPTED = 130


def dispatch(words: list[str]) -> int:
    """Run the command that `words` name; the exit code. Raises nothing."""
    context = Context(default_root(), "", "text", False, False, False)
    name = ""
    try:
        context, name, rest = _globals(words)
        if name in ("", "help"):
            return _show(_usage())
        if name == "version":
            return _show(_version())
        if name not in COMMANDS:
            raise InvalidInput(f"no such command: {name:.60}", hint="see skerry-runtime --help")
        return _command(name)(context, rest)
    except (SkerryError, GuestFault) as error:
        return _fail(context, name, error.message, error.hint)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _FAILED
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _fail(context, name, f"{(error.strerror or str(error)).lower()}{place}", "")
    except Exception as error:
        if context.debug:
            raise
        return _fail(context, name, f"internal error: {error!r}", "--debug shows where")


def _globals(words: list[str]) -> tuple[Context, str, list[str]]:
    table = dict.fromkeys(main.VALUES, arguments.VALUE)
    table |= dict.fromkeys(main.SWITCHES, arguments.SWITCH)
    parsed = arguments.parse(words, table, {"v": "version", "h": "help"}, command_follows=True)
    name, rest = (parsed.words[0], parsed.words[1:]) if parsed.words else ("", [])
    for switch in ("help", "version"):
        if switch in parsed.switches:
            name = switch
    log_format = parsed.value("log-format", "text")
    if log_format not in ("text", "json"):
        raise InvalidInput(f"invalid log-format: {log_format!r:.60}")
    context = Context(
        root=os.path.abspath(parsed.value("root") or default_root()),
        log=parsed.value("log"),
        log_format=log_format,
        debug="debug" in parsed.switches,
        systemd_cgroup="systemd-cgroup" in parsed.switches,
        rootless=parsed.value("rootless", "auto") == "true" or os.geteuid() != 0,
    )
    return context, name, rest


def _command(name: str) -> Command:
    module, function, _ = COMMANDS[name]
    command: Command = getattr(import_module(f"skerry.runtime.commands.{module}"), function)
    return command


def _fail(context: Context, name: str, message: str, hint: str) -> int:
    """One line on standard error and in the log; the exit code runc has."""
    prefix = f"{name} failed: " if name in ("run", "create", "exec") else ""
    line = f"{prefix}{message}" + (f" ({hint})" if hint else "")
    context.report("error", line)
    os.write(2, f"skerry-runtime: {line}\n".encode(errors="backslashreplace"))
    return _EXEC_FAILED if name == "exec" else _FAILED


def _show(text: str) -> int:
    sys.stdout.write(text)
    return 0


def _version() -> str:
    from skerry import __version__
    from skerry.base.oci_runtime import OCI_VERSION

    return f"skerry-runtime version {__version__}\nspec: {OCI_VERSION}\n"


def _usage() -> str:
    lines = [
        "usage: skerry-runtime [global options] command [options] [arguments]",
        "",
        "commands:",
    ]
    lines += [f"  {name:9} {about}" for name, (_, _, about) in COMMANDS.items()]
    lines += ["", "global options:"]
    lines += [f"  --{name} VALUE" for name in main.VALUES]
    lines += [f"  --{name}" for name in main.SWITCHES]
    return "\n".join(lines) + "\n"
