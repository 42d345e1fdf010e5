"""`push`: send an image to a registry."""

from __future__ import annotations

from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.cli.commands.pull import show_progress
from skerry.cli.context import Context, out
from skerry.cli.options import Command, Parsed, switch
from skerry.cli.registry_auth import headers_for
from skerry.sdk.client import query, quote


def push(context: Context, parsed: Parsed) -> int:
    """Push and, when quiet, print the reference."""
    image, every = parsed.arguments[0], parsed.on("all-tags")
    reference = parse_reference(image, default_tag="")
    if every and (reference.tag or reference.digest):
        raise InvalidInput("tag can't be used with --all-tags/-a")
    tag = "" if every else reference.tag or "latest"
    target = f"/images/{quote(reference.familiar_name)}/push" + query(tag=tag or None)
    response = context.client.open("POST", target, None, headers_for(image))
    show_progress(response, quiet=parsed.on("quiet"), stream=1)
    if parsed.on("quiet"):
        out(f"{reference.name}:{tag}" if tag else reference.name)
    return 0


COMMANDS = {
    "push": Command(
        push,
        "Send an image to a registry",
        "NAME[:TAG]",
        (
            switch("all-tags", "Push all tags of the repository", "a"),
            switch("quiet", "Print the name only", "q"),
        ),
        least=1,
        most=1,
        complete="images",
    )
}
