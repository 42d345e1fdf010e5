"""Run hook programs: the container's state on standard input, a time limit, output kept for errors.

Standard input and output are files in memory, so a hook that neither reads nor stops writing cannot
block the runtime, only run into its time limit.
"""

import json
import os
import select
import signal

from skerry.base.errors import SystemFault
from skerry.base.light import TYPE_CHECKING, Any
from skerry.kernel.descriptors import pidfd_open

if TYPE_CHECKING:
    from skerry.runtime.steps import Hook

_SHOWN = 2048


def run_all(kind: str, hooks: "tuple[Hook, ...]", state: dict[str, Any]) -> None:
    """Run the hooks of one point in order; SystemFault at the first that fails."""
    for index, hook in enumerate(hooks):
        run(kind, index, hook, state)


def run(kind: str, index: int, hook: "Hook", state: dict[str, Any]) -> None:
    """Run one hook to its end; SystemFault when it cannot run, fails, or takes too long."""
    name = f"hook {kind} #{index} ({hook.path})"
    stdin = os.memfd_create("state")
    output = os.memfd_create("output")
    try:
        os.write(stdin, json.dumps(state).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        try:
            pid = os.posix_spawn(
                hook.path,
                hook.args,
                dict(_pairs(hook.env)),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            raise SystemFault(f"error running {name}: {error.strerror}") from None
        code = _wait(pid, hook.timeout)
        if code is None:
            raise SystemFault(f"error running {name}: did not end within {hook.timeout} s")
        if code != 0:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            said = os.pread(output, _SHOWN, 0).decode(errors="replace").strip()
            raise SystemFault(f"error running {name}: {how}" + (f": {said}" if said else ""))
    finally:
        os.close(stdin)
        os.close(output)


def _pairs(env: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (entry.partition("=") for entry in env)]


def _wait(pid: int, timeout: int) -> int | None:
    """The exit code (minus the signal), or None when time ran out and the hook was killed."""
    expired = False
    if timeout:
        pidfd = pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            expired = not poller.poll(timeout * 1000)
        finally:
            os.close(pidfd)
        if expired:
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return None if expired else os.waitstatus_to_exitcode(status)
