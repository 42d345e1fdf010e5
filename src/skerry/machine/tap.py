"""A tap in a network namespace: the far end of a machine's network card.

Source: Documentation/networking/tuntap.rst, linux/if_tun.h.
"""

import fcntl
import os
import struct

from skerry.base.errors import KernelFault

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_VNET_HEADER = 12


def open_tap(name: str) -> int:
    """Make a tap in the caller's network namespace; its descriptor, which QEMU inherits.

    It goes with the last descriptor.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER))
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise KernelFault(f"make the tap {name}", error.errno or 0) from None
    return fd
