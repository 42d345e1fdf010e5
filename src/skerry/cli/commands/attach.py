"""`attach`, and `start` with the streams joined."""

from __future__ import annotations

from skerry.base.errors import Conflict, SkerryError
from skerry.cli.commands.run import exit_code, wait_for
from skerry.cli.context import Context
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.session import DETACHED, Session, check_terminal, proxy_to
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def attach(context: Context, parsed: Parsed) -> int:
    """Join a running container; its exit code when it ends meanwhile."""
    name = parsed.arguments[0]
    state = context.client.get(f"/containers/{quote(name)}/json")
    status = state["State"]
    if not status.get("Running"):
        raise Conflict(
            "you cannot attach to a stopped container", hint=f"start it first: skerry start {name}"
        )
    if status.get("Paused"):
        raise Conflict(
            "you cannot attach to a paused container", hint=f"thaw it first: skerry unpause {name}"
        )
    if status.get("Restarting"):
        raise Conflict("you cannot attach to a restarting container, wait until it is running")
    config = state["Config"]
    stdin = bool(config.get("OpenStdin")) and not parsed.on("no-stdin")
    return join(context, parsed, state["Id"], tty=bool(config.get("Tty")), stdin=stdin)


def start_attached(context: Context, parsed: Parsed) -> int:
    """`start -a` and `start -ai`."""
    name = parsed.arguments[0]
    state = context.client.get(f"/containers/{quote(name)}/json")
    config = state["Config"]
    container = state["Id"]
    removed = bool(state["HostConfig"].get("AutoRemove"))
    stdin = parsed.on("interactive") and bool(config.get("OpenStdin"))
    tty = bool(config.get("Tty"))

    def start() -> None:
        context.client.post(f"/containers/{container}/start")

    return join(context, parsed, container, tty=tty, stdin=stdin, start=start, removed=removed)


def join(
    context: Context,
    parsed: Parsed,
    container: str,
    *,
    tty: bool,
    stdin: bool,
    start: Callable[[], None] | None = None,
    removed: bool = False,
) -> int:
    """Carry the streams until it ends: its exit code. `start` is called once they are joined."""
    check_terminal(tty, stdin)
    client, keys = context.client, parsed.text("detach-keys")
    session = Session(client, f"/containers/{container}/resize", tty=tty, stdin=stdin, keys=keys)
    stream = client.hijack(
        f"/containers/{container}/attach"
        + query(stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys)
    )
    waiting = wait_for(context, container, removed=removed)
    proxy = proxy_to(client, container) if parsed.on("sig-proxy", True) and not tty else None
    try:
        ended = session.run(stream, proxy=proxy, started=start)
    except SkerryError:
        stream[0].close()
        waiting.connection.close()
        raise
    if not ended:
        waiting.connection.close()
        return DETACHED if start is None else 0
    return exit_code(waiting)


COMMANDS = {
    "attach": Command(
        attach,
        "Join the input and output of a running container",
        "CONTAINER",
        (
            text("detach-keys", "Keys that leave the container running: ctrl-p,ctrl-q", "KEYS"),
            switch("no-stdin", "Do not join input"),
            switch("sig-proxy", "Pass signals on to the container (default true)"),
        ),
        least=1,
        most=1,
        complete="running",
    )
}
