"""`diff` and `commit`: what a container changed, and an image of it."""

from __future__ import annotations

from skerry.cli.commands.pull import split_tag
from skerry.cli.context import Context, out, terminal, visible
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.sdk.client import query, quote

_LETTERS = {0: "C", 1: "A", 2: "D"}
"""The API's ChangeType: modified, added, deleted."""


def diff(context: Context, parsed: Parsed) -> int:
    """A letter and a path for each change."""
    for change in context.client.get(f"/containers/{quote(parsed.arguments[0])}/changes") or ():
        path = visible(change["Path"]) if terminal(1) else change["Path"]
        out(f"{_LETTERS.get(change['Kind'], '?')} {path}")
    return 0


def commit(context: Context, parsed: Parsed) -> int:
    """Print the new image's id."""
    container = parsed.arguments[0]
    name, tag = split_tag(parsed.arguments[1]) if len(parsed.arguments) > 1 else ("", "")
    target = "/commit" + query(
        container=container,
        repo=name,
        tag=tag,
        comment=parsed.text("message"),
        author=parsed.text("author"),
        pause=parsed.on("pause", True),
        changes=parsed.many("change") or None,
    )
    out(context.client.post(target, {})["Id"])
    return 0


COMMANDS = {
    "diff": Command(
        diff,
        "Show what a container changed in its file system",
        "CONTAINER",
        least=1,
        most=1,
        complete="containers",
    ),
    "commit": Command(
        commit,
        "Make an image from a container's changes",
        "CONTAINER [NAME[:TAG]]",
        (
            text("author", "Author of the image", "NAME", "a"),
            many("change", "Apply a Dockerfile instruction: 'CMD [\"sh\"]'", "INSTRUCTION", "c"),
            text("message", "What was done", "TEXT", "m"),
            switch("pause", "Freeze the container meanwhile (default true)", "p"),
        ),
        least=1,
        most=2,
        complete="containers images",
    ),
}
