"""What a container wants done in each of its copies before anybody is told that they are ready.

A copy of a running machine has its programs' memory: a generator of random numbers that one of them
has seeded, the key of its TLS tickets. The kernel's generator is another in each copy, so whatever
starts afresh there, or is told to, has keys of its own. That is said by the container: in programs
of its file system, or in labels, which need nothing in the image.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from skerry.base.errors import InvalidInput
from skerry.engine.signals import parse_signal

FOLDER = "/etc/skerry/after-fork.d"
"""The programs in this folder of a copy run in order of their names."""
COMMAND = "org.skerry.after-fork"
"""Label: a command for /bin/sh, or a JSON list of a program and its arguments. It runs as root."""
SIGNAL = "org.skerry.after-fork-signal"
"""Label: a signal for the container's own program. It comes last."""
SECONDS = 60.0
_MOST_SAID = 500
_RUN_FOLDER = f'for hook in {FOLDER}/*; do [ ! -x "$hook" ] || "$hook" || exit; done'


class Wanted(NamedTuple):
    """Commands by the words that name them in a message, then a signal (0 for none)."""

    commands: list[tuple[str, list[str]]]
    signal: int


def wanted(labels: Mapping[str, str], *, folder: bool) -> Wanted:
    """What is to be done in a copy of a container with these labels; `folder` says whether it has
    programs for it. InvalidInput for labels that make no sense. Pure."""
    commands = [(FOLDER, ["/bin/sh", "-c", _RUN_FOLDER])] if folder else []
    if text := labels.get(COMMAND, "").strip():
        commands.append((f"label {COMMAND}", _words(text)))
    name = labels.get(SIGNAL, "").strip()
    try:
        return Wanted(commands, parse_signal(name) if name else 0)
    except InvalidInput as wrong:
        raise InvalidInput(f"label {SIGNAL}: {wrong.message}") from None


def _words(text: str) -> list[str]:
    if not text.startswith("["):
        return ["/bin/sh", "-c", text]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise InvalidInput(f"label {COMMAND}: {text[:100]!r} is no JSON list of strings")
    return found


def complaint(name: str, code: int, output: str) -> str:
    """How a command ended that failed; empty when it did not. Pure."""
    said = output.strip()[:_MOST_SAID]
    return f"{name}: exit code {code}{': ' if said else ''}{said}" if code else ""
