"""`diff` and `commit`: what a container changed, and an image of it."""

from __future__ import annotations

from skerry.cli.commands.pull import split_tag
from skerry.cli.context import Context, out, terminal, visible
from skerry.cli.human import size_decimal
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.sdk.client import query, quote

_LETTERS = {0: "C", 1: "A", 2: "D"}
"""The API's ChangeType: modified, added, deleted."""


def diff(context: Context, parsed: Parsed) -> int:
    """A letter and a path for each change; between two, also the sizes of files."""
    if len(parsed.arguments) > 1:
        return _between(context, *parsed.arguments)
    for change in context.client.get(f"/containers/{quote(parsed.arguments[0])}/changes") or ():
        path = visible(change["Path"]) if terminal(1) else change["Path"]
        out(f"{_LETTERS.get(change['Kind'], '?')} {path}")
    return 0


def _between(context: Context, one: str, other: str) -> int:
    target = "/skerry/diff" + query(**{"from": one, "to": other})
    rows = []
    for change in context.client.get(target):
        path = visible(change["Path"]) if terminal(1) else change["Path"]
        before, after = change["Before"], change["After"]
        sizes = f"{size_decimal(before, 3)} -> {size_decimal(after, 3)}"
        if change["Kind"]:
            sizes = size_decimal(before or after, 3)
        rows.append(
            f"{_LETTERS.get(change['Kind'], '?')} {path}{f'  {sizes}' if before or after else ''}\n"
        )
    out("".join(rows), end="")
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
        "Show what a container changed in its file system, or how two differ",
        "CONTAINER [CONTAINER|SNAPSHOT]",
        least=1,
        most=2,
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
