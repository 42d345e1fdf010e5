"""`registry`: serve a registry of one's own, or tidy it."""

from __future__ import annotations

import os

from skerry.base.errors import SystemFault, Unavailable
from skerry.cli.context import Context, err, python
from skerry.cli.options import Command, Option, Parsed, parse, switch, text

_STORE: tuple[Option, ...] = (
    switch("store", "Serve the engine's own images; pushes land among them"),
    text("listen", "Address, 127.0.0.1:5000 by default", "HOST:PORT"),
    switch("read-only", "Take no pushes, delete nothing"),
    switch("no-delete", "Take pushes, delete nothing"),
    switch("no-page", "No page for browsers"),
    text("htpasswd", "bcrypt entries", "FILE"),
    text("tls-cert", "PEM, with the chain", "FILE"),
    text("tls-key", "PEM", "FILE"),
)


def registry(context: Context, parsed: Parsed) -> int:
    """Become the registry server. Its own options follow; the root is passed on."""
    if parsed.arguments[:1] == ["serve"] and "--store" in parsed.arguments:
        return _serve_store(context, parse(_STORE, parsed.arguments[1:], intermixed=False))
    words = [python(), "-m", "skerry", "registry", "--root", context.root, *parsed.arguments]
    try:
        os.execv(words[0], words)
    except OSError as error:
        raise SystemFault(f"cannot run {words[0]}: {error.strerror}") from None


def _serve_store(context: Context, parsed: Parsed) -> int:
    """The engine serves its images for as long as this request is open."""
    from skerry.sdk import wire

    body = {
        "Listen": parsed.text("listen"),
        "ReadOnly": parsed.on("read-only"),
        "NoDelete": parsed.on("no-delete"),
        "NoPage": parsed.on("no-page"),
        **{
            name: os.path.abspath(parsed.text(option)) if parsed.text(option) else ""
            for name, option in (
                ("Htpasswd", "htpasswd"),
                ("TlsCert", "tls-cert"),
                ("TlsKey", "tls-key"),
            )
        },
    }
    headers = {"Content-Type": "application/json"}
    data = wire.dumps(body).encode()
    response = context.client.open("POST", "/skerry/registry", data, headers)
    try:
        for line in response.json_lines():
            err(f"listening on {line['address']}, the images of this engine")
    finally:
        response.connection.close()
    raise Unavailable("the engine has stopped serving")


COMMANDS = {
    "registry": Command(
        registry,
        "Serve a registry in the foreground, or collect its garbage",
        "serve|gc [OPTION...]",
        verbatim=True,
        text="`skerry registry serve --help` lists the options; see docs/registry-server.md.",
    )
}
