"""The root file system: attached, filled with device nodes, protected, and made the root.

All of it happens before pivot_root, below a descriptor of the new root, while the host's /dev and
/proc are still there to take trusted things from: after it, every path is the image's.
"""

import errno
import os
import stat

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.light import TYPE_CHECKING
from skerry.kernel import mounts as k
from skerry.kernel.descriptors import device_number, make_directories, make_file, open_in_root

if TYPE_CHECKING:
    from skerry.runtime.steps import DeviceStep, Plan

_NULL = (1, 3)
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def detached_root(plan: "Plan") -> int:
    """A detached mount of the container's root, not yet attached anywhere."""
    if plan.overlay is not None:
        return k.overlay_fd(plan.overlay)
    return k.open_tree(plan.rootfs, recursive=True)


def attach(plan: "Plan", tree: int) -> int:
    """Attach the root in the caller's new mount namespace; its descriptor.

    Nothing of it shows outside: the namespace is a slave of the host's at most, and in the shared
    case the mount below is made private first.
    """
    # A root that cannot be bound could not be copied either: that comes last.
    unbindable = plan.root_propagation & k.MS_UNBINDABLE
    k.mount("", "/", flags=k.MS_PRIVATE | k.MS_REC if unbindable else plan.root_propagation)
    place = plan.rootfs or (plan.overlay.upper or plan.overlay.lower[0] if plan.overlay else "/")
    if plan.root_propagation & k.MS_SHARED:
        k.mount("", _mount_point_of(place), flags=k.MS_PRIVATE)
    if tree < 0:
        try:
            tree = detached_root(plan)
        except KernelFault as fault:
            if plan.overlay is None or fault.errno != errno.EINVAL:
                raise
            k.mount_overlay(plan.overlay, place)
            return os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        k.move_mount(tree, place)
    except KernelFault as fault:
        # In a user namespace the way to the folder may be closed. Over "/" it cannot be seen by
        # path, which nobody needs: the descriptor leads there.
        if fault.errno != errno.EACCES:
            raise
        k.move_mount(tree, "/")
    return tree


def _mount_point_of(path: str) -> str:
    """The mount that `path` is on, from /proc/self/mountinfo."""
    best = "/"
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            raw = line.split(b" ", 5)[4]
            point = os.fsdecode(raw.replace(b"\\040", b" ").replace(b"\\011", b"\t"))
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) > len(best):
                best = point
    return best


def make_devices(root_fd: int, devices: "tuple[DeviceStep, ...]", *, bind: bool) -> None:
    """Make the nodes; with `bind` (a user namespace may not make any) mount the host's instead."""
    for device in devices:
        folder, _, name = device.path.rpartition("/")
        parent = make_directories(root_fd, folder or "/")
        try:
            if bind:
                _bind_device(root_fd, device)
            else:
                _make_device(parent, name, device)
        except OSError as error:
            raise KernelFault(f"make device {device.path}", error.errno or 0) from None
        finally:
            os.close(parent)


def _make_device(parent: int, name: str, device: "DeviceStep") -> None:
    number = os.makedev(device.major, device.minor)
    try:
        os.mknod(name, device.mode, number, dir_fd=parent)
    except FileExistsError:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        same_kind = stat.S_IFMT(status.st_mode) == stat.S_IFMT(device.mode)
        if same_kind and (status.st_rdev == number or stat.S_ISFIFO(status.st_mode)):
            return
        raise
    except PermissionError:
        _bind_device_at(parent, name, device)
        return
    os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)


def _bind_device(root_fd: int, device: "DeviceStep") -> None:
    target = make_file(root_fd, device.path)
    try:
        _bind_node(device, target)
    finally:
        os.close(target)


def _bind_device_at(parent: int, name: str, device: "DeviceStep") -> None:
    target = make_file(parent, name)
    try:
        _bind_node(device, target)
    finally:
        os.close(target)


def _bind_node(device: "DeviceStep", target: int) -> None:
    node = os.open(device.path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(node)
        number = os.makedev(device.major, device.minor)
        same_kind = stat.S_IFMT(status.st_mode) == stat.S_IFMT(device.mode)
        if not same_kind or status.st_rdev != number:
            raise SystemFault(f"{device.path} on the host is not {device.major}:{device.minor}")
        tree = _guarded(node, device.path)
        try:
            k.move_mount(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(node)


def make_links(root_fd: int) -> None:
    """/dev/fd and its kin, /dev/ptmx (config-linux.md, "Default Devices"; runtime-linux.md, "Dev
    symbolic links"). What the image has under these names stays."""
    try:
        dev = open_in_root(root_fd, "/dev", os.O_PATH | os.O_DIRECTORY)
    except KernelFault:
        return
    try:
        for goal, name in _LINKS:
            _link(goal, name, dev)
        if _exists("pts/ptmx", dev):
            try:
                if not stat.S_ISLNK(os.stat("ptmx", dir_fd=dev, follow_symlinks=False).st_mode):
                    os.unlink("ptmx", dir_fd=dev)
            except FileNotFoundError:
                pass
            _link("pts/ptmx", "ptmx", dev)
    finally:
        os.close(dev)


def _exists(path: str, dirfd: int) -> bool:
    try:
        os.close(open_in_root(dirfd, path, os.O_PATH))
    except KernelFault:
        return False
    return True


def _link(goal: str, name: str, dirfd: int) -> None:
    try:
        os.symlink(goal, name, dir_fd=dirfd)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:
            raise KernelFault(f"link /dev/{name}", error.errno or 0) from None


def protect(root_fd: int, plan: "Plan") -> None:
    """Read-only paths, masked paths, read-only root, in this order."""
    for path in plan.readonly:
        _read_only(root_fd, path)
    if plan.masked:
        _mask(root_fd, plan.masked)
    if plan.root_readonly:
        k.mount_setattr(root_fd, attr_set=k.ATTR_RDONLY, what="the root")


def _open_present(root_fd: int, path: str) -> int:
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except KernelFault as fault:
        if fault.errno in _ABSENT:
            return -1
        raise


def _read_only(root_fd: int, path: str) -> None:
    found = _open_present(root_fd, path)
    if found < 0:
        return
    try:
        tree = k.open_tree("", dirfd=found, recursive=True)
        try:
            k.mount_setattr(tree, attr_set=k.ATTR_RDONLY, recursive=True, what=path)
            k.move_mount(tree, found)
        finally:
            os.close(tree)
    finally:
        os.close(found)


def _mask(root_fd: int, paths: tuple[str, ...]) -> None:
    null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    empty = -1
    try:
        if device_number(null) != _NULL:
            raise SystemFault("/dev/null on this host is not the null device")
        for path in paths:
            found = _open_present(root_fd, path)
            if found < 0:
                continue
            try:
                if not stat.S_ISDIR(os.fstat(found).st_mode):
                    tree = _guarded(null, "/dev/null")
                elif empty < 0:
                    # One empty folder serves all; copies of it can be made once it is attached.
                    empty = k.detached(
                        "tmpfs", attributes=k.ATTR_RDONLY, source="tmpfs", mode="755"
                    )
                    tree = os.dup(empty)
                else:
                    tree = k.open_tree("", dirfd=empty)
                try:
                    k.move_mount(tree, found)
                finally:
                    os.close(tree)
            finally:
                os.close(found)
    finally:
        os.close(null)
        if empty >= 0:
            os.close(empty)


def _guarded(node: int, what: str) -> int:
    """A copy of the mount of a host's device node. Read-only, which does not stop the device from
    being written, but a root of the container from changing the node's mode and owner."""
    tree = k.open_tree("", dirfd=node)
    try:
        k.mount_setattr(tree, attr_set=k.ATTR_RDONLY | k.ATTR_NOSUID | k.ATTR_NOEXEC, what=what)
    except BaseException:
        os.close(tree)
        raise
    return tree


def pivot(root_fd: int) -> None:
    """Make the new root the root and let go of the old one (pivot_root(2), NOTES)."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root_fd)
        k.pivot_root(".", ".")
        # The old root now lies over the new one; as a slave its unmounting stays in here.
        os.fchdir(old)
        k.mount("", ".", flags=k.MS_SLAVE | k.MS_REC)
        k.umount(".", k.MNT_DETACH)
        os.chdir("/")
    finally:
        os.close(old)


def move_and_chroot(root_fd: int) -> None:
    """For roots that cannot pivot (an initramfs): move the mount over "/" and chroot.

    The host's proc and sysfs would stay reachable below, so they go first.
    """
    points = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            words = line.split(b" ")
            if words[words.index(b"-") + 1] in (b"proc", b"sysfs"):
                points.append(os.fsdecode(words[4]))
    os.fchdir(root_fd)
    here = os.getcwd()
    for point in reversed(points):
        if not point.startswith(here.rstrip("/") + "/"):
            try:
                k.umount(point, k.MNT_DETACH)
            except KernelFault:
                k.mount("tmpfs", point, "tmpfs", k.MS_RDONLY)
    k.mount(".", "/", flags=k.MS_MOVE)
    chroot(root_fd)


def chroot(root_fd: int) -> None:
    """chroot only, in a mount namespace that others share."""
    os.fchdir(root_fd)
    os.chroot(".")
    os.chdir("/")
