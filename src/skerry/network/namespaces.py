"""Network namespaces that outlive their engine: each is pinned by a bind mount on a file.

Theory. The engine's network worker is a thread of its own, so it may enter a namespace (setns and
unshare of network namespaces are per thread) as long as it always comes home. `/proc/sys/net` and
new sockets follow the thread. A namespace goes when its pin is unmounted and nobody inside, no
socket and no descriptor holds it any more; the kernel then removes its links, and with them the
host's ends of its veth pairs.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Iterator

from skerry.base.errors import KernelFault, SystemFault
from skerry.kernel import mounts, namespaces, netlink, nft
from skerry.kernel.namespaces import CLONE_NEWNET

RESOLVER = "127.0.0.11"
DNS_PORT = 53
_SYSCTLS = (
    # As Docker: unprivileged programs may ping and bind low ports inside.
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
    # Links get IPv6 only where their network has it.
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
)


def sysctl(path: str, value: str, *, optional: bool = False) -> None:
    """Write below /proc/sys/net of the thread's namespace."""
    try:
        namespaces.write_file(f"/proc/sys/net/{path}", value)
    except KernelFault:
        if not optional:
            raise


def home() -> int:
    """A descriptor of the thread's own namespace."""
    return namespaces.open_namespace("/proc/thread-self/ns/net", CLONE_NEWNET)


@contextlib.contextmanager
def inside(fd: int, home_fd: int) -> Iterator[None]:
    """Be in the namespace behind `fd` for the block."""
    namespaces.setns(fd, CLONE_NEWNET)
    try:
        yield
    finally:
        namespaces.setns(home_fd, CLONE_NEWNET)


def make(path: str, home_fd: int) -> int:
    """A fresh namespace with `lo` up, pinned at `path`; returns a descriptor of it."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    namespaces.unshare(CLONE_NEWNET)
    try:
        namespaces.loopback_up()
        for name, value in _SYSCTLS:
            sysctl(name, value, optional=name.startswith("ipv6"))
        fd = home()
        try:
            mounts.mount("/proc/thread-self/ns/net", path, "", mounts.MS_BIND)
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        namespaces.setns(home_fd, CLONE_NEWNET)


def enter_path(path: str) -> int:
    """A descriptor of the namespace pinned at `path`; KernelFault when there is none."""
    fd = namespaces.open_namespace(path, CLONE_NEWNET)
    if not is_namespace(path):
        os.close(fd)
        raise SystemFault(f"{path} is no network namespace: its pin is gone")
    return fd


def is_namespace(path: str) -> bool:
    """Whether a namespace is pinned at `path`."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def remove(path: str) -> None:
    """Take the pin away; one that has gone is fine."""
    with contextlib.suppress(KernelFault):
        mounts.umount(path, mounts.MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def resolver_sockets(*, again: bool = False) -> tuple[socket.socket, socket.socket]:
    """Sockets (udp, tcp) that get what is sent to 127.0.0.11:53 in the thread's namespace; `again`
    when there were others before.

    They have ports of their own, so that a container may be a name server itself and bind port 53.
    The way there is a rewritten port in the packet: no connection is tracked for it.
    """
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        for sock in (udp, tcp):
            sock.setblocking(False)
            sock.bind((RESOLVER, 0))
        tcp.listen(64)
        ports = {_UDP: udp.getsockname()[1], _TCP: tcp.getsockname()[1]}
        with nft.Nft() as door:
            door.commit(_detour(ports, again=again))
    except BaseException as error:
        udp.close()
        tcp.close()
        if isinstance(error, OSError):
            raise KernelFault(f"bind {RESOLVER}", error.errno or 0) from None
        raise
    return udp, tcp


_UDP, _TCP = 17, 6
_CHECKSUMS = {_UDP: 6, _TCP: 16}
_SOURCE, _DESTINATION = 12, 16


def _detour(ports: dict[int, int], *, again: bool) -> list[netlink.Message]:
    """Rules that lead 127.0.0.11:53 to these ports, by protocol, and answers back."""
    messages = list(_frame(again))
    for protocol, port in ports.items():
        for chain, old, new in (("output", DNS_PORT, port), ("prerouting", port, DNS_PORT)):
            seen, written = _ends(chain, protocol)
            rule = seen + nft.equal(old.to_bytes(2, "big"))
            rule += nft.immediate(new.to_bytes(2, "big")) + written
            messages.append(_TABLE.add_rule(chain, rule))
    return messages


_TABLE = nft.Table(nft.NFPROTO_IPV4, "skerry-resolver")


@functools.cache
def _frame(again: bool) -> tuple[netlink.Message, ...]:
    """The table and its chains."""
    # A deletion waits for every processor (RCU), for which a start has no time.
    before = (_TABLE.add(), _TABLE.delete()) if again else ()
    chains = (
        _TABLE.add_chain(hook, kind="filter", hook=hook, priority=-150)
        for hook in ("output", "prerouting")
    )
    return (*before, _TABLE.add(), *chains)


@functools.cache
def _ends(chain: str, protocol: int) -> tuple[bytes, bytes]:
    """A rule without its ports: what comes before them, the old one loaded, and after them.

    Put together once: it is the same in every namespace, and takes half of a resolver's time.
    """
    address, offset = (_DESTINATION, 2) if chain == "output" else (_SOURCE, 0)
    seen = nft.payload(nft.NETWORK_HEADER, address, 4) + nft.equal(socket.inet_aton(RESOLVER))
    seen += nft.meta("l4proto") + nft.equal(bytes((protocol,)))
    seen += nft.payload(nft.TRANSPORT_HEADER, offset, 2)
    return seen, nft.set_port(offset, _CHECKSUMS[protocol])
