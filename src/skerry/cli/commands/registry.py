"""`registry`: serve a registry of one's own, or tidy it."""

from __future__ import annotations

import os

from skerry.base.errors import SystemFault
from skerry.cli.context import Context, python
from skerry.cli.options import Command, Parsed


def registry(context: Context, parsed: Parsed) -> int:
    """Become the registry server. Its own options follow; the root is passed on."""
    words = [python(), "-m", "skerry", "registry", "--root", context.root, *parsed.arguments]
    try:
        os.execv(words[0], words)
    except OSError as error:
        raise SystemFault(f"cannot run {words[0]}: {error.strerror}") from None


COMMANDS = {
    "registry": Command(
        registry,
        "Serve a registry in the foreground, or collect its garbage",
        "serve|gc [OPTION...]",
        verbatim=True,
        text="`skerry registry serve --help` lists the options; see docs/registry-server.md.",
    )
}
