"""`pull`: fetch an image from a registry."""

from __future__ import annotations

from skerry.base.errors import InvalidInput, SystemFault
from skerry.base.references import parse_reference
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
    context: Context,
    image: str,
    *,
    platform: str = "",
    quiet: bool = False,
    stream: int = 1,
    all_tags: bool = False,
) -> None:
    """Pull, with the progress on `stream`."""
    from skerry.cli.registry_auth import headers_for

    name, tag = (image, "") if all_tags else split_tag(image)
    target = "/images/create" + query(fromImage=name, tag=tag or None, platform=platform or None)
    response = context.client.open("POST", target, None, headers_for(image))
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
    """Pull and print the reference in full."""
    image, every = parsed.arguments[0], parsed.on("all-tags")
    reference = parse_reference(image, default_tag="" if every else "latest")
    if every and (reference.tag or reference.digest):
        raise InvalidInput("tag can't be used with --all-tags/-a")
    bare = parse_reference(image, default_tag="")
    if not (every or bare.tag or bare.digest or parsed.on("quiet")):
        out("Using default tag: latest")
    pull_image(
        context,
        image,
        platform=parsed.text("platform"),
        quiet=parsed.on("quiet"),
        all_tags=every,
    )
    out(str(reference))
    return 0


COMMANDS = {
    "pull": Command(
        pull,
        "Fetch an image from a registry",
        "NAME[:TAG|@DIGEST]",
        (
            switch("all-tags", "Pull all tags of the repository", "a"),
            switch("quiet", "Print the name only", "q"),
            text("platform", "Platform of the image: linux/amd64", "OS/ARCH"),
        ),
        least=1,
        most=1,
    )
}
