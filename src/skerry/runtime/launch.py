"""Start containers and further processes in them: the half of the work that stays outside.

Usage, in a lean single-threaded process (the keeper, or the `skerry-runtime` command)::

    created = launch.create(plan, 0, 1, 2, wait_for_start=False)   # the program runs now

or in two steps, as `create` and `start` of the OCI command line::

    created = launch.create(plan, 0, 1, 2)
    launch.start(created)

The caller becomes the parent of the container's init and must reap it (`os.waitpid(created.pid)`,
or poll `created.pidfd`). On any error the init has been reaped and the cgroup removed already.
"""

from typing import NamedTuple

from skerry.base.oci_runtime import State
from skerry.runtime.plan import Plan, ProcessPlan


class Created(NamedTuple):
    """A container's init, or an exec's process. Whoever gets it closes the descriptors."""

    pid: int
    """In the caller's pid namespace."""
    pidfd: int
    start_fd: int
    """Write end of the start gate; -1 once the program runs or when the caller gave the gate."""
    status_fd: int
    """Reports failures between start and execve, end of file is success; -1 once it runs."""

    def close(self) -> None:
        """Close the descriptors; closing the gate unopened ends a waiting init."""


def create(
    plan: Plan,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    console: int = -1,
    wait_for_start: bool = True,
    gate: int = -1,
) -> Created:
    """Make the container: cgroup, namespaces, root, hooks up to createContainer.

    `stdin`, `stdout`, `stderr` become 0, 1, 2 of the program; they stay open here. With a terminal
    in the plan they are ignored, and `console` is a connected unix socket on which the init sends
    the master side of the terminal (one descriptor by SCM_RIGHTS), before this returns.

    With `wait_for_start` the init stops right before the program until `start`. Without it, this
    returns once the program was executed (poststart hooks included), in one go.
    `gate` is a descriptor that the init reads one byte from instead of a pipe of its own.

    Raises CommandNotFound, CommandNotExecutable (the image's fault), InvalidInput, SystemFault.
    """
    raise NotImplementedError


def start(created: Created, plan: Plan) -> Created:
    """Open the gate, wait for the execve, run the poststart hooks; errors as `create`."""
    raise NotImplementedError


def exec_into(
    pid: int,
    process: ProcessPlan,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    cgroup_path: str = "",
    console: int = -1,
) -> Created:
    """Run a further process in the namespaces (and cgroup) of the container whose init is `pid`.

    Returns once the program was executed. Streams, console and errors as `create`.
    """
    raise NotImplementedError


def run_poststop(plan_hooks: tuple[object, ...], state: State) -> None:
    """Run the poststop hooks, after the container is gone; failures are warnings, not errors."""
    raise NotImplementedError


def remove_leftovers(cgroup_path: str) -> None:
    """Kill every process of a cgroup and remove it; for containers whose keeper was killed."""
    raise NotImplementedError
