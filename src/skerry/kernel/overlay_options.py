"""A detached overlay on kernels before 6.8, where layers cannot be given one by one.

Theory. A few layers with short names fit into one option of the new mount API (`few_layers`). For
more there is only mount(2), which attaches what it mounts. So a child enters a mount namespace of
its own, mounts there, and hands over a copy of the mount without a place; with the child the
namespace goes, and at no instant did anyone else see the mount.

There all options share one page. Folders are therefore named by descriptors (/proc/self/fd/N),
which also spares names with `:` and `,` their escapes; some 200 layers fit.
"""

import errno
import os
import socket

from skerry.base.errors import KernelFault
from skerry.base.isolation import Overlay
from skerry.kernel import mounts, namespaces
from skerry.kernel.descriptors import recv_fds, send_fds

_PAGE = 4096
_MOST_VALUE = 255
"""Bytes of an option's value in fsconfig(2)."""
_SPECIAL = frozenset(":,\\")
_MOST_TEXT = 4096
_VOLATILE_SINCE = (5, 10)


def overlay_fd_by_options(overlay: Overlay) -> int:
    """A detached mount of `overlay`; KernelFault as mount(2) says, E2BIG for too many layers."""
    if lower := few_layers(overlay):
        return mounts.overlay_of(overlay, [("lowerdir", lower)])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _child(overlay, theirs)
        theirs.close()
        try:
            said, fds = recv_fds(ours, _MOST_TEXT, 1)
        finally:
            os.waitpid(pid, 0)
    if fds:
        return fds[0]
    number, _, action = said.decode("utf-8", "replace").partition(" ")
    raise KernelFault(
        action or "mount overlay",
        int(number) if number.isdigit() else errno.EIO,
        hint="see dmesg for the kernel's reason",
    )


def few_layers(overlay: Overlay) -> str:
    """The lower layers as one option's value; empty when something does not fit there."""
    text = ":".join(overlay.lower)
    plain = all(_SPECIAL.isdisjoint(path) for path in (*overlay.lower, overlay.upper, overlay.work))
    values = (text, overlay.upper, overlay.work)
    fits = all(len(os.fsencode(value)) <= _MOST_VALUE for value in values)
    known = not overlay.volatile or mounts.release() >= _VOLATILE_SINCE
    return text if plain and fits and known else ""


def _child(overlay: Overlay, channel: socket.socket) -> None:
    """Mount, hand over, leave; never returns into the caller's code."""
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
        place = overlay.lower[0]
        flags = 0 if overlay.upper else mounts.MS_RDONLY
        mounts.mount("overlay", place, "overlay", flags, _options(overlay))
        send_fds(channel, b"0", [mounts.open_tree(place)])
    except KernelFault as fault:
        channel.send(f"{fault.errno} {fault.action}".encode()[:_MOST_TEXT])
    except OSError as error:
        channel.send(f"{error.errno} open the layers: {error.filename}".encode()[:_MOST_TEXT])
    finally:
        os._exit(0)


def _options(overlay: Overlay) -> str:
    """The options' text; opens the folders that it names."""

    def named(path: str) -> str:
        return f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}"

    text = "redirect_dir=off,index=off,metacopy=off,lowerdir=" + ":".join(
        named(path) for path in overlay.lower
    )
    if overlay.upper:
        text += f",upperdir={named(overlay.upper)},workdir={named(overlay.work)}"
    if overlay.volatile and mounts.release() >= _VOLATILE_SINCE:
        text += ",volatile"
    if len(text) >= _PAGE:
        raise KernelFault(f"mount an overlay of {len(overlay.lower)} layers", errno.E2BIG)
    return text
