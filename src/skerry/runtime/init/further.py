"""A further process in a container that runs: made ready before the fork, executed after it.

Theory. A forked Python process has to copy every page of memory that it so much as looks at, at 3
to 4 microseconds a page; half of the time of an exec went there. So whatever is known before the
fork is put into C's form by the parent: a step is a call with its arguments, and the child only
goes through the list. What depends on the container (its passwd, its PATH) stays Python.

The order is that of `skerry.runtime.init`, points 1, 2, 3 and 7 to 10, and so are the reasons.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

from skerry.base.light import TYPE_CHECKING, Any, NamedTuple
from skerry.kernel import capabilities, namespaces, seccomp
from skerry.kernel.descriptors import close_range_call
from skerry.kernel.syscalls import Call, libc
from skerry.runtime.init import last, process, program, settings
from skerry.runtime.init.handover import Handover

if TYPE_CHECKING:
    from skerry.runtime.steps import ProcessPlan

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_PATH_MAX = 4096  # linux/limits.h
_c_chdir, _c_getcwd = libc.chdir, libc.getcwd


class Target(NamedTuple):
    """A container that runs."""

    pidfd: int
    root: int
    """Descriptor of its root folder."""
    kinds: int
    """CLONE_NEW… flags of the namespaces that are still to be joined, never CLONE_NEWPID."""
    foreign: bool
    """It has a user namespace of its own: the process will hold other rights than the caller."""


def steps(target: Target, plan: "ProcessPlan", handover: Handover, name: str) -> list[Call]:
    """All that a fresh child does to become the process, in order; the last one does not return."""
    return [
        *_apart(handover),
        *_inside(target, plan, handover),
        *_labelled(target, plan, handover, name),
        *_confined(target, plan, handover),
    ]


class _Into:
    """The working folder and the program, which depend on what the container holds."""

    def __init__(self, plan: "ProcessPlan") -> None:
        self._plan = plan
        self._cwd = os.fsencode(plan.cwd)
        self._where = ctypes.create_string_buffer(_PATH_MAX)
        self._entered = False
        self._program: program.Program | None = None
        self._candidates: list[bytes] = []
        if program.has_home(plan.env):
            self._candidates = program.candidates(plan.args, plan.env)
            self._program = program.Program(plan.args[0], plan.args, list(plan.env))

    def enter(self) -> None:
        """The folder, with the runtime's rights."""
        self._entered = _c_chdir(self._cwd) == 0 or last.enter_folder(self._plan.cwd)

    def enter_as_user(self) -> None:
        """The folder, if that could not be, and a look where it is."""
        inside = self._entered and _c_getcwd(self._where, _PATH_MAX) and self._where[0] == b"/"
        if not inside:
            last.enter_and_check(self._plan.cwd, entered=self._entered)

    def find(self) -> None:
        """The program, as the user it runs as."""
        plan = self._plan
        if self._program is None:
            env = program.with_home(plan.env, plan.uid)
            self._program = program.Program(program.find(plan.args, env), plan.args, env)
            return
        path = program.first(self._candidates)
        if path is None:
            path = os.fsencode(program.find(plan.args, plan.env))
        self._program.take_path(path)

    def execute(self) -> None:
        """Become it."""
        assert self._program is not None
        raise self._program.execute()


def _python(function: Callable[..., object], *arguments: Any) -> Call:
    """A step that raises its own errors."""
    return function, arguments, ""


def _apart(handover: Handover) -> Iterator[Call]:
    """Die with the parent until the program runs; a session of its own, the v1 cgroups."""
    yield libc.prctl, (_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "die with the parent"
    yield _python(last.leave_orphaned, last.look_for_parent(handover))
    # Python ignores these two, and what is ignored stays so across execve.
    yield libc.signal, (int(signal.SIGPIPE), None), "reset SIGPIPE"
    yield libc.signal, (int(signal.SIGXFSZ), None), "reset SIGXFSZ"
    nothing = (ctypes.c_uint64 * 16)()
    yield libc.sigprocmask, (int(signal.SIG_SETMASK), nothing, None), "unblock signals"
    yield libc.prctl, (_PR_SET_NAME, b"skerry-init", 0, 0, 0), "set the name"
    yield libc.setsid, (), "make a session"
    for fd in handover.cgroup_tasks:
        yield libc.write, (fd, b"0", 1), "move into the container's cgroup"


def _inside(target: Target, plan: "ProcessPlan", handover: Handover) -> Iterator[Call]:
    """Into the namespaces and the root, with the program's streams."""
    if plan.oom_score_adj is not None and plan.oom_score_adj != settings.own_oom_score():
        yield _python(settings.oom_score, plan.oom_score_adj)
    if target.kinds:
        yield namespaces.setns_call(target.pidfd, target.kinds, "of the container")
    yield libc.umask, (0,), ""
    if target.kinds & namespaces.CLONE_NEWUSER:
        yield _python(settings.become_root)
    # Joining a mount namespace leads to its root, which is the host's when it is shared.
    yield libc.fchdir, (target.root,), "enter the container's root"
    yield libc.chroot, (b".",), "enter the container's root"
    yield libc.chdir, (b"/",), "enter the container's root"
    if plan.terminal or min(handover.stdio) < 3:
        yield _python(last.take_stdio, target.root, plan, handover)
    else:
        for number, fd in enumerate(handover.stdio):
            yield libc.dup2, (fd, number), f"set up descriptor {number}"


def _labelled(target: Target, plan: "ProcessPlan", handover: Handover, name: str) -> Iterator[Call]:
    """What is set while the process may still do everything."""
    labels = process.Labels(plan)
    if labels.wanted:
        yield _python(labels.prepare)
    if target.foreign:
        yield _python(capabilities.drop_bounding, plan.bounding)
    else:
        yield from capabilities.bounding_calls(plan.bounding)
    if plan.new_keyring:
        yield _python(process.join_keyring, process.keyring_calls(f"_ses.{name}"))
    if process.has_limits(plan):
        yield _python(process.set_limits, plan)
    if target.foreign and not plan.terminal:
        yield _python(process.own_null, process.null_devices(handover.stdio))
    if target.foreign or plan.terminal or process.strange_stdio(handover.stdio, plan.uid):
        yield _python(process.own_stdio, plan.uid)
    if labels.wanted:
        yield _python(labels.write)


def _confined(target: Target, plan: "ProcessPlan", handover: Handover) -> Iterator[Call]:
    """Descriptors, folder, identity and rights, then the program."""
    into = _Into(plan)
    admin = bool(plan.seccomp) and not plan.no_new_privileges
    yield from _close(plan, handover)
    yield _python(into.enter)
    if target.foreign or not plan.groups:
        yield _python(process.become_user, plan)
    else:
        yield from process.user_calls(plan)
    if target.foreign:
        yield _python(process.take_capabilities, plan, admin)
    else:
        yield from process.capability_calls(plan, admin=admin)
    yield _python(into.enter_as_user)
    yield _python(into.find)
    if plan.no_new_privileges:
        yield libc.prctl, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs"
    yield libc.prctl, (_PR_SET_PDEATHSIG, 0, 0, 0, 0), ""
    if plan.seccomp_flags & seccomp.FLAG_NEW_LISTENER:
        yield _python(last.load_filter, plan, handover.status)
    elif plan.seccomp:
        yield seccomp.load_call(plan.seccomp, plan.seccomp_flags)
    yield _python(into.execute)


def _close(plan: "ProcessPlan", handover: Handover) -> Iterator[Call]:
    """All but 0 to 2, what the program inherits, and the status, which is closed by execve."""
    status = handover.status.sock.fileno()
    if plan.preserve_fds or status < 3:
        yield _python(last.close_descriptors, plan, handover)
        return
    if status > 3:
        yield close_range_call(3, status - 1)
    yield close_range_call(status + 1)
