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
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from skerry.base.errors import Conflict, KernelFault, SkerryError, SystemFault, Unsupported
from skerry.base.oci_runtime import OCI_VERSION, State
from skerry.kernel import cgroups, namespaces, processes
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.descriptors import pidfd_open, send_fds
from skerry.kernel.syscalls import libc, syscall
from skerry.runtime import init
from skerry.runtime.cloning import (
    NotCloned,
    Opened,
    clone_further,
    clone_init,
    open_tasks,
    trees,
)
from skerry.runtime.init import hooks
from skerry.runtime.init.handover import Handover, Status, error_from
from skerry.runtime.null_device import guarded_streams
from skerry.runtime.steps import Hook, Plan, ProcessPlan

_NR_PIDFD_GETFD = 438
_PR_SET_DUMPABLE = 4

OnCloned = Callable[[int], None]
Made = TypeVar("Made")


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
    `on_cloned` is told the init's pid as soon as there is one, to write it down.

    Raises CommandNotFound, CommandNotExecutable (the image's fault), InvalidInput, SystemFault.
    """
    _check_host(plan)
    _forbid_dumps(plan)
    layout = layout or cgroups.detect()
    group = Cgroup(plan.cgroup_path, layout) if plan.cgroup_path else None
    opened = Opened()
    try:
        if group is not None:
            group.create(plan.cgroup_writes)
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
        try:
            if on_cloned is not None:
                on_cloned(created.pid)
            _serve(created, plan, ours, last="created" if wait_for_start else "")
            if wait_for_start:
                return created._replace(status_fd=ours.detach())
            ours.close()
            run_poststart(plan, created.pid)
            return created
        except BaseException:
            ours.close()
            _end(created)
            raise
    except BaseException:
        opened.close()
        if group is not None:
            _remove(group)
        raise


def start(created: Created, plan: Plan) -> Created:
    """Open the gate, wait for the execve, run the poststart hooks; errors as `create`."""
    sock = _socket.socket(fileno=created.status_fd)
    try:
        os.write(created.start_fd, b"\1")
        os.close(created.start_fd)
        created = created._replace(start_fd=-1, status_fd=-1)
        _serve(created, plan, sock, last="")
    except BaseException:
        sock.close()
        _end(created)
        if plan.cgroup_path:
            _remove(Cgroup(plan.cgroup_path, cgroups.detect()))
        raise
    sock.close()
    run_poststart(plan, created.pid)
    return created


def hear_start(sock: _socket.socket, plan: Plan, pid: int, pidfd: int) -> None:
    """Follow, on a connection to the gate, what `start` follows; errors as `create`."""
    _serve(Created(pid, pidfd, -1, -1), plan, sock, last="")


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
) -> Created:
    """Run a further process in the namespaces (and cgroup) of the container whose init is `pid`.

    Returns once the program was executed. Streams, console and errors as `create`. `name` is for
    the session keyring. Conflict when the process at `pid` did not start at `start_time`.
    """
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    opened = Opened()
    try:
        target = opened.keep(pidfd_open(pid))
        # Only now that the descriptor holds the process: its pid may have become a host process's.
        now = processes.facts(pid) if start_time else None
        if start_time and (now is None or now[1] != start_time):
            raise Conflict(f"cannot exec: the container's init {pid} has gone")
        kinds = namespaces.differing(pid)
        root_fd = opened.keep(_root_of(pid))
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            group = Cgroup(cgroup_path, layout or cgroups.detect()) if cgroup_path else None
            folder = group.directory_fd(pid) if group is not None else -1
            if folder >= 0:
                opened.keep(folder)
            tasks = open_tasks(group, opened)
            streams = guarded_streams(stdin, stdout, stderr)
            handover = Handover(streams, console, -1, Status(theirs), {}, tasks)
            status = handover.status
            child, pidfd, kinds = _heard(ours, lambda: clone_further(target, kinds, folder, status))
            if child == 0:
                ours.close()
                init.run_in(init.Target(target, root_fd, kinds), process, handover, name)
        finally:
            theirs.close()
        created = Created(child, pidfd, -1, -1)
        try:
            _serve(created, None, ours, last="", process=process)
        except BaseException:
            _end(created)
            raise
        finally:
            ours.close()
        return created
    finally:
        opened.close()


def _root_of(pid: int) -> int:
    """The root of a process: not always that of its mount namespace, which it may share."""
    try:
        return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFault(f"open the root of process {pid}", error.errno or 0) from None


def run_poststop(plan: Plan) -> list[str]:
    """Run the poststop hooks, after the container is gone. A failure does not stop the others: what
    went wrong is returned, for a log."""
    return run_late_hooks("poststop", plan.hooks_of("poststop"), _state(plan, 0, "stopped"))


def run_poststart(plan: Plan, pid: int) -> None:
    """Run the poststart hooks; a failure is a line on standard error."""
    state = _state(plan, pid, "running")
    for warning in run_late_hooks("poststart", plan.hooks_of("poststart"), state):
        os.write(2, f"warning: {warning}\n".encode())


def run_late_hooks(kind: str, late: tuple[Hook, ...], state: State) -> list[str]:
    """Run hooks whose failure is a warning (runtime.md, "Lifecycle"); the warnings."""
    warnings = []
    for index, hook in enumerate(late):
        try:
            hooks.run(kind, index, hook, dict(state))
        except SkerryError as error:
            warnings.append(error.message)
    return warnings


def _state(plan: Plan, pid: int, status: str) -> State:
    state: State = {"ociVersion": OCI_VERSION, "id": plan.id, "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = plan.bundle
    state["annotations"] = dict(plan.annotations)
    return state


def _check_host(plan: Plan) -> None:
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


def _serve(
    created: Created,
    plan: Plan | None,
    sock: _socket.socket,
    *,
    last: str,
    process: ProcessPlan | None = None,
) -> None:
    """Answer the child until it says `last` or the pair closes."""
    status = Status(sock)
    while True:
        message = status.hear()
        if message is None:
            if last:
                raise SystemFault(
                    "the container's init ended before the container was made",
                    hint="it may have been killed, perhaps for memory",
                )
            return
        word = message[0]
        if word == last:
            return
        if word == "failed":
            raise error_from(message[1:])
        answer: Any = None
        if word == "ids" and plan:
            namespaces.write_id_maps(created.pid, plan.uid_map, plan.gid_map)
        elif word == "offsets" and plan:
            _offsets(created.pid, plan)
        elif word == "hooks" and plan:
            answer = dict(_state(plan, created.pid, "creating"))
            for kind in ("prestart", "createRuntime"):
                hooks.run_all(kind, plan.hooks_of(kind), answer)
        elif word == "listener":
            _send_listener(created, plan, process, message[1])
        else:
            raise SystemFault(f"unexpected message from the container's init: {word!r:.60}")
        status.tell(answer)


def _offsets(pid: int, plan: Plan) -> None:
    if plan.time_offsets:
        rows = (f"{namespaces.CLOCKS[c]} {s} {ns}\n" for c, s, ns in plan.time_offsets)
        _put(f"/proc/{pid}/timens_offsets", "".join(rows))
    if plan.process and plan.process.oom_score_adj is not None:
        _put(f"/proc/{pid}/oom_score_adj", str(plan.process.oom_score_adj))


def _put(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFault(f"write {text.strip()!r} to {path}", error.errno or 0) from None


def _send_listener(
    created: Created, plan: Plan | None, process: ProcessPlan | None, number: int
) -> None:
    """Fetch the seccomp listener and send it to the agent (config-linux.md, "The Container Process
    State")."""
    import json

    process = process or (plan.process if plan else None)
    if process is None or not process.seccomp_listener:
        raise SystemFault("the seccomp profile notifies, but names no listenerPath")
    listener = syscall(
        _NR_PIDFD_GETFD, created.pidfd, number, 0, action="fetch the seccomp listener"
    )
    state = {
        "ociVersion": OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": created.pid,
        "metadata": process.seccomp_metadata,
        "state": _state(plan, created.pid, "creating") if plan else {"pid": created.pid},
    }
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(process.seccomp_listener)
        send_fds(sock, json.dumps(state).encode(), [listener])
    except OSError as error:
        raise KernelFault(
            f"send the seccomp listener to {process.seccomp_listener}", error.errno or 0
        ) from None
    finally:
        sock.close()
        os.close(listener)


def _end(created: Created) -> None:
    """Kill and reap what did not become a container."""
    try:
        os.kill(created.pid, signal.SIGKILL)
        os.waitpid(created.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    created._replace(status_fd=-1).close()


def _remove(group: Cgroup) -> None:
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
