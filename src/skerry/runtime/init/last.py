"""The last part: streams, descriptors, identity, and then the program."""

import _socket
import ctypes
import errno
import fcntl
import os

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.light import TYPE_CHECKING
from skerry.kernel import seccomp
from skerry.kernel.descriptors import close_range
from skerry.kernel.syscalls import checked, libc
from skerry.runtime.init import hooks, process, program, terminal
from skerry.runtime.init.handover import Handover, Status

if TYPE_CHECKING:
    from skerry.runtime.steps import Hook, ProcessPlan

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FAILED = 1
_c_poll = libc.poll


def look_for_parent(handover: Handover) -> "ctypes.Array[ctypes.c_int]":
    """What `leave_orphaned` asks the kernel with: a struct pollfd that waits for a hang-up."""
    return (ctypes.c_int * 2)(handover.status.sock.fileno(), 0)


def leave_orphaned(parent: "ctypes.Array[ctypes.c_int]") -> None:
    """End when the parent has died before this process asked to die with it."""
    if _c_poll(parent, 1, 0):
        os._exit(_FAILED)


def take_stdio(
    root_fd: int, plan: "ProcessPlan", handover: Handover, console: bool = False
) -> None:
    """Make 0, 1 and 2 from what was handed over, or from a fresh terminal of the root's devpts.

    With `console` the terminal is also bound to /dev/console, which is before pivot_root.
    """
    if not plan.terminal:
        # First up and out of the way: they may be 0, 1 and 2 in any order.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in handover.stdio]
        for number, fd in enumerate(high):
            os.dup2(fd, number, inheritable=True)
            os.close(fd)
        return
    master, slave, name = terminal.open_pair(root_fd)
    if console:
        terminal.bind_console(root_fd, slave)
    if plan.rows or plan.columns:
        terminal.set_size(master, plan.rows, plan.columns)
    terminal.hand_out(handover.console, master, name)
    for number in (0, 1, 2):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)
    terminal.take_as_controlling(0)


def finish(
    plan: "ProcessPlan",
    handover: Handover,
    start_hooks: "tuple[Hook, ...]",
    state: dict[str, object],
    name: str,
    proc_fd: int,
) -> None:
    """From root of the container to the program."""
    if plan.new_keyring:
        process.join_keyring(process.keyring_calls(f"_ses.{name}"))
    process.own_null(process.null_devices((0, 1, 2)))
    process.own_stdio(plan.uid)
    if proc_fd >= 0:
        process.write_label(proc_fd, plan)
    filtered = bool(plan.seccomp)
    admin = filtered and not plan.no_new_privileges
    gate = close_descriptors(plan, handover)
    # Not before: with a low limit of files nothing could be opened beside what is closed there.
    process.set_limits(plan)
    status = handover.status
    entered = enter_folder(plan.cwd)
    process.become_user(plan)
    process.take_capabilities(plan, admin=admin)
    enter_and_check(plan.cwd, entered=entered)
    env = program.with_home(plan.env, plan.uid)
    path = program.find(plan.args, env)
    ready = program.Program(path, plan.args, env)
    if plan.no_new_privileges:
        seccomp.no_new_privileges()
    # The parent of `create` leaves now; the program must not die with it.
    libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    if gate >= 0:
        status.tell("created")
        _wait_at(gate, handover)
    hooks.run_all("startContainer", start_hooks, state)
    if filtered:
        load_filter(plan, status)
    raise ready.execute()


def load_filter(plan: "ProcessPlan", status: Status) -> None:
    """Put the process under its filter; whom it notifies gets the listener."""
    listener = seccomp.load(plan.seccomp, plan.seccomp_flags)
    if listener >= 0:
        status.ask("listener", listener)


def _wait_at(gate: int, handover: Handover) -> None:
    """Wait for the start. The one who starts by a connection hears of failures from now on."""
    if handover.gate_listens:
        cloexec = _socket.SOCK_CLOEXEC
        connection = checked(libc.accept4(gate, None, None, cloexec), "wait for the start")
        handover.status.sock.close()
        handover.status.sock = _socket.socket(fileno=connection)
    elif os.read(gate, 1) == b"":
        os._exit(_FAILED)


def close_descriptors(plan: "ProcessPlan", handover: Handover) -> int:
    """Close all but 0 to 2, those the program inherits, and our own two; the gate's new number."""
    first = 3 + plan.preserve_fds
    sock = handover.status.sock
    status = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, first)
    gate = fcntl.fcntl(handover.gate, fcntl.F_DUPFD_CLOEXEC, first) if handover.gate >= 0 else -1
    begin = first
    for fd in sorted(fd for fd in (status, gate) if fd >= 0):
        if begin < fd:
            close_range(begin, fd - 1)
        begin = fd + 1
    close_range(begin)
    sock.detach()
    handover.status.sock = _socket.socket(fileno=status)
    for fd in range(3, first):
        try:
            os.set_inheritable(fd, True)
        except OSError as error:
            raise KernelFault(f"pass on descriptor {fd}", error.errno or 0) from None
    return gate


def enter_folder(folder: str) -> bool:
    """chdir with the runtime's rights; False when the program's user has to try."""
    try:
        os.chdir(folder)
    except PermissionError:
        return False
    except OSError as error:
        raise KernelFault(
            f'chdir to cwd ("{folder:.200}") set in config.json failed', error.errno or 0
        ) from None
    return True


def enter_and_check(folder: str, *, entered: bool) -> None:
    """Enter it as the program's user unless that was done, and look where it is.

    A folder that the root does not lead to has no path: somebody's descriptor led there.
    """
    if not entered and not enter_folder(folder):
        raise KernelFault(f'chdir to cwd ("{folder:.200}") set in config.json failed', errno.EACCES)
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise SystemFault(
            "current working directory is outside of container mount namespace root: "
            f"{folder!r:.200}"
        )
