"""`verify`: whether an image in a registry was signed with a key."""

from __future__ import annotations

from typing import Any, cast

from skerry.base.errors import InvalidInput
from skerry.cli.commands.sign import ask, read_file
from skerry.cli.context import Context, out, visible
from skerry.cli.options import Command, Parsed, many, switch
from skerry.cli.registry_auth import headers_for
from skerry.sdk import wire
from skerry.sdk.client import query


def verify(context: Context, parsed: Parsed) -> int:
    """Print who signed; an error when nobody did."""
    image, paths = parsed.arguments[0], parsed.many("key")
    if not paths:
        raise InvalidInput("verify: --key is missing", hint="name the public key's file")
    body = {
        "Keys": [
            {"Name": path, "Pem": read_file(path).decode("ascii", "replace")} for path in paths
        ]
    }
    target = "/skerry/signatures/verify" + query(name=image)
    found = cast("dict[str, Any]", ask(context, "POST", target, body, headers_for(image)))
    if parsed.on("json"):
        out(wire.pretty(found))
        return 0
    out(f"{image}: {found['Digest']}")
    for each in found["Signatures"]:
        notes = "".join(f" {key}={value}" for key, value in sorted(each["Annotations"].items()))
        out(visible(f"signed by {each['Key']} ({each['Fingerprint'][:19]}){notes}"))
    return 0


COMMANDS = {
    "verify": Command(
        verify,
        "Check an image's signatures in its registry",
        "NAME[:TAG|@DIGEST]",
        (
            many("key", "A public key, a PEM file", "FILE", complete="files"),
            switch("json", "Print everything as JSON"),
        ),
        least=1,
        most=1,
        complete="images",
    )
}
