"""Folders and files of the host that a guest sees: virtiofs, served by a virtiofsd behind a wall.

One virtiofsd serves all of a machine's binds. What it sees is a root made for it: the system's
programs read-only, and each bind at /export/<number>, read-only where asked. It stays root, as the
files belong to whomever they belong to, but with the few capabilities that changing files takes, in
namespaces of its own, and with virtiofsd's own chroot and seccomp filter on top.

It maps the guest's memory, so that must be a file that both share: a machine with shares runs on a
copy of its template's. QEMU cannot save a machine while the device is there: it is unplugged first,
when nobody in the guest uses it (`guest.volumes`), and plugged in again afterwards.

Source: virtiofsd(1), docs/interop/vhost-user.rst.
"""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress

from skerry.base.errors import SystemFault, Unavailable
from skerry.kernel import capabilities, namespaces
from skerry.machine.full import confine
from skerry.machine.qmp import Monitor

PROGRAMS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/bin/virtiofsd")
EXPORT = "/export"
ROOT = "shares"
"""The folder in a run directory that its root is made on."""
TAG = "volumes"
_KEPT = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT", "CAP_SETPCAP",
)  # fmt: skip
_FD = 3
UNPLUG_SECONDS = 20.0


def installed() -> str:
    """Where virtiofsd is; empty when it is not installed."""
    return next((path for path in PROGRAMS if os.access(path, os.X_OK)), "")


def program() -> str:
    """Where virtiofsd is; Unavailable when it is not installed."""
    if path := installed():
        return path
    raise Unavailable(
        "volumes and binds of a machine need virtiofsd, which is not installed",
        hint="install qemu-system-common (Debian 12) or virtiofsd",
    )


def command(path: str) -> list[str]:
    """virtiofsd's arguments. Pure."""
    options = f"source={EXPORT},sandbox=chroot,cache=auto,xattr,announce_submounts"
    return [path, f"--fd={_FD}", "-o", options]


def plug(monitor: Monitor, shares: Sequence[tuple[str, bool]], run_dir: str, port: str) -> int:
    """Start virtiofsd on the shares and plug its device in; virtiofsd's pid, for `unplug`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{directory}/fs.sock"
    try:
        listener.bind(path)
        listener.listen(1)
        client.connect(path)
        pid = _start(listener.fileno(), shares, run_dir)
        monitor.give_fd("volumes", client.fileno())
    except OSError as error:
        raise SystemFault(f"cannot start virtiofsd: {error.strerror}") from None
    finally:
        if os.path.exists(path):
            os.unlink(path)
        os.close(directory)
        listener.close()
        client.close()
    address = {"type": "fd", "data": {"str": "volumes"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    monitor.execute("chardev-add", id="volumes", backend=backend)
    monitor.execute(
        "device_add", driver="vhost-user-fs-pci", id="volumes", chardev="volumes", tag=TAG, bus=port
    )
    return pid


def unplug(monitor: Monitor, pid: int) -> None:
    """Take the device out of the running guest, which uses it no more, and end its virtiofsd.
    Unavailable when the guest does not let it go."""
    monitor.execute("device_del", id="volumes")
    monitor.await_event("DEVICE_DELETED", UNPLUG_SECONDS, device="volumes")
    monitor.execute("chardev-remove", id="volumes")
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _start(listener: int, shares: Sequence[tuple[str, bool]], run_dir: str) -> int:
    root = os.path.join(run_dir, ROOT)
    os.makedirs(root, exist_ok=True)
    wanted: confine.Confined = {
        "argv": command(program()),
        "uid": 0,
        "walled": True,
        "capabilities": capabilities.mask(_KEPT),
        "root": root,
        "binds": [
            confine.Bind(source, not read_only, f"{EXPORT}/{number}")
            for number, (source, read_only) in enumerate(shares)
        ],
        "network": "none",
        "keep": [_FD],
        "proc": True,
        "dies_with": os.getpid(),
        "limits": {"core": 0},
    }
    pid, pidfd = namespaces.clone3(namespaces.FLAGS["pid"])
    if pid == 0:
        told = os.dup(2)
        try:
            # It says how it ends, to whoever started the engine.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
            if listener == _FD:
                os.set_inheritable(_FD, True)
            else:
                os.dup2(listener, _FD)
            confine.execute(wanted)
        except BaseException as error:
            os.write(told, f"cannot run virtiofsd: {error}\n".encode())
        finally:
            os._exit(126)
    os.close(pidfd)
    return pid
