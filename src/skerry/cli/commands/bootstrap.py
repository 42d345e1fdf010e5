"""`bootstrap`: make a base image without a registry."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, SystemFault
from skerry.cli.context import Context, out, terminal
from skerry.cli.options import Command, Parsed, many, switch, text
from skerry.cli.progress import Progress
from skerry.sdk.client import query

_BASES = ("busybox", "debian", "alpine")


def knows(image: str) -> bool:
    """Whether `bootstrap` can make an image of this name."""
    name, _, tag = image.partition(":")
    return name in _BASES and "/" not in tag and (name != "busybox" or tag in ("", "latest"))


def bootstrap(context: Context, parsed: Parsed) -> int:
    """Print the image's id; the progress goes to standard error."""
    name = parsed.arguments[0]
    if not knows(name):
        raise InvalidInput(
            f"cannot make {name!r} without a registry",
            hint="choose busybox, debian:SUITE (debian:bookworm) or alpine:VERSION (alpine:3.22)",
        )
    packages = [item for words in parsed.many("include") for item in words.split(",") if item]
    # The engine runs elsewhere: paths are this process's.
    key = os.path.abspath(parsed.text("key")) if parsed.text("key") else ""
    target = "/skerry/bootstrap" + query(
        name=name,
        include=packages,
        mirror=parsed.text("mirror"),
        key=key,
        tag=parsed.text("tag"),
    )
    response = context.client.open("POST", target)
    style = parsed.text("progress", "auto")
    if style not in ("auto", "plain", "none"):
        raise InvalidInput(f"invalid --progress: {style!r}", hint="choose auto, plain or none")
    quiet = parsed.on("quiet") or style == "none" or (style == "auto" and not terminal(2))
    progress = Progress(2, quiet=quiet, plain=True if style == "plain" else None)
    image = ""
    try:
        for message in response.json_lines():
            if message.get("error"):
                detail = message.get("errorDetail") or {}
                raise SystemFault(str(message["error"]), hint=str(detail.get("hint") or ""))
            auxiliary = message.get("aux") or {}
            image = auxiliary.get("ID") or auxiliary.get("Id") or image
            progress.show(message)
    finally:
        progress.close()
        response.connection.close()
    if not image:
        raise SystemFault(f"the engine ended the making of {name} without an image")
    out(image)
    return 0


COMMANDS = {
    "bootstrap": Command(
        bootstrap,
        "Make a base image here, without a registry",
        "busybox|debian:SUITE|alpine:VERSION",
        (
            many("include", "Packages to add, separated by commas (debian)", "PACKAGE"),
            text("key", "Keyring that signs the mirror", "FILE", complete="files"),
            text("mirror", "Mirror to fetch from", "URL"),
            text("progress", "auto, plain or none", "STYLE"),
            switch("quiet", "Print the image's id only", "q"),
            text("tag", "Name of the image, when not the base's own", "NAME[:TAG]", "t"),
        ),
        least=1,
        most=1,
        complete="bases",
    )
}
