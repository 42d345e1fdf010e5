"""The fork itself: what is opened before it, and by which way the child gets its namespaces."""

import _socket
import os
from collections.abc import Callable

from skerry.base.errors import KernelFault
from skerry.kernel import namespaces
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.descriptors import pidfd_open
from skerry.kernel.mounts import MS_REMOUNT
from skerry.runtime import init
from skerry.runtime.init import root
from skerry.runtime.init.handover import Handover, Status
from skerry.runtime.init.mounting import CgroupTree, bind_tree, failed
from skerry.runtime.steps import MountStep, Plan

_LATE = namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWTIME
"""Made by the child itself: their contents depend on what it has done before."""

_THROUGH = namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWPID
"""Entered by a process in between, when there are no rights outside of the user namespace."""


class NotCloned(Exception):
    """A process in between failed; it has reported why over the status pair."""


class Opened:
    """Descriptors that are needed for the fork only."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def trees(plan: Plan, opened: Opened) -> dict[str, int]:
    """What the child may not make by itself: all sources when it is in a user namespace, and
    idmapped mounts, whose maps are written through our /proc."""
    if os.geteuid() != 0:
        return {}
    users = (plan.new_namespaces | sum(j.flag for j in plan.joins)) & namespaces.CLONE_NEWUSER
    made = {"root": opened.keep(root.detached_root(plan))} if users else {}
    for index, step in enumerate(plan.mounts):
        if step.kind == "bind" and not step.flags & MS_REMOUNT and (users or step.idmap):
            tree = opened.keep(_source(step, plan))
            made[f"mount {index}"] = tree
    return made


def _source(step: MountStep, plan: Plan) -> int:
    try:
        return bind_tree(step, (plan.uid_map, plan.gid_map))
    except KernelFault as fault:
        raise failed(step, fault) from None


def open_tasks(group: Cgroup | None, opened: Opened) -> tuple[int, ...]:
    """The v1 `tasks` files. The right to move in goes with the descriptor, so a child in a user
    namespace has it too."""
    if group is None or group.layout.version != 1:
        return ()
    found = []
    for folder in group.directories():
        try:
            found.append(opened.keep(os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise KernelFault(f"open cgroup {folder}", error.errno or 0) from None
    return tuple(found)


def clone_init(
    plan: Plan, handover: Handover, ours: _socket.socket, layout: Layout, group: Cgroup | None
) -> tuple[int, int]:
    """Fork the init: (pid, pidfd). In the child, never return. NotCloned when the reason waits in
    the status pair."""
    folder = group.directory_fd() if group is not None else -1
    flags = plan.new_namespaces & ~_LATE
    joined = {join.flag: join.path for join in plan.joins}
    users = (flags | sum(joined)) & namespaces.CLONE_NEWUSER
    joined_plan = plan
    try:
        if joined and users:
            status = handover.status
            pid, pidfd = _clone_through(lambda: _join_all(plan, handover), flags, folder, status)
            joined_plan = plan._replace(joins=())
        elif namespaces.CLONE_NEWPID in joined:
            path = joined[namespaces.CLONE_NEWPID]
            there = namespaces.open_namespace(path, namespaces.CLONE_NEWPID)
            try:
                pid, pidfd = _clone_beside(there, folder, flags)
            finally:
                os.close(there)
        else:
            pid, pidfd = namespaces.clone3(flags, cgroup_fd=folder)
    finally:
        if folder >= 0:
            os.close(folder)
    if pid == 0:
        ours.close()
        init.run(joined_plan, handover, cgroup_tree(plan, layout))
    return pid, pidfd


def _clone_beside(pid_namespace: int, folder: int, flags: int = 0) -> tuple[int, int]:
    """Fork with the child in another pid namespace; `pid_namespace` is its file or a pidfd."""
    own = namespaces.open_namespace("/proc/self/ns/pid", namespaces.CLONE_NEWPID)
    child = -1
    try:
        namespaces.setns(pid_namespace, namespaces.CLONE_NEWPID)
        try:
            child, pidfd = namespaces.clone3(flags, cgroup_fd=folder)
        finally:
            if child != 0:
                namespaces.setns(own, namespaces.CLONE_NEWPID)
    finally:
        if child != 0:  # The child closes all that it does not need at once.
            os.close(own)
    return child, pidfd


def to_join(kinds: int) -> int:
    """The kinds of namespaces, of `kinds`, that a child of `clone_further` still has to join."""
    if os.geteuid() != 0 and kinds & namespaces.CLONE_NEWUSER:
        return kinds & ~_THROUGH
    return kinds & ~namespaces.CLONE_NEWPID


def clone_further(target: int, kinds: int, folder: int, status: Status) -> tuple[int, int]:
    """Fork into the pid namespace of the process behind the pidfd `target`: (pid, pidfd), and a
    pid of 0 in the child, which has to join `to_join` yet."""
    if os.geteuid() != 0 and kinds & namespaces.CLONE_NEWUSER:
        # Without root the rights over the container's namespaces are in its user namespace.
        here = kinds & _THROUGH

        def enter() -> None:
            namespaces.setns(target, here, "of the container")
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)

        return _clone_through(enter, 0, folder, status)
    if kinds & namespaces.CLONE_NEWPID:
        return _clone_beside(target, folder)
    return namespaces.clone3(0, cgroup_fd=folder)


def _join_all(plan: Plan, handover: Handover) -> None:
    opened = [(namespaces.open_namespace(j.path, j.flag), j) for j in plan.joins]
    for fd in handover.cgroup_tasks:
        os.write(fd, b"0")
    for fd, join in opened:
        namespaces.setns(fd, join.flag, join.path)
        if join.flag == namespaces.CLONE_NEWUSER:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        os.close(fd)


def _clone_through(
    enter: Callable[[], None], flags: int, folder: int, status: Status
) -> tuple[int, int]:
    """Fork by way of a process that joins namespaces by `enter`; the child is ours all the same.

    Joined namespaces belong to the host's user namespace, or to one that is joined too: either way
    they must be entered before the child gets (or while the middle process has) its user namespace.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    middle, middle_fd = namespaces.clone3(0, cgroup_fd=folder)
    if middle == 0:
        child = -1
        try:
            enter()
            child, _ = namespaces.clone3(flags | namespaces.CLONE_PARENT)
            if child == 0:
                return 0, -1
            os.write(write, str(child).encode())
        except BaseException as error:
            status.fail(error)
        finally:
            if child != 0:
                os._exit(0)
    os.close(write)
    os.close(middle_fd)
    try:
        os.waitpid(middle, 0)
        number = os.read(read, 32)
    finally:
        os.close(read)
    if not number:
        raise NotCloned
    pid = int(number)
    return pid, pidfd_open(pid)


def cgroup_tree(plan: Plan, layout: Layout) -> CgroupTree:
    path = plan.cgroup_path
    if layout.version == 2 and layout.unified:
        return CgroupTree({"": f"{layout.unified.mount}{path or layout.unified.own}"}, {})
    folders, links = {}, {}
    for tree in layout.hierarchies:
        name = os.path.basename(tree.mount)
        folders[name] = f"{tree.mount}{path or tree.own}"
        for controller in tree.controllers:
            if controller != name and not controller.startswith("name="):
                links[controller] = name
    return CgroupTree(folders, links)
