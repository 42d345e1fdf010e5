"""What the command line remembers of a container between its calls.

    <root>/<id>/state.json    the record below; replaced in one step
    <root>/<id>/config.json   the configuration as it was at `create`
    <root>/<id>/start.sock    the start gate, as long as the container is `created`

The folder appears whole: it is made under a name that begins with a dot and then renamed, so that
a runtime that is killed at any moment leaves either nothing that is seen or a record that `delete`
can work with. The record names the cgroup before it is made and the init's pid as soon as there is
one. The status is never stored: it follows from the process, the gate and the freezer.
"""

import errno
import json
import os
import re
import time

from skerry.base.errors import Conflict, InvalidInput, KernelFault, NotFound
from skerry.base.light import NamedTuple
from skerry.base.oci_runtime import OCI_VERSION, Spec, State
from skerry.kernel import cgroups, processes
from skerry.kernel.cgroups import Cgroup
from skerry.runtime import bundle

RECORD = "state.json"
CONFIG = "config.json"
GATE = "start.sock"
VERSION = 1
_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")
_LIMIT = 1 << 20


class Record(NamedTuple):
    """A container as it was made."""

    id: str
    bundle: str
    rootfs: str
    created: str
    """RFC 3339, UTC."""
    pid: int
    """0 until the init exists."""
    start_time: int
    """Clock ticks since boot, field 22 of /proc/PID/stat: tells the init from a later process."""
    cgroup: str
    annotations: dict[str, str]
    owner: int
    new_namespaces: int
    """CLONE_NEW… flags of the namespaces that are the container's own."""
    maker: tuple[int, int] = (0, 0)
    """Pid and start time of the process that is making it."""


def check_id(container_id: str) -> str:
    """`container_id` when it may be a folder's name, else InvalidInput."""
    if not _ID.fullmatch(container_id) or container_id.startswith("."):
        raise InvalidInput(f"invalid container ID format: {container_id!r:.100}")
    return container_id


def now() -> str:
    """This moment as RFC 3339 with nanoseconds, UTC."""
    nanoseconds = time.time_ns()
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def folder(root: str, container_id: str) -> str:
    """The container's folder below the state root."""
    return os.path.join(root, check_id(container_id))


def check_free(root: str, container_id: str) -> None:
    """Conflict when the id is taken. `create` decides; this is for saying so early."""
    if os.path.exists(folder(root, container_id)):
        raise Conflict(f"container with given ID already exists: {container_id}")


def create(root: str, record: Record, spec: Spec) -> None:
    """Take the id. Conflict when it is taken."""
    place = folder(root, record.id)
    fresh = os.path.join(root, f".{record.id}.{os.getpid()}")
    try:
        os.makedirs(root, mode=0o711, exist_ok=True)
        os.mkdir(fresh, 0o700)
        _write(os.path.join(fresh, CONFIG), json.dumps(spec))
        _write(os.path.join(fresh, RECORD), _pack(record))
        try:
            os.rename(fresh, place)
        except OSError as error:
            _remove_folder(fresh)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict(f"container with given ID already exists: {record.id}") from None
            raise
    except OSError as error:
        raise KernelFault(f"write the state of {record.id} to {root}", error.errno or 0) from None


def save(root: str, record: Record) -> None:
    """Replace the record in one step."""
    path = os.path.join(folder(root, record.id), RECORD)
    try:
        _write(f"{path}.new", _pack(record))
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise KernelFault(f"write {path}", error.errno or 0) from None


def load(root: str, container_id: str) -> Record:
    """The record of a container; NotFound when there is none."""
    if not container_id:
        raise InvalidInput("container id cannot be empty")
    path = os.path.join(folder(root, container_id), RECORD)
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(_LIMIT))
        if data.pop("version") != VERSION:
            raise InvalidInput(f"{path} is of another version of skerry-runtime")
        return Record(**data)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("container does not exist") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from None


def load_spec(root: str, container_id: str) -> Spec:
    """The configuration that the container was made with."""
    return bundle.load(folder(root, container_id))


def all_records(root: str) -> list[Record]:
    """Every container below `root`, by id; leftovers of killed runtimes are swept away."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    records = []
    for name in names:
        if name.startswith("."):
            _sweep(root, name)
            continue
        try:
            records.append(load(root, name))
        except (NotFound, InvalidInput):
            continue
    return records


def _sweep(root: str, name: str) -> None:
    pid = name.rpartition(".")[2]
    if pid.isdigit() and processes.facts(int(pid)) is None:
        _remove_folder(os.path.join(root, name))


def remove(root: str, container_id: str) -> None:
    """Forget a container. Idempotent."""
    place = folder(root, container_id)
    gone = os.path.join(root, f".{container_id}.{os.getpid()}")
    try:
        os.rename(place, gone)
    except FileNotFoundError:
        return
    _remove_folder(gone)


def _remove_folder(path: str) -> None:
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    os.rmdir(path)


def status(root: str, record: Record) -> str:
    """`creating`, `created`, `running`, `paused` or `stopped`."""
    if not record.pid:
        maker = processes.facts(record.maker[0])
        return "creating" if maker and maker[1] == record.maker[1] else "stopped"
    facts = processes.facts(record.pid)
    if facts is None or facts[0] in "ZX" or facts[1] != record.start_time:
        return "stopped"
    if os.path.exists(os.path.join(folder(root, record.id), GATE)):
        return "created"
    if record.cgroup and group_of(record).frozen():
        return "paused"
    return "running"


def group_of(record: Record) -> Cgroup:
    """The container's cgroup."""
    return Cgroup(record.cgroup, cgroups.detect())


def oci_state(root: str, record: Record) -> State:
    """The state as the specification has it (runtime.md, "State")."""
    now_is = status(root, record)
    return {
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "status": now_is,
        "pid": 0 if now_is == "stopped" else record.pid,
        "bundle": record.bundle,
        "annotations": record.annotations,
    }


def _pack(record: Record) -> str:
    return json.dumps({"version": VERSION, **record._asdict()})


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
