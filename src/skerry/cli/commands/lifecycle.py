"""Verbs that take container names: start, stop, restart, kill, pause, unpause, wait, rename, rm."""

from __future__ import annotations

from skerry.base.errors import InvalidInput, NotFound, NotModified, SkerryError
from skerry.cli.context import Context, each, out, report
from skerry.cli.options import Command, Option, Parsed, number, switch, text
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _post(context: Context, parsed: Parsed, verb: str, **parameters: object) -> int:
    def do(name: str) -> None:
        try:
            context.client.post(f"/containers/{quote(name)}/{verb}{query(**parameters)}")
        except NotModified:
            return

    return each(context, parsed.arguments, do)


def start(context: Context, parsed: Parsed) -> int:
    """Start, and join the streams of one container when asked to."""
    if parsed.on("attach") or parsed.on("interactive"):
        if len(parsed.arguments) > 1:
            raise InvalidInput("you cannot start and attach multiple containers at once")
        from skerry.cli.commands.attach import start_attached

        return start_attached(context, parsed)
    return _post(context, parsed, "start")


def stop(context: Context, parsed: Parsed) -> int:
    """The stop signal, then SIGKILL."""
    return _post(context, parsed, "stop", **_stopping(parsed))


def restart(context: Context, parsed: Parsed) -> int:
    """Stop and start."""
    return _post(context, parsed, "restart", **_stopping(parsed))


def _stopping(parsed: Parsed) -> dict[str, object]:
    seconds = None
    for name in ("time", "timeout"):
        if name in parsed.given:
            seconds = parsed.number(name)
    return {"t": seconds, "signal": parsed.text("signal")}


def kill(context: Context, parsed: Parsed) -> int:
    """A signal, SIGKILL by default."""
    return _post(context, parsed, "kill", signal=parsed.text("signal"))


def pause(context: Context, parsed: Parsed) -> int:
    """Freeze."""
    return _post(context, parsed, "pause")


def unpause(context: Context, parsed: Parsed) -> int:
    """Thaw."""
    return _post(context, parsed, "unpause")


def wait(context: Context, parsed: Parsed) -> int:
    """Print the exit code of each once it has ended."""

    def do(name: str) -> str:
        answer = context.client.post(f"/containers/{quote(name)}/wait")
        return str(answer.get("StatusCode"))

    return each(context, parsed.arguments, do)


def rename(context: Context, parsed: Parsed) -> int:
    """Give a container another name."""
    old, new = parsed.arguments
    if not new.strip():
        raise InvalidInput("the new name is empty")
    context.client.post(f"/containers/{quote(old)}/rename{query(name=new)}")
    return 0


def remove(context: Context, parsed: Parsed) -> int:
    """Delete containers; with --force a missing one is no error."""
    force, code = parsed.on("force"), 0
    parameters = query(
        v=True if parsed.on("volumes") else None,
        force=True if force else None,
        link=True if parsed.on("link") else None,
    )
    for name in parsed.arguments:
        try:
            context.client.delete(f"/containers/{quote(name.lstrip('/'))}{parameters}")
        except SkerryError as error:
            report(error)
            if not (force and isinstance(error, NotFound)):
                code = 1
        else:
            out(name)
    return code


def _verb(
    run: Callable[[Context, Parsed], int],
    summary: str,
    options: tuple[Option, ...] = (),
    *,
    complete: str = "running",
) -> Command:
    return Command(run, summary, "CONTAINER [CONTAINER...]", options, least=1, complete=complete)


_STOP_OPTIONS = (
    text("signal", "Signal to send", "SIGNAL", "s", "signals"),
    number("time", "Seconds to wait before SIGKILL; -1 for ever", "SECONDS", "t"),
    number("timeout", "Same as --time", "SECONDS"),
)

COMMANDS = {
    "start": _verb(
        start,
        "Start stopped containers",
        (
            switch("attach", "Join output and pass signals on", "a"),
            text("detach-keys", "Keys that leave the container running", "KEYS"),
            switch("interactive", "Join input", "i"),
            switch("sig-proxy", "Pass signals on to the container (default true)"),
        ),
        complete="stopped",
    ),
    "stop": _verb(stop, "Stop running containers", _STOP_OPTIONS),
    "restart": _verb(restart, "Stop and start containers", _STOP_OPTIONS, complete="containers"),
    "kill": _verb(
        kill,
        "Send running containers a signal",
        (text("signal", "Signal to send (default KILL)", "SIGNAL", "s", "signals"),),
    ),
    "pause": _verb(pause, "Freeze every process in containers"),
    "unpause": _verb(unpause, "Let frozen containers go on", complete="paused"),
    "wait": _verb(wait, "Wait until containers end, then print their exit codes"),
    "rename": Command(
        rename, "Rename a container", "CONTAINER NAME", least=2, most=2, complete="containers none"
    ),
    "rm": _verb(
        remove,
        "Remove containers",
        (
            switch("force", "Kill what runs", "f"),
            switch("link", "Remove a link"),
            switch("volumes", "Remove its anonymous volumes as well", "v"),
        ),
        complete="containers",
    ),
}
