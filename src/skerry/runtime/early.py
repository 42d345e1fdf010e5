"""A container's init that is there before its plan: cloned into its group and namespaces, waiting.

For machines, whose guest does before it is frozen what else each copy would do. What an early init
has is what all containers of a kind have: the group with its device filter, new namespaces of the
same kinds. Its mount namespace it makes when it goes on, since what is mounted in between has to be
in it. A plan that asks for something else does not fit, and the early init ends.
"""

import _socket
import os

from skerry.base.errors import SystemFault
from skerry.base.light import NamedTuple
from skerry.kernel import namespaces
from skerry.kernel.capabilities import last_capability
from skerry.kernel.cgroups import Cgroup, Layout, Write
from skerry.kernel.cgroups_files import DEVICE_FILTER
from skerry.kernel.descriptors import recv_fds, send_fds
from skerry.kernel.mounts import release
from skerry.kernel.syscalls import libc
from skerry.runtime import init, launch
from skerry.runtime.cloning import cgroup_tree
from skerry.runtime.init.handover import Handover, Status, Stdio
from skerry.runtime.null_device import guarded_streams
from skerry.runtime.steps import Plan

_MOST_PLAN = 96 << 10
"""Bytes; one message of a socket pair has room for twice that."""
_MOST_FDS = 5
_CALLED = (
    *("mount", "umount2", "fstatfs", "fchdir", "chroot", "chdir", "getcwd", "prctl", "signal"),
    *("sigprocmask", "capget", "capset", "faccessat", "execve", "sethostname", "poll"),
)
"""Functions of libc that an init calls: looked up before the fork, once for all."""
_ELSEWHERE = namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWTIME


class Early(NamedTuple):
    """One that waits. Whoever has it goes on with it or ends it."""

    pid: int
    pidfd: int
    sock: _socket.socket
    kinds: int
    """CLONE_NEW… flags."""
    group: Cgroup
    writes: tuple[Write, ...]
    """Of the group, done already."""


def make(like: Plan, layout: Layout) -> Early:
    """One for plans like this one, which has to fit itself; errors as `launch.create`."""
    for name in _CALLED:
        getattr(libc, name)
    last_capability()
    release()
    group = Cgroup(like.cgroup_path, layout)
    writes = tuple(write for write in like.cgroup_writes if write.file == DEVICE_FILTER)
    group.create(writes)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    pid = 0
    try:
        status = Status(theirs)
        folder = group.directory_fd()
        flags = like.new_namespaces & ~(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWCGROUP)
        pid, pidfd = namespaces.clone3(flags, cgroup_fd=folder)
        if pid == 0:
            ours.close()
            nobody = Handover(Stdio(-1, -1, -1), -1, -1, status, {})
            init.run_early(_bare(like), nobody, cgroup_tree(like, layout), _take)
        os.close(folder)
        theirs.close()
        early = Early(pid, pidfd, ours, like.new_namespaces, group, writes)
        if Status(ours).hear() != ("early",):
            raise SystemFault("the container's init did not get ready")
        return early
    except BaseException:
        ours.close()
        theirs.close()
        if pid:
            _reap(pid, pidfd)
        group.remove()
        raise


def _bare(plan: Plan) -> Plan:
    """Nothing of the plan but its namespaces."""
    return plan._replace(process=None)


def fits(early: Early | None, plan: Plan, data: bytes) -> bool:
    """Whether this init can carry out the plan, which `data` is on the wire."""
    return (
        early is not None
        and len(data) <= _MOST_PLAN
        and plan.new_namespaces == early.kinds
        and not (plan.joins or plan.time_offsets or plan.new_namespaces & _ELSEWHERE)
        and plan.cgroup_path == early.group.path
        and all(step.idmap is None for step in plan.mounts)
    )


def create(
    early: Early, plan: Plan, data: bytes, stdin: int, stdout: int, stderr: int,
    *, console: int = -1, wait_for_start: bool = True,
) -> launch.Created:  # fmt: skip
    """As `launch.create`, by an early init that the plan fits; `data` is the plan on the wire."""
    gate, own_gate = os.pipe2(os.O_CLOEXEC) if wait_for_start else (-1, -1)
    created = launch.Created(early.pid, early.pidfd, own_gate, -1)
    try:
        launch.check_host(plan)
        early.group.apply([write for write in plan.cgroup_writes if write not in early.writes])
        fds = [*guarded_streams(stdin, stdout, stderr), *(fd for fd in (console, gate) if fd >= 0)]
        send_fds(early.sock, bytes([console >= 0, gate >= 0]) + data, fds)
    except BaseException:
        early.sock.close()
        launch.end(created)
        launch.remove_group(early.group)
        raise
    finally:
        if gate >= 0:
            os.close(gate)
    try:
        return launch.follow(created, plan, early.sock, None, wait_for_start=wait_for_start)
    except BaseException:
        launch.remove_group(early.group)
        raise


def _take(status: Status) -> tuple[Plan, Handover]:
    """In the child: wait for what `create` sends."""
    said, fds = recv_fds(status.sock, _MOST_PLAN + 2, _MOST_FDS)
    if not said:
        os._exit(1)
    rest = iter(fds)
    stdio = Stdio(next(rest), next(rest), next(rest))
    console, gate = (next(rest) if there else -1 for there in said[:2])
    return Plan.from_wire(said[2:]), Handover(stdio, console, gate, status, {})


def end(early: Early) -> None:
    """It is not needed: nothing of it stays."""
    early.sock.close()
    _reap(early.pid, early.pidfd)
    early.group.remove()


def _reap(pid: int, pidfd: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(pidfd)
