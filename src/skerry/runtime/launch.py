"""Start containers and further processes in them: the half of the work that stays outside.

Usage, in a lean single-threaded process (the keeper, or the `skerry-runtime` command)::

    created = launch.create(plan, 0, 1, 2, wait_for_start=False)   # the program runs now

or in two steps, as `create` and `start` of the OCI command line::

    created = launch.create(plan, 0, 1, 2)
    created = launch.start(created, plan)

The caller becomes the parent of the container's init and must reap it (`os.waitpid(created.pid)`,
or poll `created.pidfd`). On any error the init has been reaped and the cgroup removed already.
"""

import _socket
import errno
import os
import signal
from collections.abc import Callable

from skerry.base.errors import Conflict, KernelFault, SkerryError, SystemFault, Unsupported
from skerry.base.light import NamedTuple, TypeVar
from skerry.kernel import cgroups, namespaces, processes
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.descriptors import pidfd_open
from skerry.kernel.syscalls import libc
from skerry.runtime import init
from skerry.runtime.cloning import (
    NotCloned,
    Opened,
    clone_further,
    clone_init,
    open_tasks,
    to_join,
    trees,
)
from skerry.runtime.init import further
from skerry.runtime.init.handover import Handover, Status, Stdio, error_from
from skerry.runtime.late_hooks import run_late_hooks, run_poststart, run_poststop
from skerry.runtime.null_device import guarded_streams, own_streams
from skerry.runtime.serving import serve
from skerry.runtime.steps import Plan, ProcessPlan

_PR_SET_DUMPABLE = 4

Made = TypeVar("Made")


__all__ = [
    "Created",
    "check_host",
    "create",
    "end",
    "exec_into",
    "follow",
    "hear_start",
    "remove_group",
    "remove_leftovers",
    "run_late_hooks",
    "run_poststart",
    "run_poststop",
    "start",
]


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
        for fd in (self.pidfd, self.start_fd, self.status_fd):
            if fd >= 0:
                os.close(fd)


OnCloned = Callable[[Created], None]


def create(
    plan: Plan,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    console: int = -1,
    wait_for_start: bool = True,
    gate: int = -1,
    layout: Layout | None = None,
    on_cloned: OnCloned | None = None,
) -> Created:
    """Make the container: cgroup, namespaces, root, hooks up to createContainer.

    `stdin`, `stdout`, `stderr` become 0, 1, 2 of the program; they stay open here. With a terminal
    in the plan they are ignored, and `console` is a connected unix socket on which the init sends
    the master side of the terminal (one descriptor by SCM_RIGHTS), before this returns.

    With `wait_for_start` the init stops right before the program until `start`. Without it, this
    returns once the program was executed (poststart hooks included), in one go.
    `gate` is a listening SOCK_SEQPACKET socket that takes the place of the pipe and of `start`:
    whoever connects starts the program and hears how that went (`hear_start`).
    `on_cloned` is told of the init as soon as there is one, to write its pid down.

    Raises CommandNotFound, CommandNotExecutable (the image's fault), InvalidInput, SystemFault.
    """
    check_host(plan)
    _forbid_dumps(plan)
    layout = layout or cgroups.detect()
    group = Cgroup(plan.cgroup_path, layout) if plan.cgroup_path else None
    opened = Opened()
    if group is not None:
        # Outside of the block below: a group that could not be made is somebody else's.
        group.create(plan.cgroup_writes)
    try:
        own_gate = -1
        if wait_for_start and gate < 0:
            gate, own_gate = os.pipe2(os.O_CLOEXEC)
            opened.keep(gate)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            handover = Handover(
                stdio=guarded_streams(stdin, stdout, stderr),
                console=console,
                gate=gate if wait_for_start else -1,
                status=Status(theirs),
                trees=trees(plan, opened),
                cgroup_tasks=open_tasks(group, opened),
                gate_listens=wait_for_start and own_gate < 0,
            )
            pid, pidfd = _heard(ours, lambda: clone_init(plan, handover, ours, layout, group))
        finally:
            theirs.close()
        opened.close()
        created = Created(pid, pidfd, own_gate, -1)
        return follow(created, plan, ours, on_cloned, wait_for_start=wait_for_start)
    except BaseException:
        opened.close()
        if group is not None:
            remove_group(group)
        raise


def follow(
    created: Created, plan: Plan, ours: _socket.socket, on_cloned: OnCloned | None,
    *, wait_for_start: bool,
) -> Created:  # fmt: skip
    """Serve an init until it stops at the gate, or its program was executed."""
    try:
        if on_cloned is not None:
            on_cloned(created)
        last = "created" if wait_for_start else ""
        serve(created.pid, created.pidfd, plan, ours, last=last)
        if wait_for_start:
            return created._replace(status_fd=ours.detach())
        ours.close()
        run_poststart(plan, created.pid)
        return created
    except BaseException:
        ours.close()
        end(created)
        raise


def start(created: Created, plan: Plan) -> Created:
    """Open the gate, wait for the execve, run the poststart hooks; errors as `create`."""
    sock = _socket.socket(fileno=created.status_fd)
    try:
        os.write(created.start_fd, b"\1")
        os.close(created.start_fd)
        created = created._replace(start_fd=-1, status_fd=-1)
        serve(created.pid, created.pidfd, plan, sock, last="")
        run_poststart(plan, created.pid)
    except BaseException:
        sock.close()
        end(created)
        if plan.cgroup_path:
            remove_group(Cgroup(plan.cgroup_path, cgroups.detect()))
        raise
    sock.close()
    return created


def hear_start(sock: _socket.socket, plan: Plan, pid: int, pidfd: int) -> None:
    """Follow, on a connection to the gate, what `start` follows; errors as `create`."""
    serve(pid, pidfd, plan, sock, last="")


def exec_into(
    pid: int,
    process: ProcessPlan,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    cgroup_path: str = "",
    console: int = -1,
    layout: Layout | None = None,
    name: str = "exec",
    start_time: int = 0,
    on_cloned: OnCloned | None = None,
) -> Created:
    """Run a further process in the namespaces (and cgroup) of the container whose init is `pid`.

    Returns once the program was executed. Streams, console and errors as `create`. `name` is for
    the session keyring. `on_cloned` is told of the process while that is still on its way. Conflict
    when the process at `pid` did not start at `start_time`.
    """
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    opened = Opened()
    try:
        target = opened.keep(_alive(pid, pidfd_open))
        # Only now that the descriptor holds the process: its pid may have become a host process's.
        now = processes.facts(pid) if start_time else None
        if start_time and (now is None or now[1] != start_time):
            raise _gone(pid)
        kinds = _alive(pid, namespaces.differing)
        root_fd = opened.keep(_alive(pid, _root_of))
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            group = Cgroup(cgroup_path, layout or cgroups.detect()) if cgroup_path else None
            folder = group.directory_fd(pid) if group is not None else -1
            if folder >= 0:
                opened.keep(folder)
            tasks = open_tasks(group, opened)
            streams = guarded_streams(stdin, stdout, stderr)
            foreign = bool(kinds & namespaces.CLONE_NEWUSER)
            if not foreign and not process.terminal:
                streams, null = own_streams(streams, root_fd)
                if null >= 0:
                    opened.keep(null)
            status = Status(theirs)
            handover = Handover(streams, console, -1, status, {}, tasks)
            into = further.Target(target, root_fd, to_join(kinds), foreign)
            calls = further.steps(into, process, handover, name)
            child, pidfd = _heard(ours, lambda: clone_further(target, kinds, folder, status))
            if child == 0:
                ours.close()
                init.run_further(calls, status)
        finally:
            theirs.close()
        created = Created(child, pidfd, -1, -1)
        try:
            opened.close()
            if on_cloned is not None:
                on_cloned(created)
            serve(child, pidfd, None, ours, last="", process=process)
        except BaseException:
            end(created)
            raise
        finally:
            ours.close()
        return created
    finally:
        opened.close()


def rehearse_exec() -> None:
    """Make known to this process, and to those forked from it, what each exec looks up in libc."""
    idle = ProcessPlan(
        ("/",), ("HOME=/",), "/", 0, 0, (), -1, 0, 0, 0, 0, 0, True, (), None, bytes(8), 0,
        "", "", "", "", False, 0, 0, -1, None, -1, True, 0,
    )  # fmt: skip
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    number = ours.fileno()
    stdio = Stdio(number, number, number)
    handover = Handover(stdio, -1, -1, Status(theirs), {}, (number,))
    further.steps(further.Target(number, number, namespaces.CLONE_NEWNS, False), idle, handover, "")
    ours.close()
    theirs.close()


def _alive(pid: int, look: Callable[[int], Made]) -> Made:
    """What `look` says of a process. Conflict when that has ended: no fault of what is to run."""
    try:
        return look(pid)
    except KernelFault as error:
        if error.errno in (errno.ESRCH, errno.ENOENT):
            raise _gone(pid) from None
        raise


def _gone(pid: int) -> Conflict:
    return Conflict(f"cannot exec: the container's init {pid} has gone")


def _root_of(pid: int) -> int:
    """The root of a process: not always that of its mount namespace, which it may share."""
    try:
        return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFault(f"open the root of process {pid}", error.errno or 0) from None


def check_host(plan: Plan) -> None:
    """Labels that no module of this kernel would enforce are refused, not ignored."""
    process = plan.process
    if process and process.apparmor and not _enabled("/sys/module/apparmor/parameters/enabled"):
        raise Unsupported(
            "apparmorProfile is set, but AppArmor is not enabled on this host",
            hint="remove process.apparmorProfile from the configuration",
        )
    if ((process and process.selinux) or plan.mount_label) and not os.path.isdir("/sys/fs/selinux"):
        raise Unsupported(
            "selinuxLabel is set, but SELinux is disabled or not supported",
            hint="remove process.selinuxLabel and linux.mountLabel from the configuration",
        )


def _enabled(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def _forbid_dumps(plan: Plan) -> None:
    """Not dumpable from here on, inherited by the child: its /proc links are closed to others.

    Without root the child must stay open to us until its id maps are written.
    """
    if os.geteuid() == 0:
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _heard(sock: _socket.socket, clone: Callable[[], Made]) -> Made:
    """What `clone` makes; the error that was reported when a process in between failed."""
    try:
        return clone()
    except NotCloned:
        message = Status(sock).hear()
        raise error_from(message[1:]) if message else SystemFault("cannot clone") from None


def end(created: Created) -> None:
    """Kill and reap what did not become a container."""
    try:
        os.kill(created.pid, signal.SIGKILL)
        os.waitpid(created.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    created._replace(status_fd=-1).close()


def remove_group(group: Cgroup) -> None:
    """An error here must not hide the one that led here."""
    try:
        group.kill_all()
        group.remove()
    except SkerryError:
        return


def remove_leftovers(cgroup_path: str) -> None:
    """Kill every process of a cgroup and remove it; for containers whose keeper was killed."""
    group = Cgroup(cgroup_path, cgroups.detect())
    group.kill_all()
    group.remove()
