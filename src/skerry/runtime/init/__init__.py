"""The code that runs in a half-made container, between clone and execve.

Theory of operation
===================

Processes. `launch` (in the keeper or in the `skerry-runtime` command) makes the cgroup, then forks
this code with clone3 straight into the new namespaces. Memory is copied, never shared. Nothing else
runs: the init itself becomes the program. Where a user namespace is joined by path, a short-lived
process between them joins it and clones the init as its sibling (CLONE_PARENT), for the other
namespaces must be owned by it.

In a machine an init can be there before its plan (`run_early`): it has done points 1 to 3 but for
the mount namespace, and goes on when the plan comes.

Privileges. The init begins with all of the caller's. They shrink in one direction: bounding set,
groups, gid, uid, the other sets, no_new_privs, seccomp. In a new user namespace it waits until the
parent has written the id maps and becomes its root first; what that root may not do (open a bind
source behind closed folders, map ids, move into a v1 cgroup, shift clocks) the parent has done
before, and left as detached mounts or open descriptors.

Descriptors. The child inherits all of the parent's. 0, 1, 2 are set early. One SOCK_SEQPACKET pair
(`handover`) and the start gate stay until execve, close-on-exec; both are no folders, so they lead
nowhere. All others are closed in `last.finish`.

The order, and what breaks when it is changed:

1.  Die with the parent (PR_SET_PDEATHSIG), until the container is complete.
2.  cgroup before everything that allocates, so it is accounted; by writing 0 to the v1 `tasks`
    files, since a foreign pid in `cgroup.procs` costs an RCU grace period. Before the cgroup
    namespace, whose root is the cgroup at the moment of its making.
3.  Join namespaces, the user namespace first; the mount namespace is last, after all paths.
4.  Mounts below a descriptor of the new root, targets by openat2 in that root. The host's /proc and
    /dev are still there and are the only ones trusted: /dev/null for masks, /dev/console's
    terminal, labels and sysctls through a procfs that is attached nowhere.
5.  Hooks: prestart and createRuntime outside, createContainer here, all before pivot_root.
6.  Read-only and masked paths after the mounts they cover. Then pivot_root; from here on every path
    is the image's.
7.  The bounding set while CAP_SETPCAP is there. Limits before capabilities (raising needs
    CAP_SYS_RESOURCE). setgroups, setgid, setuid in this order.
8.  Close descriptors, *then* chdir, then look where we are: a working folder of
    /proc/self/fd/N would otherwise lead out (CVE-2024-21626).
9.  Find the program as the user it runs as, tell `created`, wait at the gate.
10. startContainer hooks, then seccomp as the last call before execve, so a filter need allow
    nothing of ours. Without no_new_privs that takes CAP_SYS_ADMIN, which is kept that long; execve
    drops it.

The interpreter's own file is not writable from inside because whoever forks this code runs from a
read-only mount of it (`skerry.runtime.interpreter`), and PR_SET_DUMPABLE 0, inherited, keeps /proc
links of this process closed to the container's other processes until execve.
"""

import gc
import os
import signal
from collections.abc import Callable

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.light import TYPE_CHECKING, NoReturn
from skerry.kernel import capabilities, mounts, namespaces
from skerry.kernel.descriptors import make_directories
from skerry.kernel.syscalls import Call, do, libc
from skerry.runtime.init import hooks, last, root, settings
from skerry.runtime.init.handover import Handover, Status
from skerry.runtime.init.mounting import CgroupTree, perform

if TYPE_CHECKING:
    from skerry.runtime.steps import Plan

    Take = Callable[[Status], tuple[Plan, Handover]]

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_FAILED = 1


def run(plan: "Plan", handover: Handover, cgroups: CgroupTree) -> NoReturn:
    """Become the container that `plan` describes. Called in a fresh child; never returns."""
    try:
        _prepare(handover)
        _container(plan, handover, cgroups)
    except BaseException as error:
        handover.status.fail(error)
    finally:
        os._exit(_FAILED)


def run_early(early: "Plan", handover: Handover, cgroups: CgroupTree, take: "Take") -> NoReturn:
    """As `run`, for who is there before its plan (`skerry.runtime.early`): what `early` says of
    namespaces is done at once, the rest by what `take` waits for. Called in a fresh child; never
    returns."""
    try:
        _prepare(handover)
        _join_cgroup(handover)
        _join_namespaces(early, handover)
        handover.status.tell("early")
        plan, handover = take(handover.status)
        namespaces.unshare(plan.new_namespaces & namespaces.CLONE_NEWNS)
        if plan.process is not None and plan.process.oom_score_adj is not None:
            settings.oom_score(plan.process.oom_score_adj)
        _furnish(plan, handover, cgroups)
    except BaseException as error:
        handover.status.fail(error)
    finally:
        os._exit(_FAILED)


def run_further(calls: "list[Call]", status: Status) -> NoReturn:
    """Become a further process in a container that runs, by the steps of `further`."""
    try:
        # A collection would touch, and so copy, every page of the parent's objects.
        gc.disable()
        for call in calls:
            do(call)
    except BaseException as error:
        status.fail(error)
    finally:
        os._exit(_FAILED)


def _prepare(handover: Handover) -> None:
    # A collection would touch, and so copy, every page of the parent's objects.
    gc.disable()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    last.leave_orphaned(last.look_for_parent(handover))
    # Python ignores these two, and what is ignored stays so across execve.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    libc.prctl(_PR_SET_NAME, b"skerry-init", 0, 0, 0)
    os.setsid()


def _container(plan: "Plan", handover: Handover, cgroups: CgroupTree) -> None:
    own_user = plan.new_namespaces & namespaces.CLONE_NEWUSER
    if own_user:
        handover.status.ask("ids")
    _join_cgroup(handover)
    _join_namespaces(plan, handover)
    _furnish(plan, handover, cgroups)


def _furnish(plan: "Plan", handover: Handover, cgroups: CgroupTree) -> None:
    os.umask(0)
    settings.names(plan)
    if plan.new_namespaces & namespaces.CLONE_NEWNET:
        namespaces.loopback_up()
    proc_fd = -1
    if plan.sysctls or (plan.process and (plan.process.apparmor or plan.process.selinux)):
        proc_fd = settings.private_proc()
    for path, value in plan.sysctls:
        settings.sysctl(proc_fd, path, value)
    if plan.process is None:
        raise SystemFault("the configuration has no process to run")
    state = _root(plan, handover, cgroups)
    last.finish(plan.process, handover, plan.hooks_of("startContainer"), state, plan.id, proc_fd)


def _join_cgroup(handover: Handover) -> None:
    for fd in handover.cgroup_tasks:
        try:
            os.write(fd, b"0")
        except OSError as error:
            raise KernelFault("move into the container's cgroup", error.errno or 0) from None


def _join_namespaces(plan: "Plan", handover: Handover) -> None:
    flags = [join.flag for join in plan.joins]
    opened = [
        (namespaces.open_namespace(join.path, join.flag), join)
        for join in plan.joins
        if join.flag not in (namespaces.CLONE_NEWPID, namespaces.CLONE_NEWUSER)
    ]
    if namespaces.CLONE_NEWUSER in flags or plan.new_namespaces & namespaces.CLONE_NEWUSER:
        settings.become_root()
    late = plan.new_namespaces & (namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWTIME)
    if late:
        namespaces.unshare(late)
    if plan.time_offsets and not plan.new_namespaces & namespaces.CLONE_NEWUSER:
        namespaces.write_time_offsets(plan.time_offsets)
    own = plan.process
    if plan.new_namespaces & namespaces.CLONE_NEWUSER:
        if plan.time_offsets or (own and own.oom_score_adj is not None):
            handover.status.ask("offsets")
    elif own and own.oom_score_adj is not None:
        settings.oom_score(own.oom_score_adj)
    for fd, join in opened:
        namespaces.setns(fd, join.flag, join.path)
        os.close(fd)


def _root(plan: "Plan", handover: Handover, cgroups: CgroupTree) -> dict[str, object]:
    """Make the root and go there. The container's state, for startContainer hooks."""
    own = plan.new_namespaces & namespaces.CLONE_NEWNS
    joined = any(join.flag == namespaces.CLONE_NEWNS for join in plan.joins)
    if not own and not joined:
        if plan.overlay or plan.mounts:
            raise SystemFault("mounts need a mount namespace")
        root_fd = os.open(plan.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    elif own:
        root_fd = root.attach(plan, handover.trees.get("root", -1))
    else:
        tree = root.detached_root(plan)
        mounts.move_mount(tree, plan.rootfs or "/")
        root_fd = tree
    for index, step in enumerate(plan.mounts):
        perform(root_fd, step, cgroups, handover.trees.get(f"mount {index}", -1))
    if own or joined:
        bind_nodes = bool(plan.new_namespaces & namespaces.CLONE_NEWUSER)
        root.make_devices(root_fd, plan.devices, bind=bind_nodes)
        root.make_links(root_fd)
    if plan.process is not None:
        os.close(make_directories(root_fd, plan.process.cwd))
        last.take_stdio(root_fd, plan.process, handover, console=True)
    state: dict[str, object] = {}
    if plan.hooks:
        state = handover.status.ask("hooks")
        hooks.run_all("createContainer", plan.hooks_of("createContainer"), state)
    root.protect(root_fd, plan)
    if plan.process is not None:
        # Here at the latest: the number of capabilities is read from the host's /proc.
        capabilities.drop_bounding(plan.process.bounding)
    if not own:
        root.chroot(root_fd)
    elif plan.pivot:
        root.pivot(root_fd)
    else:
        root.move_and_chroot(root_fd)
    if own and plan.root_propagation & ~mounts.MS_REC != mounts.MS_SLAVE:
        mounts.mount("", "/", flags=plan.root_propagation)
    return state | {"status": "created"}
