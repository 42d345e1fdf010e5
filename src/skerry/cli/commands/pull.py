"""`pull`: fetch an image from a registry."""

from __future__ import annotations

from skerry.base.errors import SystemFault
from skerry.cli.context import Context, out, write
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.progress import Progress
from skerry.sdk.client import query


def split_tag(image: str) -> tuple[str, str]:
    """Name and tag (or digest) of a reference, `latest` when it has neither."""
    if "@" in image:
        name, _, digest = image.partition("@")
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def pull_image(
    context: Context, image: str, *, platform: str = "", quiet: bool = False, stream: int = 1
) -> None:
    """Pull, with the progress on `stream`."""
    name, tag = split_tag(image)
    target = "/images/create" + query(fromImage=name, tag=tag, platform=platform)
    response = context.client.open("POST", target)
    show_progress(response, quiet=quiet, stream=stream)


def show_progress(response: object, *, quiet: bool, stream: int) -> None:
    """Follow a stream of Docker's progress messages; SystemFault for an error in it."""
    from skerry.sdk.http import Response

    assert isinstance(response, Response)
    progress = Progress(stream, quiet=quiet)
    try:
        for message in response.json_lines():
            if not isinstance(message, dict):
                continue
            if message.get("error"):
                raise SystemFault(str(message["error"]))
            if message.get("stream") is not None:
                if not quiet:
                    write(stream, str(message["stream"]).encode())
                continue
            progress.show(message)
    finally:
        progress.close()
        response.connection.close()


def pull(context: Context, parsed: Parsed) -> int:
    """Pull and print the reference."""
    image = parsed.arguments[0]
    pull_image(
        context,
        image,
        platform=parsed.text("platform"),
        quiet=parsed.on("quiet"),
    )
    name, tag = split_tag(image)
    if parsed.on("quiet"):
        out(f"{name}{'@' if ':' in tag else ':'}{tag}")
    return 0


COMMANDS = {
    "pull": Command(
        pull,
        "Fetch an image from a registry",
        "NAME[:TAG|@DIGEST]",
        (
            switch("quiet", "Print the name only", "q"),
            text("platform", "Platform of the image: linux/amd64", "OS/ARCH"),
        ),
        least=1,
        most=1,
    )
}
