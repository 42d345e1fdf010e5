"""What keepers keep: containers, and further processes in them (`starter.Programs`)."""

import os
from contextlib import suppress

from skerry.base.errors import InvalidInput, SkerryError
from skerry.base.isolation import Started
from skerry.base.light import Any
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.namespaces import CLONE_NEWPID
from skerry.runtime import launch
from skerry.runtime.null_device import guarded_null
from skerry.runtime.starter import Ends, Launched, OnCloned, Programs
from skerry.runtime.steps import Plan, process_from_wire


class Containers(Programs):
    """Launches by `skerry.runtime.launch`. A request's `op` is `start` (the body is a Plan) or
    `exec` (a ProcessPlan)."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        guarded_null()  # Here, so that keepers inherit it.

    def launch(
        self, head: dict[str, Any], body: bytes, ends: Ends, on_cloned: OnCloned
    ) -> Launched:
        """Run the program; errors as `launch.create`."""
        match head.get("op"):
            case "start":
                return self._start(Plan.from_wire(body), ends)
            case "exec":
                return self._exec(head, body, ends, on_cloned)
        raise InvalidInput(f"a keeper cannot {head.get('op')!r}")

    def _start(self, plan: Plan, ends: Ends) -> Launched:
        created = launch.create(
            plan,
            ends.stdin,
            ends.stdout,
            ends.stderr,
            console=ends.console,
            wait_for_start=False,
            layout=self._layout,
        )
        return Launched(
            created.pid,
            _only_pidfd(created),
            cgroup=plan.cgroup_path,
            # Without a pid namespace the orphans of the container are nobody's but the keeper's.
            reap=not plan.new_namespaces & CLONE_NEWPID,
            poststop=plan.to_wire() if plan.hooks_of("poststop") else b"",
        )

    def _exec(self, head: dict[str, Any], body: bytes, ends: Ends, on_cloned: OnCloned) -> Launched:
        init = Started(int(head["pid"]), int(head["start_time"]))
        created = launch.exec_into(
            init.pid,
            process_from_wire(body),
            ends.stdin,
            ends.stdout,
            ends.stderr,
            cgroup_path=str(head["cgroup"]),
            console=ends.console,
            layout=self._layout,
            start_time=init.start_time,
            on_cloned=lambda created: on_cloned(Launched(created.pid, created.pidfd)),
        )
        return Launched(created.pid, _only_pidfd(created))

    def kill_rest(self, cgroup: str) -> bool:
        """Kill everything in the cgroup; whether the kernel's OOM killer was at work there."""
        if not cgroup:
            return False
        group = Cgroup(cgroup, self._layout)
        with suppress(SkerryError):
            if group.pids():
                group.kill_all()
        with suppress(SkerryError):
            return group.oom_kills() > 0
        return False

    def clean_up(self, cgroup: str, poststop: bytes) -> None:
        """Remove the cgroup, then run the poststop hooks."""
        if cgroup:
            with suppress(SkerryError):
                Cgroup(cgroup, self._layout).remove()
        if poststop:
            launch.run_poststop(Plan.from_wire(poststop))


def _only_pidfd(created: launch.Created) -> int:
    for fd in (created.start_fd, created.status_fd):
        if fd >= 0:
            os.close(fd)
    return created.pidfd
