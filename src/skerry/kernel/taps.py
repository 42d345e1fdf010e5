"""Tap devices and bridges by ioctl: the ends of virtual machines' cables.

A tap lives as long as somebody holds its descriptor, so a machine that dies takes its own along.

Sources: linux/if_tun.h, linux/sockios.h, net/bridge/br_ioctl.c, netdevice(7).
"""

import _socket
import fcntl
import os
import struct

from skerry.base.errors import InvalidInput, KernelFault

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCBRADDBR, _SIOCBRDELBR, _SIOCBRADDIF = 0x89A0, 0x89A1, 0x89A2
_IFF_UP = 1
NAME_BYTES = 15


def open_tap(name: str) -> int:
    """A fresh tap device that carries frames with virtio headers; the caller closes it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", _name(name), flags))
    except OSError as error:
        os.close(fd)
        raise KernelFault(f"make tap device {name}", error.errno or 0) from None
    return fd


def add_bridge(name: str) -> bool:
    """A bridge without an address, up; False when it was there already."""
    fresh = not exists(name)
    if fresh:
        _bridge(_SIOCBRADDBR, name, f"make bridge {name}")
        try:
            with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
                file.write("1")
        except OSError:
            pass  # no IPv6 here
    set_up(name)
    return fresh


def remove_empty_bridge(name: str) -> bool:
    """Remove a bridge that has no ports; whether it is gone."""
    if not is_bridge(name):
        return True
    if os.listdir(f"/sys/class/net/{name}/brif"):
        return False
    set_up(name, False)
    _bridge(_SIOCBRDELBR, name, f"remove bridge {name}")
    return True


def join(bridge: str, device: str) -> None:
    """Make the device a port of the bridge, and bring it up. InvalidInput for no bridge."""
    if not is_bridge(bridge):
        raise InvalidInput(f"{bridge} is not a bridge of this host")
    with open(f"/sys/class/net/{device}/ifindex", encoding="ascii") as file:
        index = int(file.read())
    request = struct.pack("16si20x", _name(bridge), index)
    _ioctl(_SIOCBRADDIF, request, f"plug {device} into {bridge}")
    set_up(device)


def set_up(name: str, up: bool = True) -> None:
    """Bring a device up or down."""
    answer = _ioctl(_SIOCGIFFLAGS, struct.pack("16sh22x", _name(name), 0), f"look at {name}")
    (flags,) = struct.unpack_from("h", answer, 16)
    flags = flags | _IFF_UP if up else flags & ~_IFF_UP
    word = "up" if up else "down"
    _ioctl(_SIOCSIFFLAGS, struct.pack("16sh22x", _name(name), flags), f"bring {name} {word}")


def exists(name: str) -> bool:
    """Whether there is such a device in this network namespace."""
    return os.path.isdir(f"/sys/class/net/{name}")


def is_bridge(name: str) -> bool:
    """Whether it is a bridge."""
    return os.path.isdir(f"/sys/class/net/{name}/bridge")


def _name(name: str) -> bytes:
    raw = os.fsencode(name)
    if not 0 < len(raw) <= NAME_BYTES or b"/" in raw:
        raise InvalidInput(f"invalid name of a network device: {name!r:.60}")
    return raw


def _bridge(request: int, name: str, action: str) -> None:
    _ioctl(request, _name(name) + b"\0", action)


def _ioctl(request: int, argument: bytes, action: str) -> bytes:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        return bytes(fcntl.ioctl(sock.fileno(), request, argument))
    except OSError as error:
        raise KernelFault(action, error.errno or 0) from None
    finally:
        sock.close()
