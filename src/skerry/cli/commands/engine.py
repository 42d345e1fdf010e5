"""`engine`: run the engine in the foreground."""

from __future__ import annotations

import os

from skerry.base.errors import SystemFault
from skerry.cli.context import Context, python
from skerry.cli.options import Command, Parsed, many, switch, text


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
        "",
        (
            text("root", "State that survives a reboot", "DIR"),
            text("run-root", "Sockets, pids, running containers", "DIR"),
            many("host", "Where to listen; tcp:// comes beside it", "ADDRESS", "H"),
            switch("tlsverify", "TCP clients need a certificate of --tlscacert"),
            text("tlscacert", "Who signs clients (PEM)", "FILE"),
            text("tlscert", "The engine's certificate", "FILE"),
            text("tlskey", "The engine's key", "FILE"),
            switch("plain-tcp", "TCP without TLS: whoever reaches the port is root on this host"),
            text("publish-default-address", "For published ports that name no address", "IP"),
            text("log-level", "What the log tells: debug, info, warning or error", "LEVEL"),
            text("idle-exit", "End when nobody has needed it for so long", "SECONDS"),
        ),
        verbatim=True,
        text="Otherwise the first command that needs an engine starts one in the background.",
    )
}
