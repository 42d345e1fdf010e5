"""Carry out mount steps below a root descriptor.

The rule for every target: the image may have put any symbolic link on the way, so it is resolved by
openat2 inside the root, and the mount is attached to the descriptor that came out. No target is
ever looked up a second time by its path on the host.
"""

import errno
import os
import stat

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.isolation import Overlay
from skerry.base.light import TYPE_CHECKING
from skerry.kernel import mounts as k
from skerry.kernel.descriptors import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    file_system_magic,
    make_directories,
    make_file,
    open_in_root,
    openat2,
)
from skerry.kernel.namespaces import user_namespace_fd
from skerry.kernel.trees import AT_FDCWD

if TYPE_CHECKING:
    from skerry.runtime.steps import IdMap, MountStep

_PROC_SUPER_MAGIC = 0x9FA0  # linux/magic.h
_PLAIN = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_COPY_CHUNK = 1 << 20
_COPY_DEPTH = 64


class CgroupTree:
    """Where the container's own cgroups are, for a `cgroup` mount: folder name to host path.

    One entry with an empty name is the unified hierarchy.
    """

    def __init__(self, folders: dict[str, str], links: dict[str, str]) -> None:
        self.folders = folders
        self.links = links


def perform(root_fd: int, step: "MountStep", cgroups: CgroupTree, tree: int = -1) -> None:
    """Carry out one step. `tree` is the detached source when the parent has made it already."""
    try:
        if step.flags & k.MS_REMOUNT:
            _remount(root_fd, step)
        elif step.kind == "bind":
            _bind(root_fd, step, tree)
        elif step.kind == "layers":
            _layers(root_fd, step)
        elif step.kind == "cgroup":
            _cgroup(root_fd, step, cgroups)
        else:
            _filesystem(root_fd, step)
    except KernelFault as fault:
        raise failed(step, fault) from None


def failed(step: "MountStep", fault: KernelFault) -> KernelFault:
    """`fault` with the mount it happened at."""
    what = step.source or step.fstype
    return KernelFault(
        f'error mounting "{what}" to rootfs at "{step.target}": {fault.action}',
        fault.errno,
        hint=fault.hint,
    )


def bind_tree(step: "MountStep", own_maps: "tuple[tuple[IdMap, ...], tuple[IdMap, ...]]") -> int:
    """The detached source of a bind mount, with its id mapping.

    `own_maps` are the container's, for a mapping that names none. Needs the right to map, so in a
    container with a user namespace the parent does this.
    """
    if step.subpath:
        tree = _below(step.source, step)
    else:
        tree = k.open_tree(step.source, recursive=step.recursive)
    if step.idmap is None:
        return tree
    uids, gids = step.idmap if step.idmap[0] else own_maps
    try:
        userns = user_namespace_fd(uids, gids)
        try:
            k.mount_setattr(
                tree, userns_fd=userns, recursive=step.idmap_recursive, what=step.source
            )
        finally:
            os.close(userns)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _below(source: str, step: "MountStep") -> int:
    """A detached copy of what is at the step's subpath. The source is a volume or an image, whose
    links are other people's: the path is resolved beneath it, and what came out is mounted."""
    top = openat2(AT_FDCWD, source, os.O_PATH | os.O_DIRECTORY)
    try:
        found = open_in_root(top, step.subpath, os.O_PATH)
        try:
            return k.open_tree("", recursive=step.recursive, dirfd=found)
        finally:
            os.close(found)
    finally:
        os.close(top)


def _layers(root_fd: int, step: "MountStep") -> None:
    """An image's layers, read-only."""
    tree = k.overlay_fd(Overlay(tuple(step.data.removeprefix("lowerdir=").split(":"))))
    try:
        if step.subpath:
            whole, tree = tree, -1
            tree = _part(root_fd, step, whole)
        k.mount_setattr(tree, attr_set=k.ATTR_RDONLY | step.attr_set, attr_clear=step.attr_clear)
        _move_to(root_fd, step, tree)
    finally:
        if tree >= 0:
            os.close(tree)


def _part(root_fd: int, step: "MountStep", whole: int) -> int:
    """A detached copy of a part of a detached mount, which is closed.

    Before Linux 6.15 only an attached mount can be copied from, so it lies over the root meanwhile.
    """
    try:
        k.move_mount(whole, root_fd)
        try:
            found = open_in_root(whole, step.subpath, os.O_PATH)
            try:
                return k.open_tree("", dirfd=found)
            finally:
                os.close(found)
        finally:
            k.umount(f"/proc/self/fd/{whole}", k.MNT_DETACH)
    finally:
        os.close(whole)


def _move_to(root_fd: int, step: "MountStep", tree: int) -> None:
    make = make_directories if stat.S_ISDIR(os.fstat(tree).st_mode) else make_file
    target = make(root_fd, step.target)
    try:
        _check_target(target, step)
        k.move_mount(tree, target)
    finally:
        os.close(target)


def _bind(root_fd: int, step: "MountStep", tree: int) -> None:
    if tree < 0:
        tree = bind_tree(step, ((), ()))
    try:
        if step.attr_set or step.attr_clear:
            k.mount_setattr(tree, attr_set=step.attr_set, attr_clear=step.attr_clear)
        if step.tree_set or step.tree_clear:
            k.mount_setattr(
                tree, attr_set=step.tree_set, attr_clear=step.tree_clear, recursive=True
            )
        _move_to(root_fd, step, tree)
        _propagate(tree, step)
    finally:
        os.close(tree)


def _check_target(target: int, step: "MountStep") -> None:
    """A link of the image must not bring a mount into /proc: masks and guards would miss it."""
    inside = os.path.normpath(step.target).startswith("/proc")
    if not inside and file_system_magic(target) == _PROC_SUPER_MAGIC:
        raise SystemFault(f'error mounting to rootfs at "{step.target}": it leads into /proc')


def _propagate(tree: int, step: "MountStep") -> None:
    for flags in step.propagation:
        kind = flags & ~k.MS_REC
        k.mount_setattr(tree, propagation=kind, recursive=bool(flags & k.MS_REC), what=step.target)


def _filesystem(root_fd: int, step: "MountStep") -> None:
    data = step.data
    keep_mode = step.fstype == "tmpfs" and "mode=" not in data and _is_there(root_fd, step.target)
    if step.fstype in ("proc", "sysfs"):
        _check_ordinary(root_fd, step)
    target = make_directories(root_fd, step.target)
    try:
        _check_target(target, step)
        if keep_mode:
            # A mount over a folder of the image keeps that folder's permissions.
            mode = stat.S_IMODE(os.fstat(target).st_mode)
            data = f"{data},mode={mode:o}".lstrip(",")
        if step.copy_up and step.fstype == "tmpfs":
            _tmpfs_with_copy(target, step, data)
        else:
            k.mount(step.source, f"/proc/self/fd/{target}", step.fstype, step.flags, data)
    finally:
        os.close(target)
    if step.propagation or step.tree_set or step.tree_clear:
        mounted = open_in_root(root_fd, step.target, os.O_PATH | os.O_DIRECTORY)
        try:
            if step.tree_set or step.tree_clear:
                k.mount_setattr(
                    mounted, attr_set=step.tree_set, attr_clear=step.tree_clear, recursive=True
                )
            _propagate(mounted, step)
        finally:
            os.close(mounted)


def _check_ordinary(root_fd: int, step: "MountStep") -> None:
    """proc and sysfs go to folders, not to where a link leads: masks count on their names."""
    try:
        os.close(openat2(root_fd, step.target, os.O_PATH, resolve=_PLAIN))
    except KernelFault as fault:
        if fault.errno == errno.ELOOP:
            raise SystemFault(
                f'filesystem "{step.fstype}" must be mounted on ordinary directory: {step.target}'
            ) from None
        if fault.errno != errno.ENOENT:
            raise


def _is_there(root_fd: int, path: str) -> bool:
    try:
        os.close(open_in_root(root_fd, path, os.O_PATH))
    except KernelFault:
        return False
    return True


def _remount(root_fd: int, step: "MountStep") -> None:
    target = open_in_root(root_fd, step.target, os.O_PATH)
    try:
        flags = step.flags | (k.MS_BIND if step.kind == "bind" else 0)
        k.mount(step.source, f"/proc/self/fd/{target}", "", flags, step.data)
    finally:
        os.close(target)


def _tmpfs_with_copy(target: int, step: "MountStep", data: str) -> None:
    fs_fd = k.fsopen("tmpfs")
    try:
        for option in filter(None, data.split(",")):
            key, equals, value = option.partition("=")
            k.fsconfig(fs_fd, key, value if equals else None)
        tree = k.fsmount(fs_fd, 0, "tmpfs")
    finally:
        os.close(fs_fd)
    try:
        source = os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        copy = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy_folder(source, copy, 0)
        finally:
            os.close(source)
            os.close(copy)
        k.mount_setattr(tree, attr_set=step.attr_set, attr_clear=step.attr_clear)
        k.move_mount(tree, target)
    finally:
        os.close(tree)


def _copy_folder(source: int, target: int, depth: int) -> None:
    """Copy files, folders and links with owner and mode; what is neither is left out."""
    if depth > _COPY_DEPTH:
        raise SystemFault("tmpcopyup: folders are nested too deeply")
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(name, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below, copy = (os.open(name, flags, dir_fd=fd) for fd in (source, target))
            try:
                _copy_folder(below, copy, depth + 1)
            finally:
                os.close(below)
                os.close(copy)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(source, target, name)
        else:
            continue
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


def _copy_file(source: int, target: int, name: str) -> None:
    here = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    there = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=target)
    try:
        while os.sendfile(there, here, None, _COPY_CHUNK):
            pass
    finally:
        os.close(here)
        os.close(there)


def _cgroup(root_fd: int, step: "MountStep", cgroups: CgroupTree) -> None:
    """The container's own part of the hierarchies, under the names that programs look for."""
    target = make_directories(root_fd, step.target)
    try:
        if "" in cgroups.folders:
            _attach(cgroups.folders[""], target, step)
            return
        where = f"/proc/self/fd/{target}"
        flags = step.flags & ~k.MS_RDONLY
        k.mount("tmpfs", where, "tmpfs", flags, "mode=755")
    finally:
        os.close(target)
    base = open_in_root(root_fd, step.target, os.O_PATH | os.O_DIRECTORY)
    try:
        for name, path in cgroups.folders.items():
            os.mkdir(name, 0o755, dir_fd=base)
            folder = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
            try:
                _attach(path, folder, step)
            finally:
                os.close(folder)
        for name, goal in cgroups.links.items():
            os.symlink(goal, name, dir_fd=base)
        if step.flags & k.MS_RDONLY:
            k.mount_setattr(base, attr_set=k.ATTR_RDONLY, what=step.target)
    finally:
        os.close(base)


def _attach(source: str, target: int, step: "MountStep") -> None:
    try:
        tree = k.open_tree(source)
    except KernelFault as fault:
        if fault.errno == errno.ENOENT:
            return
        raise
    try:
        k.mount_setattr(tree, attr_set=step.attr_set, attr_clear=step.attr_clear, what=source)
        k.move_mount(tree, target)
    finally:
        os.close(tree)
