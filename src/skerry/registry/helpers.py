"""Credential helpers: programs `docker-credential-<name>` that keep secrets elsewhere.

Protocol (docker-credential-helpers): the action is the argument, the input comes on stdin, the
answer on stdout; a failure is an exit status with the reason on stdout. A helper gets a deadline
and its answer a limit, as it may wait for a keychain that nobody unlocks.
"""

import json
import os
import re
from typing import Final

from skerry.base.errors import InvalidInput

TIMEOUT: Final = 30.0
MAX_ANSWER: Final = 256 << 10
TOKEN_USER: Final = "<token>"
"""The user name that marks a secret as an identity token."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNKNOWN = ("credentials not found", "no credentials server URL", "no credentials username")


def get(helper: str, server: str, *, timeout: float = TIMEOUT) -> tuple[str, str] | None:
    """User name and secret for a server's name; None when the helper knows none."""
    answer = _run(helper, "get", server.encode(), timeout)
    if answer is None:
        return None
    try:
        found = json.loads(answer)
        username, secret = found["Username"], found["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(f"credential helper {helper!r}: its answer to get is no JSON") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise InvalidInput(f"credential helper {helper!r}: its answer to get is no JSON")
    return username, secret


def store(
    helper: str, server: str, username: str, secret: str, *, timeout: float = TIMEOUT
) -> None:
    """Keep a secret."""
    entry = {"ServerURL": server, "Username": username, "Secret": secret}
    if _run(helper, "store", json.dumps(entry).encode(), timeout) is None:
        raise InvalidInput(f"credential helper {helper!r} did not store the credentials")


def erase(helper: str, server: str, *, timeout: float = TIMEOUT) -> bool:
    """Forget a secret; False when there was none."""
    return _run(helper, "erase", server.encode(), timeout) is not None


def _run(helper: str, action: str, data: bytes, timeout: float) -> bytes | None:
    """stdout of a helper; None when it says that it knows nothing of the server."""
    import signal
    import subprocess

    if not _NAME.fullmatch(helper):
        raise InvalidInput(f"credential helper {helper!r:.80}: not a name of a program")
    program = f"docker-credential-{helper}"
    try:
        process = subprocess.Popen(
            [program, action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise InvalidInput(
            f"{program}: {error.strerror}",
            hint="install it, or take it out of credsStore and credHelpers in Docker's config.json",
        ) from None
    with process:
        try:
            answer, _ = process.communicate(data, timeout)
        except BaseException as error:
            # What it started holds the pipe as well, so the whole session has to go.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise InvalidInput(f"{program} {action}: no answer in {timeout:g} s") from None
            raise
    if len(answer) > MAX_ANSWER:
        raise InvalidInput(f"{program} {action}: more than {MAX_ANSWER} bytes of answer")
    if process.returncode == 0:
        return answer
    said = answer.decode("utf-8", "replace").strip()
    if any(mark in said for mark in _UNKNOWN):
        return None
    reason = "".join(c if c.isprintable() else " " for c in said)[:200]
    raise InvalidInput(f"{program} {action}: {reason or f'exit status {process.returncode}'}")
