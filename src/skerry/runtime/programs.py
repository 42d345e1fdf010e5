"""What a keeper can keep: a container, or a further process in one."""

import os
import signal
from contextlib import suppress
from typing import Any

from skerry.base.errors import Conflict, InvalidInput, SkerryError
from skerry.base.isolation import Started
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.namespaces import CLONE_NEWPID
from skerry.kernel.syscalls import checked, libc
from skerry.runtime import launch, rundir
from skerry.runtime.keeper import Launched, Program
from skerry.runtime.steps import Plan, ProcessPlan, process_from_wire
from skerry.runtime.streams import Streams

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


class Container(Program):
    """A container: its plan, and the cgroup that ends with it."""

    def __init__(self, plan: Plan, layout: Layout) -> None:
        self._plan = plan
        self._layout = layout
        self._cgroup = Cgroup(plan.cgroup_path, layout) if plan.cgroup_path else None

    def launch(self, streams: Streams) -> Launched:
        """Make the container and run its program."""
        own_pids = self._plan.new_namespaces & CLONE_NEWPID
        if not own_pids:
            # Without a pid namespace the orphans of the container are nobody's but the keeper's.
            checked(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become a subreaper")
        ends = streams.ends
        created = launch.create(
            self._plan,
            ends.stdin,
            ends.stdout,
            ends.stderr,
            console=ends.console,
            wait_for_start=False,
            layout=self._layout,
        )
        if not own_pids:
            _reap_orphans(created.pid)
        return _launched(created)

    def kill_rest(self) -> bool:
        """Kill everything in the cgroup; whether the kernel's OOM killer was at work there."""
        if self._cgroup is None:
            return False
        with suppress(SkerryError):
            if self._cgroup.pids():
                self._cgroup.kill_all()
        with suppress(SkerryError):
            return self._cgroup.oom_kills() > 0
        return False

    def clean_up(self) -> None:
        """Remove the cgroup, then run the poststop hooks."""
        if self._cgroup is not None:
            with suppress(SkerryError):
                self._cgroup.remove()
        launch.run_poststop(self._plan)


class Exec(Program):
    """A further process in the container of `init`; orphans of it are the container's."""

    def __init__(
        self, init: Started, process: ProcessPlan, cgroup_path: str, layout: Layout
    ) -> None:
        self._layout = layout
        self._init = init
        self._process = process
        self._cgroup_path = cgroup_path

    def launch(self, streams: Streams) -> Launched:
        """Enter the container and run the program."""
        if rundir.start_time(self._init.pid) != self._init.start_time:
            raise Conflict(f"cannot exec: the container's init {self._init.pid} has gone")
        ends = streams.ends
        created = launch.exec_into(
            self._init.pid,
            self._process,
            ends.stdin,
            ends.stdout,
            ends.stderr,
            cgroup_path=self._cgroup_path,
            layout=self._layout,
            console=ends.console,
        )
        return _launched(created)


def make_program(head: dict[str, Any], body: bytes, layout: Layout) -> Program:
    """The program that a request asks for: `op` is `start` (the body is a Plan) or `exec`."""
    match head.get("op"):
        case "start":
            return Container(Plan.from_wire(body), layout)
        case "exec":
            init = Started(int(head["pid"]), int(head["start_time"]))
            return Exec(init, process_from_wire(body), str(head["cgroup"]), layout)
    raise InvalidInput(f"a keeper cannot {head.get('op')!r}")


def _launched(created: launch.Created) -> Launched:
    for fd in (created.start_fd, created.status_fd):
        if fd >= 0:
            os.close(fd)
    return Launched(created.pid, created.pidfd, rundir.start_time(created.pid))


def _reap_orphans(init: int) -> None:
    """Reap, from now on, every child but `init`, whose status the keeper takes itself."""

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while True:
                # Look first: taking init's status here would lose the exit code.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid == init:
                    return
                os.waitpid(ended.si_pid, 0)

    signal.signal(signal.SIGCHLD, reap)
    reap()
