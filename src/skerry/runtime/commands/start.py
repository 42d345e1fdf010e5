"""`create`, `start` and `run`.

`create` leaves the init waiting at a listening socket in the container's folder; `start` connects
to it and hears over the same connection whether the program was executed. `run` does both in one
process and without waiting in between.
"""

import _socket
import os

from skerry.base.errors import Conflict, InvalidInput, KernelFault, NotFound, SkerryError
from skerry.base.light import Any
from skerry.base.oci_runtime import Process, Spec
from skerry.kernel import capabilities, cgroups, processes
from skerry.kernel.descriptors import pidfd_open
from skerry.runtime import bundle as bundles
from skerry.runtime import launch, plan, state
from skerry.runtime.arguments import SWITCH, VALUE, Parsed, exactly, parse
from skerry.runtime.commands.life import end, kill_init
from skerry.runtime.context import Context
from skerry.runtime.plan import Plan

_CREATE = {
    "bundle": VALUE,
    "console-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": SWITCH,
    "no-new-keyring": SWITCH,
    "preserve-fds": VALUE,
}
_RUN = {**_CREATE, "detach": SWITCH, "keep": SWITCH, "no-subreaper": SWITCH}
_SHORT = {"b": "bundle", "d": "detach"}


def create(context: Context, words: list[str]) -> int:
    """Make a container that waits for `start`."""
    given = parse(words, _CREATE, _SHORT)
    (name,) = exactly(given.words, 1, "skerry-runtime create [--bundle DIR] ID")
    made, spec, layout = _planned(context, given, name)
    _check_terminal(made, given, detached=True)
    with _Claim(context, made, spec, layout) as claim:
        gate = _listen(state.folder(context.root, name))
        console = connect_console(given.value("console-socket"))
        try:
            created = launch.create(
                made,
                0,
                1,
                2,
                console=console,
                gate=gate,
                layout=layout,
                on_cloned=claim.cloned,
            )
        finally:
            os.close(gate)
            if console >= 0:
                os.close(console)
        claim.made = True
        created.close()
        write_pid_file(given.value("pid-file"), created.pid)
    return 0


def start(context: Context, words: list[str]) -> int:
    """Run the program of a created container."""
    given = parse(words, {})
    (name,) = exactly(given.words, 1, "skerry-runtime start ID")
    record = state.load(context.root, name)
    now_is = state.status(context.root, record)
    if now_is == "stopped":
        raise Conflict("cannot start a container that has stopped")
    if now_is != "created":
        raise Conflict(f"cannot start a container in the {now_is} state")
    place = state.folder(context.root, name)
    made = plan_of(context, record)
    # Before the program runs: it may have ended when we come to look.
    pidfd = pidfd_open(record.pid)
    try:
        sock = _connect(place)
        try:
            launch.hear_start(sock, made, record.pid, pidfd)
        finally:
            sock.close()
        try:
            launch.run_poststart(made, record.pid)
        except SkerryError:
            kill_init(record)
            raise
    finally:
        os.close(pidfd)
    return 0


def run(context: Context, words: list[str]) -> int:
    """Make and start a container; in the foreground the program's exit code."""
    given = parse(words, _RUN, _SHORT)
    (name,) = exactly(given.words, 1, "skerry-runtime run [--bundle DIR] ID")
    made, spec, layout = _planned(context, given, name)
    detached = "detach" in given.switches
    _check_terminal(made, given, detached=detached)
    terminal = bool(made.process and made.process.terminal)
    own_terminal = terminal and not given.value("console-socket")
    with _Claim(context, made, spec, layout) as claim:
        console, master_end = -1, None
        if own_terminal:
            from skerry.runtime.foreground import console_pair

            console, master_end = console_pair()
        else:
            console = connect_console(given.value("console-socket"))
        try:
            created = launch.create(
                made,
                0,
                1,
                2,
                console=console,
                wait_for_start=False,
                layout=layout,
                on_cloned=claim.cloned,
            )
        finally:
            if console >= 0:
                os.close(console)
        claim.made = True
        write_pid_file(given.value("pid-file"), created.pid)
    if detached:
        created.close()
        return 0
    from skerry.runtime.foreground import follow

    code = follow(created.pid, master_end)
    if "keep" not in given.switches:
        claim.destroy()
    created.close()
    return code


class _Claim:
    """The container's record, from before anything exists; withdrawn when making it fails."""

    def __init__(self, context: Context, made: Plan, spec: Spec, layout: cgroups.Layout) -> None:
        self.context = context
        self.layout = layout
        self.poststop = made.hooks_of("poststop")
        own = processes.facts(os.getpid())
        self.record = state.Record(
            id=made.id,
            bundle=made.bundle,
            rootfs=made.rootfs,
            created=state.now(),
            pid=0,
            start_time=0,
            cgroup=made.cgroup_path,
            annotations=dict(made.annotations),
            owner=os.geteuid(),
            new_namespaces=made.new_namespaces,
            maker=(os.getpid(), own[1] if own else 0),
        )
        state.check_free(context.root, made.id)
        self.made = False
        """The container exists, with its cgroup."""
        if made.cgroup_path and cgroups.Cgroup(made.cgroup_path, self.layout).pids():
            # Before it is written down as ours, for `delete` would kill what is in it.
            raise Conflict(f"cgroup {made.cgroup_path} has processes already")
        state.create(context.root, self.record, spec)

    def cloned(self, created: launch.Created) -> None:
        """Write down the init as soon as it exists."""
        facts = processes.facts(created.pid)
        if facts is not None:
            self.record = self.record._replace(pid=created.pid, start_time=facts[1])
            state.save(self.context.root, self.record)

    def destroy(self, *, with_cgroup: bool = True) -> None:
        """Take the container away again."""
        end(self.context, self.record, self.layout, self.poststop, with_cgroup=with_cgroup)

    def __enter__(self) -> "_Claim":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        try:
            self.destroy(with_cgroup=self.made)
        except SkerryError as second:
            self.context.warn(f"cannot clean up: {second.message}")


def _planned(context: Context, given: Parsed, name: str) -> tuple[Plan, Spec, cgroups.Layout]:
    state.check_id(name)
    folder = os.path.abspath(given.value("bundle") or ".")
    if not os.path.isdir(folder):
        raise InvalidInput(f"bundle {folder} is not a folder")
    spec = bundles.load(folder)
    listened = inherited_listeners()
    layout = _layout(context, spec)
    made = plan.plan(
        spec,
        bundle=folder,
        container_id=name,
        layout=layout,
        pivot="no-pivot" not in given.switches,
        new_keyring="no-new-keyring" not in given.switches,
        preserve_fds=preserved(given) + listened,
        seccomp_cache=context.seccomp_cache(),
        systemd_cgroup=context.systemd_cgroup,
    )
    if not os.path.isdir(made.rootfs):
        raise InvalidInput(f"invalid rootfs: {made.rootfs}: no such directory")
    if made.process is None:
        raise InvalidInput("the configuration has no process to run")
    check_descriptors(made.process.preserve_fds)
    warn_of_capabilities(context, spec.get("process", {}))
    if listened:
        env = (*made.process.env, f"LISTEN_FDS={listened}", "LISTEN_PID=1")
        made = made._replace(process=made.process._replace(env=env))
    return made, spec, layout


def warn_of_capabilities(context: Context, process: Process) -> None:
    """Capabilities that cannot be granted are not an error (config.md, "capabilities")."""
    sets = capabilities.parse(process.get("capabilities"))
    if sets.unknown:
        context.warn(f"capabilities that this kernel does not have: {' '.join(sets.unknown)}")
    if beyond := capabilities.names(sets.effective & ~sets.permitted):
        context.warn(f"effective capabilities that are not permitted: {' '.join(beyond)}")


def _layout(context: Context, spec: Spec) -> cgroups.Layout:
    """The host's cgroups; none for a user who named no group that might be delegated."""
    if context.rootless and not spec.get("linux", {}).get("cgroupsPath"):
        return cgroups.Layout("none", (), None)
    return cgroups.detect()


def plan_of(context: Context, record: state.Record) -> Plan:
    """The plan of a container that exists, from its kept configuration."""
    spec = state.load_spec(context.root, record.id)
    return plan.plan(
        spec,
        bundle=record.bundle,
        container_id=record.id,
        layout=cgroups.detect() if record.cgroup else cgroups.Layout("none", (), None),
        cgroup_path=record.cgroup,
        seccomp_cache=context.seccomp_cache(),
    )


def inherited_listeners() -> int:
    """How many sockets systemd has handed to this process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    return min(int(count), 1 << 10) if count.isascii() and count.isdigit() else 0


def preserved(given: Parsed) -> int:
    """How many descriptors from 3 on the program shall inherit. InvalidInput."""
    count = given.number("preserve-fds")
    if count < 0:
        raise InvalidInput("--preserve-fds must not be negative")
    return count


def check_descriptors(count: int) -> None:
    """InvalidInput unless the descriptors from 3 on that the program shall inherit are there."""
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidInput(
                f"please check that the preserved descriptor {fd} is open ({count} are wanted)"
            ) from None


def _check_terminal(made: Plan, given: Parsed, *, detached: bool) -> None:
    terminal = bool(made.process and made.process.terminal)
    socket = given.value("console-socket")
    if detached and terminal and not socket:
        raise InvalidInput(
            "cannot allocate tty if runtime will detach without setting console socket"
        )
    if socket and not (terminal and detached):
        raise InvalidInput("cannot use console socket if runtime will not detach or allocate tty")


def connect_console(path: str) -> int:
    """A connection to the socket that shall get the terminal, -1 without one."""
    if not path:
        return -1
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise KernelFault(f"connect to console socket {path}", error.errno or 0) from None
    return sock.detach()


def write_pid_file(path: str, pid: int) -> None:
    """Write the pid so that a reader sees all or nothing."""
    if not path:
        return
    path = os.path.abspath(path)
    fresh = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidInput(f"write pid file {path}: it exists and is not a regular file")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        os.rename(fresh, path)
    except OSError as error:
        raise KernelFault(f"write pid file {path}", error.errno or 0) from None


def _listen(folder: str) -> int:
    """The start gate: a listening socket in the container's folder.

    Through the folder's descriptor, because a socket's path has 107 bytes at most.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{state.GATE}")
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise KernelFault(f"make the start gate in {folder}", error.errno or 0) from None
    finally:
        os.close(directory)
    return sock.detach()


def _connect(folder: str) -> _socket.socket:
    """Open the gate, once: whoever renames it away is the one who starts."""
    claimed = f"{state.GATE}.{os.getpid()}"
    try:
        os.rename(os.path.join(folder, state.GATE), os.path.join(folder, claimed))
    except FileNotFoundError:
        raise NotFound("cannot start an already running container") from None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{claimed}")
    except OSError as error:
        sock.close()
        raise KernelFault("start the container", error.errno or 0) from None
    finally:
        os.unlink(claimed, dir_fd=directory)
        os.close(directory)
    return sock
