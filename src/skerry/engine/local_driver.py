"""The options of Docker's `local` volume driver: `type`, `device`, `o` and `size`.

A volume with a device is a mount: `plan` says which call makes it (pure, but for the look-up of an
NFS or CIFS server's name), `carry_out` makes it. One with a size alone is a folder with a quota.
Source: moby, volume/local, and mount(8).
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from skerry.base.errors import InvalidInput, KernelFault, SystemFault, Unsupported
from skerry.engine.log_options import parse_size
from skerry.kernel import mounts, quota
from skerry.kernel.mountinfo import plain
from skerry.runtime import mount_options

KNOWN = ("device", "o", "size", "type")
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_REMOTE = frozenset({"nfs", "nfs3", "nfs4", "cifs", "smb3"})
_FIRST_PROJECT = 1 << 20
_LAST_PROJECT = (1 << 32) - 2


class Options(NamedTuple):
    """What was asked for; empty and 0 where nothing was."""

    type: str = ""
    device: str = ""
    o: str = ""
    size: int = 0

    @property
    def mounts(self) -> bool:
        """Whether the volume is a mount."""
        return bool(self.device)


class Call(NamedTuple):
    """One mount to make. A bind mount has no type."""

    source: str
    fstype: str
    flags: int
    data: str
    recursive: bool = False
    attributes: tuple[int, int] = (0, 0)
    """mount_setattr(2)'s, set and cleared, of a bind mount."""
    propagation: tuple[int, ...] = ()


def parse(given: Mapping[str, str]) -> Options:
    """Docker's checks; InvalidInput in its words."""
    for name in given:
        if name not in KNOWN:
            raise InvalidInput(f"invalid option: {name!r}".replace("'", '"'))
    for name, needed in _NEEDS.items():
        for other in needed:
            if given.get(name) and not given.get(other):
                raise InvalidInput(f'missing required option: "{other}"')
    for value in given.values():
        if "\0" in value:
            raise InvalidInput("invalid option: it holds a null byte")
    size = parse_size(given["size"]) if given.get("size") else 0
    options = Options(given.get("type", ""), given.get("device", ""), given.get("o", ""), size)
    if options.mounts and size:
        raise InvalidInput(
            "a size is a quota of the engine's own disk; it does not fit a mounted device",
            hint="for a tmpfs write it as o=size=…",
        )
    if "bind" in _words(options) and not options.device.startswith("/"):
        raise InvalidInput(
            f"the device of a bind mount has to be absolute: {options.device!r:.200}"
        )
    return options


def _words(options: Options) -> list[str]:
    return [word for word in options.o.split(",") if word]


def plan(options: Options) -> Call:
    """The mount. SystemFault when a server's name is unknown."""
    words = _words(options)
    if options.type in _REMOTE:
        words = [_with_address(word) for word in words]
    parsed = mount_options.parse(words)
    bind = parsed.flags & mounts.MS_BIND
    return Call(
        options.device,
        "" if bind else options.type,
        parsed.flags & ~(mounts.MS_BIND | mounts.MS_REC),
        parsed.data,
        bool(parsed.flags & mounts.MS_REC),
        (parsed.attr_set, parsed.attr_clear),
        parsed.propagation,
    )


def _with_address(word: str) -> str:
    """`addr=host` by address: the kernel resolves no names."""
    name, _, host = word.partition("=")
    if name != "addr":
        return word
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SystemFault(
                f"error resolving passed in network volume address: {error}"
            ) from None
        return f"addr={found[0][4][0]}"
    return word


def carry_out(call: Call, target: str) -> None:
    """Make the mount; it appears whole or not at all. SystemFault in Docker's words."""
    try:
        if call.fstype:
            mounts.mount(call.source, target, call.fstype, call.flags, call.data)
            return
        tree = mounts.open_tree(call.source, recursive=call.recursive)
        try:
            if any(call.attributes):
                mounts.mount_setattr(
                    tree, attr_set=call.attributes[0], attr_clear=call.attributes[1]
                )
            for flags in call.propagation or (mounts.MS_PRIVATE | mounts.MS_REC,):
                mounts.mount_setattr(
                    tree,
                    propagation=flags & ~mounts.MS_REC,
                    recursive=bool(flags & mounts.MS_REC),
                )
            mounts.move_mount(tree, target)
        finally:
            os.close(tree)
    except KernelFault as fault:
        raise SystemFault(
            f"failed to mount local volume: mount {call.source}:{target}, flags: {call.flags:#x}"
            + (f", data: {call.data}" if call.data else "")
            + f": {os.strerror(fault.errno).lower()}",
            hint=fault.hint
            or (f"this kernel has no {call.fstype}" if fault.errno == errno.ENODEV else ""),
        ) from None


def is_mount_point(path: str) -> bool:
    """Whether something is mounted there; st_dev would not tell of bind mounts."""
    real = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(plain(line.split(" ", 5)[4]) == real for line in file)


def take_down(target: str) -> None:
    """Unmount what lies on `target`, however often; nothing happens when nothing does."""
    while True:
        try:
            mounts.umount(target)
        except KernelFault as fault:
            if fault.errno in (errno.EINVAL, errno.ENOENT, errno.EPERM):
                return
            try:
                # Busy, or a server that no longer answers: it goes when the last user has gone.
                mounts.umount(target, mounts.MNT_DETACH)
            except KernelFault as second:
                if second.errno in (errno.EINVAL, errno.ENOENT):
                    return
                raise


def limit(path: str, size: int) -> None:
    """Give a fresh folder a project of its own with a quota; Unsupported where there is none."""
    try:
        directory = quota.open_directory(path)
        try:
            project = _free_project(directory)
            quota.set_limit(directory, project, size)
            quota.set_project(directory, project)
        finally:
            os.close(directory)
    except KernelFault as fault:
        raise Unsupported(
            "quota size requested but no quota support: " + os.strerror(fault.errno),
            hint="the engine's root has to be on ext4 or xfs, mounted with the option prjquota",
        ) from None


def _free_project(directory: int) -> int:
    for _ in range(64):
        span = _LAST_PROJECT - _FIRST_PROJECT
        project = _FIRST_PROJECT + int.from_bytes(os.urandom(8)) % span
        if not quota.in_use(directory, project):
            return project
    raise KernelFault("find a free project", errno.EBUSY)


def unlimit(path: str) -> None:
    """Take the quota of a folder's project away, before the folder goes."""
    try:
        directory = quota.open_directory(path)
        try:
            if project := quota.project_of(directory):
                quota.set_limit(directory, project, 0)
        finally:
            os.close(directory)
    except KernelFault:
        return
