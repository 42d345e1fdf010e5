"""A running QEMU behind its wall, and the two lines to it: the monitor and the agent's port.

For lean, single-threaded processes: the warden of a container's machine, the maker of templates.
QEMU gets a user of its own, no capability, its own pid, mount, network, ipc, uts and cgroup
namespaces, seccomp filters (ours and its own), and as its only files what it inherits.
"""

import _socket
import fcntl
import os
import signal
from contextlib import suppress

from skerry.base.errors import SystemFault
from skerry.base.light import NamedTuple
from skerry.kernel import namespaces
from skerry.machine.channel import wait_readable
from skerry.machine.full import confine
from skerry.machine.jail import FILES, seccomp_program, user_for
from skerry.machine.qmp import Monitor

FIRST_FD, OWN_FDS = 3, 3
QUIT_SECONDS = 15.0
"""What a machine has written may be on its way to a busy disk."""
_STDERR = 4096
_HIGH = 100
KVM = "/dev/kvm"


class Lines(NamedTuple):
    """Where QEMU finds what: descriptor numbers in its process."""

    qmp: int
    agent: int
    console: int
    more: dict[str, int]


class Hypervisor(NamedTuple):
    """A QEMU that runs. Whoever has it kills and reaps it with `end`."""

    pid: int
    pidfd: int
    monitor: Monitor
    agent: int
    """Our end of the agent's port, non-blocking."""
    stderr: int

    def complaint(self) -> str:
        """What QEMU has written to its standard error, as far as it is there."""
        with suppress(OSError):
            return os.read(self.stderr, _STDERR).decode("utf-8", "replace").strip()
        return ""

    def quit(self, seconds: float = QUIT_SECONDS) -> bool:
        """Have it flush its disks and leave; kill it when it does not in time. Whether it left of
        its own accord."""
        left = False
        with suppress(Exception):
            self.monitor.execute("quit", seconds=seconds)
            if wait_readable(self.pidfd, seconds):
                found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
                left = found is not None and found.si_code == os.CLD_EXITED
        self.end()
        return left

    def end(self) -> None:
        """Kill, reap, close. Idempotent as far as the process goes."""
        with suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.agent, self.stderr):
            with suppress(OSError):
                os.close(fd)
        self.monitor.sock.close()


def numbers(names: list[str]) -> Lines:
    """The descriptor numbers that QEMU will find `names` at."""
    more = {name: FIRST_FD + OWN_FDS + at for at, name in enumerate(names)}
    return Lines(FIRST_FD, FIRST_FD + 1, FIRST_FD + 2, more)


def start(arguments: list[str], fds: list[int], *, id_: str, root: str) -> Hypervisor:
    """Run QEMU with `fds` at the numbers that `numbers` gave; KernelFault, SystemFault.

    `id_` chooses its user, `root` is an empty folder to build its root on. It dies with this
    process.
    """
    mine_qmp, their_qmp = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    mine_agent, their_agent = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    mine_said, their_said = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    mine_said.setblocking(False)
    os.makedirs(root, 0o755, exist_ok=True)
    wanted = jail(arguments, len(fds), id_=id_, root=root)
    pid, pidfd = namespaces.clone3(namespaces.FLAGS["pid"])
    if pid == 0:
        try:
            own = [their_qmp.fileno(), their_agent.fileno(), their_said.fileno()]
            _become([*own, *fds], their_said.fileno(), wanted)
        except BaseException as error:
            os.write(2, f"cannot run QEMU: {error}\n".encode())
        finally:
            os._exit(126)
    their_qmp.close()
    their_agent.close()
    their_said.close()
    mine_agent.setblocking(False)
    machine = Hypervisor(pid, pidfd, Monitor(mine_qmp), mine_agent.detach(), mine_said.detach())
    try:
        machine.monitor.greet()
    except BaseException as error:
        complaint = machine.complaint()
        machine.end()
        if complaint:
            raise SystemFault(f"QEMU does not start: {complaint[-1000:]}") from error
        raise
    return machine


def jail(arguments: list[str], count: int, *, id_: str, root: str) -> confine.Confined:
    """The wall around a QEMU with these arguments and `count` descriptors beside its own. It dies
    with the caller."""
    wanted: confine.Confined = {
        "argv": arguments,
        "uid": user_for(id_),
        "root": root,
        "network": "none",
        "keep": list(range(FIRST_FD, FIRST_FD + OWN_FDS + count)),
        "proc": True,
        "dies_with": os.getpid(),
        "seccomp": seccomp_program().hex(),
        "limits": {"core": 0, "nofile": FILES},
    }
    if "kvm" in arguments:
        wanted["binds"] = [confine.Bind(KVM, True)]
        wanted["groups"] = [os.stat(KVM).st_gid]
    return wanted


def _become(fds: list[int], stderr: int, wanted: confine.Confined) -> None:
    """In the child: put the descriptors where they belong and become QEMU."""
    null = os.open(os.devnull, os.O_RDWR)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in (null, null, stderr, *fds)]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    confine.execute(wanted)
