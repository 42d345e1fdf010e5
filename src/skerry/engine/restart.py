"""Restart policies: when a container that ended is started again, and after how long.

Docker's rules (https://docs.docker.com/engine/containers/start-containers-automatically/): the
pause starts at 100 ms and doubles up to a minute; it starts over once a container has run 10 s.
"""

from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput

FIRST = 0.1
LONGEST = 60.0
STEADY = 10.0
"""Seconds of running after which the pause starts over."""
NAMES = ("no", "always", "unless-stopped", "on-failure")


class Policy(NamedTuple):
    """`retries` counts for on-failure only; 0 is without end."""

    name: str = "no"
    retries: int = 0


def parse(raw: dict[str, Any] | None) -> Policy:
    """Docker's `RestartPolicy` object; InvalidInput with Docker's words."""
    raw = raw or {}
    name = raw.get("Name") or "no"
    retries = raw.get("MaximumRetryCount") or 0
    if name not in NAMES:
        raise InvalidInput(
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    negative = not isinstance(retries, int) or retries < 0
    if retries and name != "on-failure":
        raise InvalidInput(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            + (" and cannot be negative" if negative else "")
        )
    if negative:
        raise InvalidInput("invalid restart policy: maximum retry count cannot be negative")
    return Policy(name, retries)


def wanted(policy: Policy, *, code: int, count: int, stopped: bool) -> bool:
    """Whether to start again a container that ended with `code` after `count` restarts.

    `stopped` says that a user asked for the end.
    """
    if stopped or policy.name == "no":
        return False
    if policy.name == "on-failure":
        return code != 0 and (policy.retries == 0 or count < policy.retries)
    return True


def wanted_at_boot(policy: Policy, *, stopped: bool) -> bool:
    """Whether to start a container that was running when the host went down."""
    return policy.name == "always" or (policy.name == "unless-stopped" and not stopped)


def pause(previous: float, ran: float) -> float:
    """Seconds to wait before the next start, given the last pause and how long it ran."""
    if previous == 0 or ran >= STEADY:
        return FIRST
    return min(previous * 2, LONGEST)
