"""A small wall around QEMU and its tools: they read what strangers wrote.

Theory. The program is started as a user of its own (a number that no other machine has), with no
capability, in namespaces of its own, with a root that holds the system's programs read-only and
the few files it was given. Everything is bound at the path it has outside, so that a disk's name of
its backing file means the same on both sides. The order matters:

1. the control group, while /sys/fs/cgroup can be seen;
2. namespaces; the mount tree becomes private before anything is mounted;
3. the new root, pivot_root, the old one is detached;
4. the program's descriptor, limits, no_new_privs, the user, which also drops every capability;
5. a user namespace that knows this one user (where the kernel gives any), and Landlock's scope:
   whatever the program may still gain, it gains below the mounts that were made above;
6. descriptors that nobody named are closed at execve; the filter of system calls, then execve.

Without root there is neither user nor namespace to be had; then only 4's limits and 6 happen, and
QEMU's own seccomp filter (-sandbox) is the wall.

Lean: it runs between fork and exec.
"""

import os
import resource
from contextlib import suppress

from skerry.base.errors import KernelFault
from skerry.kernel import capabilities, landlock, mounts, seccomp, trees
from skerry.kernel.cgroups import Cgroup, detect
from skerry.kernel.descriptors import close_range
from skerry.kernel.namespaces import loopback_up, setns, unshare, user_namespace_fd
from skerry.kernel.syscalls import checked, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.base.light import NamedTuple, TypedDict
else:
    from skerry.base.light import NamedTuple, TypedDict

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4
_PR_SET_PDEATHSIG = 1
SYSTEM = ("/usr", "/etc/ld.so.cache", "/etc/resolv.conf", "/etc/hosts")
"""Read-only in every such root; resolv.conf is for QEMU's user network."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class Bind(NamedTuple):
    """A file or folder that the program sees, at its own path unless `at` is another."""

    path: str
    writable: bool = False
    at: str = ""
    owned: bool = False
    """What belongs to the folder's owner belongs to the program's user there, where the file
    system can have that (`claimed`)."""


class Confined(TypedDict, total=False):
    """What to run and behind what wall."""

    argv: list[str]
    groups: list[int]
    """Of devices that the program opens, such as /dev/kvm."""
    uid: int
    """0 keeps the caller's user, and builds no wall unless `walled` says so."""
    walled: bool
    capabilities: int
    """A mask of what root keeps behind the wall; others keep nothing."""
    root: str
    """An empty folder to build the new root on."""
    binds: list[Bind]
    network: str
    """`host`, `none`, or the path of a network namespace."""
    cgroup: str
    """A group that exists; empty for none."""
    limits: dict[str, int]
    """Names of resource(3) without RLIMIT_, in lower case."""
    keep: list[int]
    """Descriptors that the program inherits, besides 0, 1 and 2."""
    readonly: str
    """A folder that the program, which has no new root, cannot write to, nor to what is mounted
    below it; empty for none."""
    proc: bool
    """Show the processes of the pid namespace, which then must be a new one; to others than root
    nothing else of /proc."""
    dies_with: int
    """The parent's pid: the program is killed when that one goes. 0 for no bond."""
    seccomp: str
    """A classic BPF program in hexadecimal; empty for none. With one, `limits` has `nofile`, and
    the program is executed by the descriptor of that number (`machine.jail`)."""


def claimed(wanted: Confined) -> dict[str, int]:
    """Folder to its tree as an idmapped mount, for binds that are `owned`. Before the program's
    processes have a pid namespace: their pids are looked up in this /proc."""
    found: dict[str, int] = {}
    for path, _, _, owned in wanted.get("binds", []):
        if not owned:
            continue
        with suppress(KernelFault, OSError):
            status = os.stat(path)
            uid, tree = wanted["uid"], trees.open_tree(path)
            try:
                users = user_namespace_fd(((status.st_uid, uid, 1),), ((status.st_gid, uid, 1),))
                with os.fdopen(users, "rb"):
                    trees.mount_setattr(tree, userns_fd=users, what=path)
            except BaseException:
                os.close(tree)
                raise
            found[path] = tree
    return found


def execute(wanted: Confined, owned: dict[str, int] | None = None) -> None:
    """Become the program. `owned` is what `claimed` gave. Raises KernelFault or OSError; returns
    never."""
    if wanted.get("cgroup"):
        Cgroup(wanted["cgroup"], detect()).join_self()
    uid = wanted.get("uid", 0)
    if uid or wanted.get("walled"):
        _namespaces(wanted.get("network", "host"))
        proc = ("subset=pid" if uid else "") if wanted.get("proc") else None
        _new_root(wanted["root"], wanted.get("binds", []), proc, owned or {})
    if wanted.get("readonly"):
        _read_only(wanted["readonly"])
    program: str | int = wanted["argv"][0]
    limits = wanted.get("limits", {})
    if wanted.get("seccomp"):
        program = _open_at(wanted["argv"][0], limits["nofile"])
    for name, value in limits.items():
        _limit(getattr(resource, f"RLIMIT_{name.upper()}"), value)
    checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    if uid or wanted.get("walled"):
        capabilities.drop_bounding(wanted.get("capabilities", 0))
    if uid:
        os.setgroups(wanted.get("groups", []))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if wanted.get("proc"):
            _own_users(uid)
        landlock.scope()
    checked(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "set dumpable")
    if wanted.get("dies_with"):
        # After the change of user, which takes the bond away.
        checked(libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "bind to the parent")
    _close_all_but(wanted.get("keep", []))
    os.umask(0o077)
    environment = {"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "HOME": "/", "TMPDIR": "/tmp"}
    if wanted.get("seccomp"):
        seccomp.load(bytes.fromhex(wanted["seccomp"]))
    os.execve(program, wanted["argv"], environment)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent goes; at once when it has gone already."""
    checked(libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "bind to the parent")
    if os.getppid() != parent:
        os._exit(1)


def _open_at(path: str, number: int) -> int:
    """The program, at a number that is beyond the limit as soon as that is set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, hard))
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    os.dup2(fd, number, inheritable=False)
    os.close(fd)
    return number


def _own_users(uid: int) -> None:
    """A user namespace with this user alone. It costs nothing when the kernel gives none: the user
    is nobody else's and has no capability."""
    # A change of user makes /proc/self root's.
    checked(libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "set dumpable")
    try:
        unshare(CLONE_NEWUSER)
    except KernelFault:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", ""), ("gid_map", "")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text or f"{uid} {uid} 1")
    # Whoever enters a user namespace has every capability in it until execve.
    capabilities.drop_bounding(0)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _namespaces(network: str) -> None:
    if network.startswith("/"):
        fd = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        setns(fd, CLONE_NEWNET, network)
        os.close(fd)
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP
    unshare(flags | (CLONE_NEWNET if network == "none" else 0))
    if network == "none":
        loopback_up()
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)


def _read_only(path: str) -> None:
    unshare(CLONE_NEWNS)
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    tree = trees.open_tree(path, recursive=True)
    trees.mount_setattr(tree, attr_set=trees.ATTR_RDONLY, recursive=True, what=path)
    trees.move_mount(tree, path)
    os.close(tree)


def _new_root(root: str, binds: list[Bind], proc: str | None, owned: dict[str, int]) -> None:
    mounts.mount("skerry-vm", root, "tmpfs", mounts.MS_NOSUID, "size=4m,mode=755")
    for path in SYSTEM:
        if os.path.exists(path):
            _bind(root, os.path.realpath(path), path, writable=False)
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        # Debian's merged /usr; elsewhere these are folders of their own.
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            _bind(root, f"/{name}", f"/{name}", writable=False)
    for path in DEVICES:
        _bind(root, path, path, writable=True)
    os.mkdir(f"{root}/tmp", 0o1777)
    if proc is not None:
        os.mkdir(f"{root}/proc")
        _mount_proc(f"{root}/proc", proc)
    for path, writable, at, _ in binds:
        _bind(root, path, at or path, writable=writable, tree=owned.get(path, -1))
    os.chdir(root)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")
    remount = mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_RDONLY
    mounts.mount("", "/", flags=remount | mounts.MS_NOSUID)


def _mount_proc(place: str, options: str) -> None:
    """Processes of the namespace; `subset=pid`: and nothing of the kernel's, where it knows how to
    (before 5.8 it does not; proc(5))."""
    guarded = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    try:
        mounts.mount("proc", place, "proc", guarded, options)
    except KernelFault:
        if not options:
            raise
        mounts.mount("proc", place, "proc", guarded)


def _bind(root: str, source: str, target: str, *, writable: bool, tree: int = -1) -> None:
    place = root + target
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0o644))
    if tree >= 0:
        trees.move_mount(tree, place)
    else:
        mounts.mount(source, place, flags=mounts.MS_BIND)
    flags = mounts.MS_NOSUID | (0 if writable else mounts.MS_RDONLY)
    if not target.startswith("/dev/"):
        flags |= mounts.MS_NODEV
    try:
        mounts.mount("", place, flags=mounts.MS_REMOUNT | mounts.MS_BIND | flags)
    except KernelFault as fault:
        raise KernelFault(f"bind {source}", fault.errno) from None


def _close_all_but(keep: list[int]) -> None:
    """At execve; the pipe over which a failure is told lives until then."""
    close_range(3, cloexec=True)
    for fd in keep:
        os.set_inheritable(fd, True)


def main() -> None:
    """Run what the first argument says (JSON of `Confined`), behind its wall."""
    import json
    import sys

    wanted = json.loads(sys.argv[1])
    try:
        execute(wanted, claimed(wanted))
    except (OSError, KernelFault) as error:
        os.write(2, f"cannot run {wanted['argv'][0]}: {error}\n".encode())
        os._exit(126)
