"""The host's folders in the container, taken out of it while the machine is saved.

Theory. QEMU saves no shared folder, so its device has to go before and comes back afterwards, or in
a copy as another. The kernel lets go of it only when nothing uses it: so the container is frozen,
what it has mounted of the folders is unmounted without force (the kernel says whether it is busy),
and then mounted again on the same places in the same order. A program that has a file there open,
mapped, or as its folder, cannot go on without it: then everything stays as it was, and the error
names program and file.

Sources: proc_pid_mountinfo(5), proc_pid_maps(5), mount_setattr(2).
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.base.errors import Conflict, KernelFault, SkerryError
from skerry.kernel import mounts
from skerry.kernel.cgroups import Cgroup
from skerry.kernel.descriptors import open_in_root
from skerry.kernel.mountinfo import plain
from skerry.machine.guest.identity import inside

KIND: Final = "virtiofs"
_ATTRIBUTES: Final = {
    "ro": mounts.ATTR_RDONLY,
    "nosuid": mounts.ATTR_NOSUID,
    "nodev": mounts.ATTR_NODEV,
    "noexec": mounts.ATTR_NOEXEC,
    "noatime": mounts.ATTR_NOATIME,
    "nodiratime": mounts.ATTR_NODIRATIME,
    "nosymfollow": mounts.ATTR_NOSYMFOLLOW,
}
_HINT: Final = "stop it, or leave the memory out (--disk-only)"


class Gone(NamedTuple):
    """A mount that was taken out: where the agent finds what was mounted, where, how."""

    source: str
    target: str
    options: tuple[str, ...]


class Mount(NamedTuple):
    """A mount of a folder of the host: device, folder within it, place, options."""

    device: str
    root: str
    target: str
    options: tuple[str, ...]


def parse(mountinfo: str) -> list[Mount]:
    """The mounts of the host's folders in the order of the table. Pure."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] == KIND:
            _, _, device, root, target, options, *_ = fields.split(" ")
            found.append(Mount(device, plain(root), plain(target), tuple(options.split(","))))
    return found


def planned(mounted: list[Mount], sources: dict[str, str]) -> list[Gone]:
    """How to mount again what the container has; `sources` are the plan's, by the place. Folders of
    further file systems below them mount themselves, and will again. Conflict for what the
    container has mounted itself. Pure."""
    found = []
    for each in mounted:
        if each.target in sources:
            found.append(Gone(sources[each.target], each.target, each.options))
        elif each.root != "/" or not any(each.target.startswith(f"{at}/") for at in sources):
            raise Conflict(
                f"cannot save the machine: a part of a volume is mounted on {each.target}",
                hint=_HINT,
            )
    return found


def mapped(maps: str, devices: set[str]) -> str:
    """A file of these devices that a process maps, out of its /proc/<pid>/maps; empty for none.
    Pure. Devices are `major:minor` in decimal."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        major, _, minor = fields[3].partition(":")
        if f"{int(major, 16)}:{int(minor, 16)}" in devices:
            return fields[5] if len(fields) > 5 else "a file"
    return ""


def take_out(init: int, group: Cgroup, sources: dict[str, str]) -> list[Gone]:
    """Unmount the host's folders in a container that stands still, for `put_back`; `sources` maps
    the places that were asked for to folders of the agent's. Conflict, with all as it was, when a
    program uses one."""
    taken: list[Gone] = []
    try:
        found = _table(init)
        again = {each.target: each for each in planned(found, _resolved(init, sources))}
        if user := _user(init, group.pids(), {each.device for each in found}):
            raise Conflict(f"cannot save the machine: {user}", hint=_HINT)
        with inside(init, "mnt", "mount"):
            for each in reversed(found):
                try:
                    mounts.umount(each.target)
                except KernelFault as fault:
                    raise Conflict(
                        f"cannot save the machine: {each.target} is in use ({fault})",
                        hint=_HINT,
                    ) from None
                if each.target in again:
                    taken.insert(0, again[each.target])
        for each in reversed(_table(os.getpid())):
            mounts.umount(each.target)
    except BaseException:
        put_back(init, taken)
        raise
    return taken


def put_back(init: int, taken: list[Gone]) -> None:
    """Mount them again, of the device that is mounted at /volumes by now."""
    for each in taken:
        _mount(init, each)


def _mount(init: int, each: Gone) -> None:
    with suppress(NotADirectoryError):  # Opened, it mounts itself.
        os.close(os.open(each.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    tree = mounts.open_tree(each.source)
    try:
        attributes = sum(_ATTRIBUTES.get(option, 0) for option in {*each.options})
        if attributes:
            mounts.mount_setattr(tree, attr_set=attributes)
        with inside(init, "mnt", "mount"):
            mounts.move_mount(tree, each.target)
    finally:
        os.close(tree)


def _resolved(init: int, sources: dict[str, str]) -> dict[str, str]:
    """The same by the places that the kernel's table names, without symbolic links."""
    found = {}
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target, source in sources.items():
            fd = open_in_root(root, target, os.O_PATH)
            found[os.readlink(f"/proc/self/fd/{fd}")] = source
            os.close(fd)
    finally:
        os.close(root)
    return found


def _table(pid: int) -> list[Mount]:
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def _user(init: int, pids: Iterable[int], devices: set[str]) -> str:
    """Who uses a folder, in words; empty for nobody."""
    own = os.readlink(f"/proc/{init}/ns/mnt")
    for pid in pids:
        with suppress(OSError, SkerryError, ValueError):
            with open(f"/proc/{pid}/comm") as file:
                name = f"process {pid} ({file.read().strip()})"
            if os.readlink(f"/proc/{pid}/ns/mnt") != own:
                return f"{name} has mounts of its own"
            if path := _held(pid, devices):
                return f"{name} uses {path}, which lies on a volume or bind"
    return ""


def _held(pid: int, devices: set[str]) -> str:
    for link in ("cwd", "root", *(f"fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))):
        with suppress(OSError):
            number = os.stat(f"/proc/{pid}/{link}").st_dev
            if f"{os.major(number)}:{os.minor(number)}" in devices:
                return os.readlink(f"/proc/{pid}/{link}")
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        return mapped(file.read(), devices)
