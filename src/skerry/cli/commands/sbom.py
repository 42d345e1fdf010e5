"""`sbom`: the packages in an image, as SPDX or CycloneDX."""

from __future__ import annotations

from skerry.base.errors import SystemFault
from skerry.cli.commands.sign import ask
from skerry.cli.context import Context, err, write
from skerry.cli.options import Command, Parsed, switch, text
from skerry.cli.registry_auth import headers_for
from skerry.sdk.client import query


def sbom(context: Context, parsed: Parsed) -> int:
    """Print or write the document; with --attach, store it beside the image, too."""
    image, path = parsed.arguments[0], parsed.text("output")
    target = "/skerry/sbom" + query(name=image, format=parsed.text("format") or None)
    if parsed.on("attach"):
        answer = ask(context, "POST", target, None, headers_for(image))
        err(f"attached {answer['Digest']}")
        if not path:
            return 0
    if parsed.on("keep"):
        answer = ask(context, "POST", target + "&here=1", None, {})
        err(f"kept {answer['Digest']}")
        if not path:
            return 0
    response = context.client.open("GET", target)
    try:
        data = response.read()
    finally:
        response.connection.close()
    if not path or path == "-":
        write(1, data)
        return 0
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise SystemFault(f"write {path}: {error.strerror}") from None
    return 0


COMMANDS = {
    "sbom": Command(
        sbom,
        "List the packages in an image",
        "IMAGE",
        (
            text("format", "spdx-json (default) or cyclonedx-json", "FORMAT"),
            text("output", "Write to a file", "FILE", "o", complete="files"),
            switch("keep", "Store it here, as the image's referrer; pushes take it along"),
            switch("attach", "Store it in the image's registry, as its referrer"),
        ),
        least=1,
        most=1,
        complete="images",
    )
}
