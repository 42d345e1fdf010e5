"""`exec`: a further command in a running container."""

from __future__ import annotations

from skerry.base.errors import GuestFault, SkerryError
from skerry.cli.context import Context, report
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.values import environment
from skerry.sdk.client import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def exec_(context: Context, parsed: Parsed) -> int:
    """Run it; its exit code."""
    name, *words = parsed.arguments
    detach, tty = parsed.on("detach"), parsed.on("tty")
    stdin = parsed.on("interactive") and not detach
    if not detach:
        from skerry.cli.session import check_terminal

        check_terminal(tty, stdin)
    body: dict[str, Any] = {
        "Cmd": words,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Privileged": parsed.on("privileged"),
    }
    variables = environment(parsed.many("env"), parsed.many("env-file"))
    optional = {
        "Env": variables,
        "User": parsed.text("user"),
        "WorkingDir": parsed.text("workdir"),
        "DetachKeys": parsed.text("detach-keys"),
    }
    body |= {key: value for key, value in optional.items() if value}
    if tty and not detach:
        from skerry.cli.terminal import size

        body["ConsoleSize"] = size(1)
    client = context.client
    exec_id = client.post(f"/containers/{quote(name)}/exec", body)["Id"]
    try:
        if detach:
            client.post(f"/exec/{exec_id}/start", {"Detach": True, "Tty": tty})
            return 0
        return _attached(context, parsed, exec_id, tty=tty, stdin=stdin)
    except (SkerryError, GuestFault) as error:
        return failed(error)


def failed(error: SkerryError | GuestFault) -> int:
    """Report why the command does not run; Docker's exit code for it."""
    from skerry.cli.commands.run import start_failure
    from skerry.cli.session import Interrupted

    if isinstance(error, Interrupted):
        raise error
    report(error)
    code = start_failure(error)
    return code if code != 125 else 1


def _attached(context: Context, parsed: Parsed, exec_id: str, *, tty: bool, stdin: bool) -> int:
    from skerry.cli.session import DETACHED, Session

    client = context.client
    keys = parsed.text("detach-keys")
    session = Session(client, f"/exec/{exec_id}/resize", tty=tty, stdin=stdin, keys=keys)
    start: dict[str, Any] = {"Detach": False, "Tty": tty}
    if tty:
        from skerry.cli.terminal import size

        start["ConsoleSize"] = size(1)
    stream = client.hijack(f"/exec/{exec_id}/start", start)
    if not session.run(stream):
        return DETACHED
    return int(client.get(f"/exec/{exec_id}/json").get("ExitCode") or 0) & 0xFF


COMMANDS = {
    "exec": Command(
        exec_,
        "Run a command in a running container",
        "CONTAINER COMMAND [ARG...]",
        (
            switch("detach", "Run in the background", "d"),
            text("detach-keys", "Keys that leave the command running: ctrl-p,ctrl-q", "KEYS"),
            many("env", "Set an environment variable", "NAME[=VALUE]", "e"),
            many("env-file", "Read environment variables from a file", "FILE", complete="files"),
            switch("interactive", "Keep stdin open", "i"),
            switch("privileged", "All capabilities"),
            switch("tty", "Allocate a terminal", "t"),
            text("user", "User and group: name or id", "USER[:GROUP]", "u"),
            text("workdir", "Working directory", "PATH", "w"),
        ),
        least=2,
        intermixed=False,
        complete="running none",
    )
}
