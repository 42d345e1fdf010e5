"""The guest's own system: file systems, modules, identity, disks, the network card.

Everything here runs as process 1 of a kernel that nobody else uses, before and beside the
container. Sources: init_module(2), random(4), netdevice(7), rtnetlink(7).
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from skerry.base.errors import KernelFault
from skerry.kernel import mounts
from skerry.kernel.syscalls import checked, libc, syscall
from skerry.machine import cards

_NR_FINIT_MODULE = 313 if os.uname().machine == "x86_64" else 273
MODULES = "/modules"
PORTS = "/sys/class/virtio-ports"
_PROCESSORS = "/sys/devices/system/cpu"
_MEMORY_USE = "/sys/devices/system/memory/auto_online_blocks"
_MEMORY_POLICY = "/sys/module/memory_hotplug/parameters/online_policy"
# linux/sched.h
_CLONE_FS = 0x200
# linux/reboot.h
_POWER_OFF = 0x4321FEDC
# linux/random.h
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
# linux/fs.h
_BLKFLSBUF = 0x1261
# linux/ipv6_route.h
_RTF_UP, _RTF_GATEWAY = 1, 2
_MOST_CARDS = 64
_IDLE = "idle"
_RANDOM = "/dev/urandom"
FILES = "/run/files/"
_QUEUE = {"scheduler": "none", "wbt_lat_usec": "0"}
"""The host sees to the order and the fairness of what reaches its disk."""
_open: dict[str, int] = {}
_disks: dict[str, str] = {}
"""Devices by their serials."""


def mount_basics() -> None:
    """/dev, /proc, /sys and the control groups; then make the initramfs a root that can be left."""
    for source, target, fstype, data in (
        ("devtmpfs", "/dev", "devtmpfs", "mode=755"),
        ("proc", "/proc", "proc", ""),
        ("sysfs", "/sys", "sysfs", ""),
        ("tmpfs", "/run", "tmpfs", "mode=755"),
        ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ):
        mounts.mount(source, target, fstype, 0, data)
    # The first root can neither be unmounted nor pivoted away from (pivot_root(2)); a bind mount
    # of it over itself can.
    mounts.mount("/", "/r", flags=mounts.MS_BIND | mounts.MS_REC)
    os.chdir("/r")
    mounts.mount(".", "/", flags=mounts.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    # Process 1 shares root and folder with the kernel's threads, and who shares them cannot join
    # another mount namespace (setns(2)).
    checked(libc.unshare(_CLONE_FS), "have a root of its own")


def mount_rest() -> None:
    """What is needed only once a container comes."""
    mounts.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    os.makedirs("/dev/pts", exist_ok=True)
    os.makedirs("/dev/mqueue", exist_ok=True)
    mounts.mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=0666,mode=0620,gid=5")
    for folder in ("/layers", "/rw", "/volumes", FILES):
        os.makedirs(folder, exist_ok=True)


def load_modules(names: list[str]) -> None:
    """Load modules in this order."""
    for name in names:
        fd = os.open(f"{MODULES}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall(_NR_FINIT_MODULE, fd, ctypes.c_char_p(b""), 0, action=f"load {name}")
        finally:
            os.close(fd)


def use_processors(count: int, seconds: float = 20.0) -> None:
    """Have the kernel use so many, which are being plugged in."""
    deadline = time.monotonic() + seconds
    while (used := _use_processors()) < count:
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"the kernel uses {used} processors, not {count}")
        time.sleep(0.01)


def _use_processors() -> int:
    """Have the kernel use those that are there by now; how many that are."""
    used = 0
    for name in os.listdir(_PROCESSORS):
        if name[:3] != "cpu" or not name[3:].isdigit():
            continue
        try:
            fd = os.open(f"{_PROCESSORS}/{name}/online", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            used += name == "cpu0"  # Always used, or without its file yet.
            continue
        with suppress(OSError):  # Busy: it is asked again.
            if os.read(fd, 1) == b"0":
                os.pwrite(fd, b"1", 0)
            used += 1
        os.close(fd)
    return used


def open_port() -> int:
    """The agent's virtio-serial port, non-blocking. There is one."""
    while True:
        for name in os.listdir("/dev"):
            if name.startswith("vport"):
                # The node is there a moment before the port can be opened.
                with suppress(OSError):
                    return os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        time.sleep(0.002)


def take_memory() -> None:
    """Have the kernel use memory that is plugged in, so that it can give most of it back again."""
    for path, word in ((_MEMORY_POLICY, "auto-movable"), (_MEMORY_USE, "online")):
        with suppress(OSError), open(path, "w") as file:  # A user's own kernel may have none.
            file.write(word)


def set_limits(limits: list[list[int]]) -> None:
    """Rows of (RLIMIT_ number, soft, hard): of this process, and so of all that it starts."""
    for kind, soft, hard in limits:
        pair = (ctypes.c_uint64 * 2)(soft, hard)
        checked(libc.setrlimit(kind, ctypes.byref(pair)), f"set limit {kind} to {soft}:{hard}")


def get_ready() -> None:
    """What would take each clone of the machine as long: the disks' names, a first opened file."""
    for name in os.listdir("/sys/block"):
        with suppress(OSError), open(f"/sys/block/{name}/serial") as file:
            if serial := file.read().strip():
                # Nothing reads the empty disk after that until a clone has another in its place.
                flush_buffers(f"/dev/{name}")
                _disks[serial] = f"/dev/{name}"
        for setting, word in _QUEUE.items():
            with suppress(OSError), open(f"/sys/block/{name}/queue/{setting}", "w") as file:
                file.write(word)
    random_device()


def _kept(path: str, flags: int) -> int:
    """A file that stays open: to open one takes a fresh copy of a machine ten milliseconds."""
    fd = _open.get(path)
    if fd is None:
        fd = _open[path] = os.open(path, flags | os.O_CLOEXEC, 0o644)
    return fd


def kept_below(folder: str) -> dict[str, int]:
    """Files in this folder that stay open, by name."""
    return {path[len(folder) :]: fd for path, fd in _open.items() if path.startswith(folder)}


def random_device() -> int:
    """/dev/urandom, for writing."""
    return _kept(_RANDOM, os.O_WRONLY)


def reseed(seed: bytes) -> None:
    """Mix `seed` into the kernel's generator, credit it, and have the generator start anew from it;
    a clone would otherwise go on with its siblings' numbers."""
    fd = random_device()
    fcntl.ioctl(fd, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    fcntl.ioctl(fd, _RNDRESEEDCRNG)


def set_clock(nanoseconds: int) -> None:
    """The time of day."""
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)


def device_by_serial(serial: str) -> str:
    """The block device that carries this serial; disks are never told apart by their names."""
    if serial in _disks:
        return _disks[serial]
    for _ in range(500):
        for name in os.listdir("/sys/block"):
            try:
                with open(f"/sys/block/{name}/serial") as file:
                    if file.read().strip() == serial:
                        flush_buffers(f"/dev/{name}")
                        return f"/dev/{name}"
            except OSError:
                continue
        time.sleep(0.01)
    raise FileNotFoundError(f"no disk with the serial {serial}")


def flush_buffers(device: str) -> None:
    """Forget what was read of the disk that was there when the template was frozen."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF)
    finally:
        os.close(fd)


def attach_disks(layers: str, writable: str) -> None:
    """Mount the image's layers and the writable layer, by the serials of their disks."""
    if layers:
        _mount_layers(device_by_serial(layers))
    device = device_by_serial(writable)
    # Without the thread that clears what no file uses yet: it takes each fresh copy some time.
    mounts.mount(device, "/rw", "ext4", mounts.MS_NOATIME, "noinit_itable")
    for path in ("/rw/upper", "/rw/work"):
        if not os.path.isdir(path):  # On a disk of an older make.
            os.mkdir(path)


def _mount_layers(device: str) -> None:
    try:
        mounts.mount(device, "/layers", "erofs", mounts.MS_RDONLY)
    except KernelFault as fault:
        if fault.errno != errno.EINVAL:
            raise
        mounts.mount(device, "/layers", "ext4", mounts.MS_RDONLY)  # See `layer_disk`.


def limit_disk(writable: str, size: int) -> None:
    """Let no more than `size` bytes be used of the writable disk, which is mounted: the others
    belong to the reserve that no user gets, root neither (Documentation/ABI/testing/sysfs-fs-ext4).
    """
    found = os.statvfs("/rw")
    beyond = found.f_blocks - size // found.f_frsize
    if beyond > 0:
        name = os.path.basename(device_by_serial(writable))
        with open(f"/sys/fs/ext4/{name}/reserved_clusters", "w") as file:
            file.write(str(beyond))


def attach_shares() -> None:
    """Mount the host's folders; their device is being plugged in."""
    for _ in range(500):
        try:
            mounts.mount("volumes", "/volumes", "virtiofs")
            return
        except KernelFault as fault:
            if fault.errno != errno.EINVAL:
                raise
        time.sleep(0.01)
    raise FileNotFoundError("the host's folders did not come")


def detach_shares() -> None:
    """Let go of the host's folders, whose device goes."""
    mounts.umount("/volumes", 0)


def detach_disks() -> None:
    """Write everything back and let go of the writable disk."""
    libc.sync()
    mounts.umount("/rw", mounts.MNT_DETACH)
    libc.sync()


def let_go_of_disks(seconds: float = 10.0) -> None:
    """After `detach_disks`: let go of the layers too, and wait until nothing is mounted."""
    with suppress(KernelFault):  # There may be none.
        mounts.umount("/layers", 0)
    deadline = time.monotonic() + seconds
    for device in _disks.values():
        while True:
            try:
                # Refused while the kernel has it mounted somewhere (open(2), block devices).
                fd = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.002)
        try:
            fcntl.ioctl(fd, _BLKFLSBUF)
        finally:
            os.close(fd)


def write_files(files: dict[str, str]) -> None:
    """Small files of the host (/etc/hosts and its like): name below /run/files to contents."""
    for name, text in files.items():
        path = f"{FILES}{os.path.basename(name)}"
        fd = _kept(path, os.O_WRONLY | os.O_CREAT)
        data = text.encode("utf-8", "surrogateescape")
        os.ftruncate(fd, 0)
        at = 0
        while at < len(data):
            at += os.pwrite(fd, data[at:], at)


def loopback() -> None:
    """Bring `lo` up."""
    _request(cards.up("lo"))


def _kernel_name(mac: str) -> str:
    for _ in range(500):
        for name in os.listdir("/sys/class/net"):
            try:
                with open(f"/sys/class/net/{name}/address") as file:
                    if file.read().strip() == mac:
                        return name
            except OSError:
                continue
        time.sleep(0.01)  # It is being plugged in.
    raise FileNotFoundError(f"no network card with the address {mac}")


def idle(name: str, slot: str) -> str:
    """Take down a card that leads nowhere any more, and its address and name away; the name that it
    has then. `slot` is the address it booted with."""
    fresh = f"{_IDLE}{slot[-2:]}"
    with suppress(OSError):  # It may have been pulled out.
        _request(cards.no_address(name), cards.down(name), cards.renamed(name, fresh))
    return fresh


def reconfigure_network(card: dict[str, Any], name: str) -> None:
    """As `configure_network`, of one that has this name; its connections end."""
    _request(cards.down(name))
    configure_network(card, name)


def change_gateways(card: dict[str, Any], before: dict[str, Any]) -> None:
    """Of a card that is the same but for its default routes; its connections go on."""
    for key, change in (("gateway", _default_route), ("gateway6", _default_route6)):
        if before.get(key) != card.get(key):
            if before.get(key):
                with suppress(OSError):  # The container may have changed it.
                    change(card["name"], before[key], cards.SIOCDELRT)
            if card.get(key):
                change(card["name"], card[key], cards.SIOCADDRT)


def configure_network(card: dict[str, Any], name: str = "") -> None:
    """Name, hardware address, addresses and routes of one card.

    `{"slot": "52:54:…", "name": "eth0", "mac": "02:…", "mtu": 1500,
    "addresses": ["10.0.0.2/24"], "gateway": "10.0.0.1"}`; `slot` is the address it booted with, by
    which one is found that has no `name` yet.
    """
    name = name or _kernel_name(card["slot"])
    if name != card["name"]:
        _rename(name, card["name"])
        name = card["name"]
    _request(*cards.settings(card))
    for address in card.get("addresses", ()):
        host, _, prefix = address.partition("/")
        if ":" in host:
            _add_v6(name, host, int(prefix))
    if card.get("gateway"):
        _default_route(name, card["gateway"], cards.SIOCADDRT)
    if card.get("gateway6"):
        _default_route6(name, card["gateway6"], cards.SIOCADDRT)


def _rename(name: str, wanted: str) -> None:
    """Also where another card has the name, which is the kernel's own for one that is not
    configured yet, and is found by its address; more of them may come meanwhile."""
    for left in reversed(range(_MOST_CARDS)):
        with suppress(OSError):
            _request(cards.renamed(wanted, f"card{socket.if_nametoindex(wanted)}"))
        try:
            _request(cards.renamed(name, wanted))
        except FileExistsError:
            if not left:
                raise
        else:
            return


def forget_network(card: dict[str, Any]) -> None:
    """Undo `configure_network`, but for the name."""
    name = card["name"]
    _request(cards.no_address(name), cards.down(name), cards.hardware_address(name, card["slot"]))


def _request(*requests: cards.Request) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, words in requests:
            fcntl.ioctl(sock, number, words)


def _default_route(_name: str, gateway: str, change: int) -> None:
    _request(cards.default_route(gateway, change))


def _default_route6(name: str, gateway: str, change: int) -> None:
    # struct in6_rtmsg (linux/ipv6_route.h): destination, source, gateway, type, prefix lengths,
    # metric, info, flags, interface.
    route = b"\0" * 32 + socket.inet_pton(socket.AF_INET6, gateway)
    flags = _RTF_UP | _RTF_GATEWAY
    route += struct.pack("IHHIQIi", 0, 0, 0, 1024, 0, flags, socket.if_nametoindex(name))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, change, route)


def _add_v6(name: str, host: str, prefix: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        index = socket.if_nametoindex(name)
        request = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, host), prefix, index)
        fcntl.ioctl(sock, cards.SIOCSIFADDR, request)


def power_off() -> None:
    """End the machine at once (reboot(2))."""
    libc.reboot(_POWER_OFF)


def net_counters() -> str:
    """/proc/net/dev (proc_pid_net(5)), of cards that lead somewhere."""
    with open("/proc/net/dev") as file:
        return "".join(line for line in file if not line.lstrip().startswith(_IDLE))
