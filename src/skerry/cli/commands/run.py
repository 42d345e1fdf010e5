"""`run` and `create`."""

from __future__ import annotations

import os

from skerry.base.errors import (
    Conflict,
    GuestFault,
    InvalidInput,
    NotFound,
    SkerryError,
    Unavailable,
)
from skerry.cli.context import Context, err, out
from skerry.cli.create_body import attached_streams, create_body
from skerry.cli.options import Command, Parsed, UsageError
from skerry.cli.run_options import CREATE_OPTIONS, RUN_OPTIONS
from skerry.sdk.client import query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skerry.sdk.http import Response


def create(context: Context, parsed: Parsed) -> int:
    """Make a container and print its id."""
    try:
        body = create_body(parsed, attached_streams(parsed))
    except InvalidInput as error:
        raise UsageError(error.message, hint=error.hint) from None
    out(create_container(context, parsed, body))
    return 0


def run(context: Context, parsed: Parsed) -> int:
    """Create, join the streams, wait, start: in this order no byte and no exit is missed."""
    detach = parsed.on("detach")
    streams = attached_streams(parsed)
    body = create_body(parsed, streams)
    tty = parsed.on("tty")
    if not detach:
        from skerry.cli.session import check_terminal

        check_terminal(tty, streams[0])
    if tty and not detach:
        from skerry.cli.terminal import size

        body["HostConfig"]["ConsoleSize"] = size(1)
    container = create_container(context, parsed, body)
    if detach or not any(streams):
        return _run_detached(context, parsed, container)
    return _run_attached(context, parsed, container, streams)


def create_container(context: Context, parsed: Parsed, body: dict[str, Any]) -> str:
    """The new container's id. Pulls by --pull, writes --cidfile, shows the engine's warnings."""
    cid_file = parsed.text("cidfile")
    if cid_file and os.path.exists(cid_file):
        raise Conflict(
            f"container ID file found, make sure the other container isn't running or "
            f"delete {cid_file}"
        )
    image, when = parsed.arguments[0], parsed.text("pull", "missing")
    if when not in ("always", "missing", "never"):
        raise InvalidInput(f"invalid --pull: {when!r}", hint="choose always, missing or never")
    target = "/containers/create" + query(
        name=parsed.text("name"), platform=parsed.text("platform")
    )
    if when == "always":
        _pull(context, parsed, image)
    try:
        answer = context.client.post(target, body)
    except NotFound as error:
        if "image" not in error.message.lower():
            raise
        if when == "never":
            raise
        _pull_missing(context, parsed, image)
        answer = context.client.post(target, body)
    for warning in answer.get("Warnings") or ():
        err(f"WARNING: {warning}")
    container: str = answer["Id"]
    if cid_file:
        with open(cid_file, "x") as file:
            file.write(container)
    return container


def _pull(context: Context, parsed: Parsed, image: str) -> None:
    from skerry.cli.commands.pull import pull_image

    pull_image(context, image, platform=parsed.text("platform"), quiet=parsed.on("quiet"), stream=2)


def _pull_missing(context: Context, parsed: Parsed, image: str) -> None:
    if not parsed.on("quiet"):
        err(f"Unable to find image '{image}' locally")
    try:
        _pull(context, parsed, image)
    except SkerryError as error:
        from skerry.cli.commands.bootstrap import knows

        if knows(image):
            error.hint = f"build it here without a registry: skerry bootstrap {image}"
        elif isinstance(error, NotFound) and not error.hint:
            error.hint = "`skerry images` lists what is here"
        raise


def _run_detached(context: Context, parsed: Parsed, container: str) -> int:
    try:
        context.client.post(f"/containers/{container}/start")
    except SkerryError as error:
        code = start_failure(error)
        _show_failure(error)
        return code
    out(container)
    return 0


def _run_attached(
    context: Context, parsed: Parsed, container: str, streams: tuple[bool, bool, bool]
) -> int:
    from skerry.cli.session import Session, proxy_to

    client, tty = context.client, parsed.on("tty")
    stdin, stdout, stderr = streams
    keys = parsed.text("detach-keys")
    session = Session(client, f"/containers/{container}/resize", tty=tty, stdin=stdin, keys=keys)
    stream = client.hijack(
        f"/containers/{container}/attach"
        + query(stream=True, stdin=stdin, stdout=stdout, stderr=stderr, detachKeys=keys)
    )
    waiting = wait_for(context, container, removed=parsed.on("rm"))
    proxy = proxy_to(client, container) if parsed.on("sig-proxy", True) else None
    failure: list[SkerryError] = []

    def start() -> None:
        try:
            client.post(f"/containers/{container}/start")
        except SkerryError as error:
            failure.append(error)
            raise

    try:
        ended = session.run(stream, proxy=proxy, started=start)
    except SkerryError as error:
        waiting.connection.close()
        if not failure:
            raise
        stream[0].close()
        if parsed.on("rm"):
            _remove_quietly(context, container)
        _show_failure(error)
        return start_failure(error)
    if not ended:
        waiting.connection.close()
        return 0
    return exit_code(waiting)


def _remove_quietly(context: Context, container: str) -> None:
    """An engine removes a --rm container whose start failed; older ones leave it."""
    try:
        context.client.delete(f"/containers/{container}{query(v=True, force=True)}")
    except SkerryError:
        return


def wait_for(context: Context, container: str, *, removed: bool) -> Response:
    """A pending answer about the next exit; the engine is watching when this returns."""
    condition = "removed" if removed else "next-exit"
    return context.client.open("POST", f"/containers/{container}/wait{query(condition=condition)}")


def exit_code(waiting: Response) -> int:
    """The exit code that a `wait_for` brings, in the end."""
    try:
        answer = waiting.json() or {}
    except Unavailable:
        raise Unavailable(
            "the engine went away while the container ran",
            hint="the container goes on without it: see skerry ps, skerry logs and skerry attach",
        ) from None
    finally:
        waiting.connection.close()
    error = (answer.get("Error") or {}).get("Message")
    if error:
        err(f"skerry: Error waiting for container: {error}")
        return 125
    return int(answer.get("StatusCode", 125)) & 0xFF


def start_failure(error: SkerryError | GuestFault) -> int:
    """126 or 127 when the command in the container is at fault, else 125: by the words that
    runtimes use, since Docker's API has no other sign for it."""
    if not isinstance(error, InvalidInput):
        return 125  # the host denied the engine something
    words = error.message.lower()
    if any(
        part in words
        for part in (
            "executable file not found",
            "no such file or directory",
            "system cannot find the file",
            "not found in $path",
        )
    ):
        return 127
    if "permission denied" in words or "is a directory" in words or "exec format error" in words:
        return 126
    return 125


def _show_failure(error: SkerryError) -> None:
    from skerry.cli.context import report

    report(error)
    err("\nSee 'skerry run --help'.")


def reference(name: str) -> str:
    """A container's path segment."""
    return quote(name)


COMMANDS = {
    "run": Command(
        run,
        "Create a container from an image and run a command in it",
        "IMAGE [COMMAND] [ARG...]",
        CREATE_OPTIONS + RUN_OPTIONS,
        least=1,
        intermixed=False,
        complete="images",
    ),
    "create": Command(
        create,
        "Create a container",
        "IMAGE [COMMAND] [ARG...]",
        CREATE_OPTIONS,
        least=1,
        intermixed=False,
        complete="images",
    ),
}
