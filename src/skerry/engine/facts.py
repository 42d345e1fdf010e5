"""What a container's specification needs to know of the host, the image and other containers."""

import os
import platform
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault, Unsupported
from skerry.base.isolation import Overlay
from skerry.engine import etc, resources, security, shm, users
from skerry.engine.joined import Joined
from skerry.engine.record import Record
from skerry.engine.roster import Roster
from skerry.engine.spec import Facts, Namespaces
from skerry.engine.walls import VM, wall_of
from skerry.kernel import capabilities, cgroups, descriptors, mounts, seccomp
from skerry.store.faults import told

PRIVATE_NETWORKS = ("", "default", "bridge", "none")


open_root = mounts.view_fd


class Host:
    """What stays true while the engine runs, read once."""

    def __init__(self) -> None:
        self.known_capabilities = {
            name: capabilities.CAPABILITIES[name] for name in capabilities.known_to_kernel()
        }
        self.layout = cgroups.detect()
        self.machine = platform.machine()
        self._seccomp: dict[tuple[str, ...], dict[str, Any]] = {}
        self._users: dict[tuple[str, str, tuple[str, ...]], users.User] = {}
        self._plain_devices = resources.devices({}, privileged=False)

    @property
    def cgroup_version(self) -> int:
        """1 or 2, as Docker reports it."""
        return 2 if self.layout.version == 2 else 1

    def seccomp(self, choice: str | dict[str, Any], held: tuple[str, ...]) -> dict[str, Any] | None:
        """The OCI seccomp object for a `--security-opt seccomp=…`; None is unconfined."""
        if choice == "unconfined":
            return None
        if isinstance(choice, dict):
            return security.seccomp_profile(choice, held, self.machine)
        profile = self._seccomp.get(held)
        if profile is None:
            profile = self._seccomp[held] = seccomp.docker_default(held)
        return profile

    def devices(self, host: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Nodes and rules; the common case is made once."""
        if host.get("Privileged") or host.get("Devices") or host.get("DeviceCgroupRules"):
            return resources.devices(host, privileged=bool(host.get("Privileged")))
        return self._plain_devices

    def user(self, record: Record, overlay: Overlay) -> users.User:
        """The container's user, looked up in its image or, once it ran, in its own root."""
        wanted = record.config.get("User", "")
        extra = tuple(record.host.get("GroupAdd") or ())
        key = (record.image_id, wanted, extra)
        if not record.ever_started and (known := self._users.get(key)):
            return known
        layers = overlay if record.ever_started else Overlay(overlay.lower)
        root = open_root(layers)
        try:
            found = lookup_user(root, wanted, extra)
        finally:
            os.close(root)
        if not record.ever_started and len(self._users) < 4096:
            self._users[key] = found
        return found


def lookup_user(root: int, wanted: str, extra: tuple[str, ...] = ()) -> users.User:
    """A user in the root that a descriptor names."""

    def open_file(path: str) -> int:
        try:
            return descriptors.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except SystemFault as error:
            raise NotFound(str(error)) from None

    return users.resolve(wanted, extra, users.reader(open_file))


def namespaces(
    record: Record,
    roster: Roster,
    cgroup_version: int,
    held: ExitStack,
    joined: Joined | None = None,
) -> Namespaces:
    """Which namespaces are shared, by path; InvalidInput or Conflict in Docker's words.

    The paths of joined ones are good until `held` is closed. `joined` is the container's sandbox.
    """
    host = record.host
    network = host.get("NetworkMode", "")
    cgroup = host.get("CgroupnsMode") or ("private" if cgroup_version == 2 else "host")
    if host.get("Privileged") and not host.get("CgroupnsMode"):
        cgroup = "host"
    if host.get("UsernsMode") not in (None, "", "host"):
        raise InvalidInput("invalid user namespace mode: " + str(host["UsernsMode"]))
    if host.get("UTSMode") not in (None, "", "host"):
        raise InvalidInput("invalid UTS mode: " + str(host["UTSMode"]))
    return Namespaces(
        network=joined.path if joined else _network(network, roster, held),
        ipc=_joined(host.get("IpcMode", ""), "ipc", roster, held),
        pid=_joined(host.get("PidMode", ""), "pid", roster, held),
        uts="host" if host.get("UTSMode") == "host" or network == "host" else "",
        cgroup="host" if cgroup == "host" else "",
    )


def _network(mode: str, roster: Roster, held: ExitStack) -> str:
    return "" if mode in PRIVATE_NETWORKS else _joined(mode, "net", roster, held)


_WORDS = {"net": "network", "ipc": "IPC", "pid": "PID"}


def _joined(mode: str, kind: str, roster: Roster, held: ExitStack) -> str:
    if mode in ("", "private", "shareable", "none") and kind != "net":
        return ""
    if mode == "host":
        return "host"
    word, _, reference = mode.partition(":")
    if word != "container" or not reference:
        if kind == "net":
            raise NotFound(f"network {mode} not found")
        raise InvalidInput(f"invalid {_WORDS[kind]} mode: {mode}")
    other = roster.find(reference)
    if wall_of(other.record.host) == VM:
        # What the host knows of it are the processes of its machine, in the host's namespaces.
        raise Unsupported(
            f"cannot join the {_WORDS[kind]} namespace of {other.record.name}: it is in a machine",
            hint="put both into one network, or use --isolation container for both",
        )
    state = other.state
    found = live_entry(state.pid, state.start_time, f"ns/{kind}") if other.running else -1
    if found < 0:
        raise Conflict(f"cannot join {_WORDS[kind]} of a non running container: {other.id}")
    # By the descriptor: the pid may be another process's by the time the runtime opens the path.
    held.callback(os.close, found)
    return f"/proc/{os.getpid()}/fd/{found}"


def root_of(record: Record) -> int:
    """The root of a running container as `live_root` has it; -1 as well for one in a machine, whose
    root is no part of the host."""
    if not record.running or wall_of(record.host) == VM:
        return -1
    return live_root(record.state.pid, record.state.start_time)


def live_root(pid: int, start_time: int) -> int:
    """An O_PATH descriptor of the root as a container's init sees it, -1 when the init has gone."""
    return live_entry(pid, start_time, "root", os.O_PATH | os.O_DIRECTORY)


def live_entry(pid: int, start_time: int, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of /proc/PID/`name` of a container's init, -1 when the init has gone.

    Its pid may be another's by now, even of a process of the host: the start time tells them apart,
    and the descriptor of /proc/PID holds on to the process that was looked at.
    """
    try:
        process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        with open(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # Field 22 of proc(5); the first after the name is the third.
        if int(fields[19]) != start_time:
            return -1
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=process)
    except (OSError, ValueError, IndexError):
        return -1
    finally:
        os.close(process)


def hostname(record: Record, roster: Roster) -> str:
    """The name that the container sees."""
    network = record.host.get("NetworkMode", "")
    if given := record.config.get("Hostname"):
        return str(given)
    if network == "host" or record.host.get("UTSMode") == "host":
        return socket.gethostname()
    return record.id[:12]


def etc_files(
    record: Record, roster: Roster, state_dir: str, joined: Joined | None = None
) -> dict[str, str]:
    """Write the files of /etc for a container; returns target to source.

    A container that joins another's network shares that one's hosts and resolv.conf.
    """
    network = record.host.get("NetworkMode", "")
    paths = {
        "/etc/hostname": os.path.join(state_dir, "hostname"),
        "/etc/hosts": os.path.join(state_dir, "hosts"),
        "/etc/resolv.conf": os.path.join(state_dir, "resolv.conf"),
    }
    name = hostname(record, roster)
    gateways = joined.host_gateways if joined else ()
    if network == "host":
        gateways = ("127.0.0.1",)
    extra = etc.extra_hosts(record.host.get("ExtraHosts") or (), gateways)
    if network == "host":
        hosts = etc.host_file("/etc/hosts") + "".join(f"{a}\t{n}\n" for a, n in extra)
    elif network.startswith("container:"):
        folder = os.path.dirname(state_dir)
        other = os.path.join(folder, roster.find(network.partition(":")[2]).id)
        paths["/etc/hosts"] = os.path.join(other, "hosts")
        paths["/etc/resolv.conf"] = os.path.join(other, "resolv.conf")
        _write(paths["/etc/hostname"], name + "\n")
        return paths
    else:
        if joined:
            own, extra = joined.addresses, [*extra, *joined.hosts]
        else:
            own = () if network == "none" else ("127.0.0.1",)
        domain = record.config.get("Domainname", "")
        hosts = etc.hosts(name, domain, extra, own_addresses=own)
    resolv = etc.resolv_conf(
        etc.host_file("/etc/resolv.conf"),
        joined.with_defaults(record.host) if joined else record.host,
        shares_host=network == "host",
        resolver=joined.resolver if joined else False,
    )
    _write(paths["/etc/hostname"], name + "\n")
    _write(paths["/etc/hosts"], hosts)
    _write(paths["/etc/resolv.conf"], resolv)
    return paths


def _write(path: str, text: str) -> None:
    with told(f"write {path}"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))


def gather(
    record: Record,
    roster: Roster,
    host: Host,
    overlay: Overlay,
    state_dir: str,
    run_dir: str,
    held: ExitStack,
    joined: Joined | None = None,
) -> Facts:
    """Everything that `spec.build` needs; files of /etc are written on the way.

    `held` keeps the namespaces that are joined, until the container runs. `joined` is the
    container's sandbox, None when it has none.
    """
    shared = namespaces(record, roster, host.cgroup_version, held, joined)
    privileged = bool(record.host.get("Privileged"))
    caps = security.capabilities(
        record.host.get("CapAdd") or (),
        record.host.get("CapDrop") or (),
        host.known_capabilities,
        privileged=privileged,
    )
    options = security.parse_options(record.host.get("SecurityOpt") or (), privileged=privileged)
    nodes, rules = host.devices(record.host)
    parent = (record.host.get("CgroupParent") or "/skerry").rstrip("/")
    if not parent.startswith("/"):
        parent = f"/{parent}"
    if ".." in parent.split("/"):
        raise InvalidInput(f"invalid cgroup parent: {parent}")
    return Facts(
        user=host.user(record, overlay),
        hostname=hostname(record, roster),
        files=etc_files(record, roster, state_dir, joined),
        environment=joined.environment if joined else (),
        namespaces=shared,
        capabilities=caps,
        seccomp=host.seccomp(options.seccomp, caps),
        nodes=nodes,
        device_rules=rules,
        cgroup_path=f"{parent}/{record.id}",
        root="",
        shm=shm.source(record, roster, run_dir),
    )
