"""What this host really lets us do, found out by doing it: namespaces, mounts, cgroups, seccomp.

Theory. Version numbers and config files do not tell what a kernel behind a seccomp filter, inside a
container or under an LSM allows. Every probe here tries the operation, each in a process of its own
under a fresh interpreter, in its own mount namespace: nothing it does outlasts it, and a probe that
hangs is killed. What lies on a disk is one folder below `scratch`, removed afterwards.
"""

import contextlib
import fcntl
import json
import os
import signal
import stat
import sys
from collections.abc import Callable

from skerry.base.errors import SkerryError
from skerry.base.isolation import Overlay
from skerry.kernel import cgroups, mounts, namespaces, seccomp
from skerry.kernel.descriptors import read_within
from skerry.kernel.namespaces import FLAGS

PATIENCE_SECONDS = 20.0
_FICLONE = 0x40049409  # linux/fs.h
_NOBODY = 65534

Results = dict[str, str]
"""Name of the probe to an empty text when it worked, else to why it did not."""


def probe(scratch: str) -> Results:
    """Try everything; `scratch` is an existing folder on the disk that will hold the containers.

    Takes about 0.1 s. Names: `namespace.<kind>`, `user.unprivileged`, `overlay`, `overlay.user`,
    `idmap`, `reflink`, `proc`, `seccomp`, `cgroup`.
    """
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path.insert(0, {source!r}); "
        f"from skerry.kernel.host_probe import child; child({scratch!r})"
    )
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-ISE", "-c", code],
            {"PATH": os.environ.get("PATH", "")},
            file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)],
            setsid=True,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        return _collect(read_end)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _collect(fd: int) -> Results:
    said = read_within(fd, PATIENCE_SECONDS)
    results: Results = {}
    for line in said.decode("utf-8", "replace").splitlines():
        try:
            name, why = json.loads(line)
        except ValueError:
            continue
        results[str(name)] = str(why)
    return results


def child(scratch: str) -> None:
    """The body of the probe's process: one JSON line `[name, why not]` a probe."""
    folder = os.path.join(scratch, f".probe-{os.getpid()}")
    try:
        _sweep(scratch)
        os.mkdir(folder, 0o700)
    except OSError as error:
        folder = ""
        _say("scratch", f"{scratch}: {error.strerror}")
    tasks: list[tuple[str, Callable[[], None]]] = [
        (f"namespace.{kind}", lambda flag=flag: namespaces.unshare(flag))  # type: ignore[misc]
        for kind, flag in FLAGS.items()
    ]
    tasks += [
        ("user.unprivileged", _unprivileged),
        ("overlay.user", _user_overlay),
        ("proc", _fresh_proc),
        ("seccomp", _seccomp),
    ]
    if folder:
        tasks += [
            ("overlay", lambda: _overlay(folder)),
            ("idmap", lambda: _idmap(folder)),
            ("reflink", lambda: _reflink(folder)),
        ]
    try:
        for name, task in tasks:
            _say(name, _in_child(task))
        _say("cgroup", _cgroup())
    finally:
        if folder:
            _remove(folder)


def _say(name: str, why: str) -> None:
    os.write(1, json.dumps([name, why]).encode() + b"\n")


def _in_child(task: Callable[[], None]) -> str:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        why = ""
        try:
            task()
        except SkerryError as error:
            why = error.message
        except OSError as error:
            why = error.strerror or str(error)
        except BaseException as error:
            why = repr(error)
        os.write(write_end, why.encode()[:4000])
        os._exit(0)
    os.close(write_end)
    try:
        why = os.read(read_end, 4096).decode("utf-8", "replace")
    finally:
        os.close(read_end)
    status = os.waitpid(pid, 0)[1]
    return why or (f"the probe ended with wait status {status:#x}" if status else "")


def _private_mounts() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)


def _unprivileged() -> None:
    """As an ordinary user: a user namespace, and in it a right that distributions take away."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)


def _overlay(folder: str) -> None:
    """Two layers, an upper one, a file removed: what an image and a container need."""
    _private_mounts()
    names = ("low1", "low2", "upper", "work", "merged")
    places = [f"{folder}/{name}" for name in names]
    for place in places:
        os.makedirs(place, exist_ok=True)
    low1, low2, upper, work, merged = places
    for layer, name in ((low1, "one"), (low2, "two")):
        with open(f"{layer}/{name}", "wb"):
            pass
    mounts.mount_overlay(Overlay((low1, low2), upper, work), merged)
    try:
        if set(os.listdir(merged)) < {"one", "two"}:
            raise OSError(0, "the layers do not show")
        os.unlink(f"{merged}/two")
        if not stat.S_ISCHR(os.lstat(f"{upper}/two").st_mode):
            raise OSError(0, "removing a file leaves no whiteout")
    finally:
        mounts.umount(merged)
        os.unlink(f"{upper}/two")


def _user_overlay() -> None:
    """In a user namespace, on a tmpfs of its own, with the xattrs that a user may set."""
    uid, gid = os.geteuid(), os.getegid()
    namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("tmpfs", "/tmp", "tmpfs")
    for name in ("low", "upper", "work", "merged"):
        os.mkdir(f"/tmp/{name}")
    options = "userxattr,lowerdir=/tmp/low,upperdir=/tmp/upper,workdir=/tmp/work"
    mounts.mount("overlay", "/tmp/merged", "overlay", data=options)


def _idmap(folder: str) -> None:
    rows = [(0, 100000, 65536)]
    userns = namespaces.user_namespace_fd(rows, rows)
    tree = mounts.open_tree(folder)
    mounts.mount_setattr(tree, userns_fd=userns)


def _reflink(folder: str) -> None:
    with open(f"{folder}/from", "wb") as source:
        source.write(b"x" * 65536)
    with open(f"{folder}/from", "rb") as source, open(f"{folder}/to", "wb") as target:
        fcntl.ioctl(target, _FICLONE, source.fileno())


def _fresh_proc() -> None:
    """/proc for a new pid namespace: refused where the host's own /proc is partly hidden."""
    _private_mounts()
    namespaces.unshare(namespaces.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            mounts.mount("proc", "/proc", "proc")
        except SkerryError as error:
            os._exit(getattr(error, "errno", 1) or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if code > 0 else "killed")


def _seccomp() -> None:
    seccomp.no_new_privileges()
    everything = {"defaultAction": "SCMP_ACT_ALLOW"}
    seccomp.load(seccomp.compile_profile(everything))


def _cgroup() -> str:
    """A group with limits that a process joins, below /skerry as containers are."""
    layout = cgroups.detect()
    if layout.version == 0:
        return "no cgroups are mounted"
    asked: dict[str, object] = {}
    if "memory" in layout.controllers:
        asked["memory"] = {"limit": 64 << 20}
    if "pids" in layout.controllers:
        asked["pids"] = {"limit": 16}
    try:
        _sweep_groups(layout)
        group = cgroups.Cgroup(f"/skerry/.probe-{os.getpid()}", layout)
        group.create(cgroups.plan(group.path, asked, layout))
        try:
            return _in_child(group.join_self)
        finally:
            group.remove()
    except (SkerryError, OSError) as error:
        return str(error).replace("\n", "; ")


def _sweep(scratch: str) -> None:
    """Remove what probes left that were killed."""
    for name in os.listdir(scratch):
        if name.startswith(".probe-") and not os.path.exists(f"/proc/{name[7:]}"):
            _remove(os.path.join(scratch, name))


def _sweep_groups(layout: cgroups.Layout) -> None:
    for directory in cgroups.Cgroup("/skerry", layout).directories():
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            if name.startswith(".probe-") and not os.path.exists(f"/proc/{name[7:]}"):
                cgroups.Cgroup(f"/skerry/{name}", layout).remove()


def _remove(folder: str) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(place, name))
        for name in folders:
            path = os.path.join(place, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(folder)
