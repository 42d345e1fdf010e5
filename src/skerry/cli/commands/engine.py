"""`engine`: run the engine in the foreground."""

from __future__ import annotations

import os

from skerry.base.errors import SystemFault
from skerry.cli.context import Context, python
from skerry.cli.options import Command, Parsed


def engine(context: Context, parsed: Parsed) -> int:
    """Become the engine. Its own options follow; the global ones are passed on."""
    words = [python(), "-m", "skerry", "engine"]
    for name, value in (("--root", context.root), ("--run-root", context.run_root)):
        words += [name, value]
    words += ["--host", context.host, *parsed.arguments]
    try:
        os.execv(words[0], words)
    except OSError as error:
        raise SystemFault(f"cannot run {words[0]}: {error.strerror}") from None


COMMANDS = {
    "engine": Command(
        engine,
        "Run the engine in the foreground",
        "[--root DIR] [--run-root DIR] [--host unix://PATH|tcp://ADDRESS:PORT] [OPTION...]",
        verbatim=True,
        text="Otherwise the first command that needs an engine starts one in the background.",
    )
}
