"""Ports for servers that are told theirs before they start."""

import random
import socket
from pathlib import Path

_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def free_port() -> int:
    """A TCP port that nobody has, outside the range from which the kernel serves clients.

    One of that range could become a client's before its server is there, or while it is started
    again; and who asks whether it listens already may connect to itself.
    """
    clients, _ = (int(word) for word in _CLIENTS.read_text().split())
    choices = range(_LOWEST, clients) or (0,)
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("", random.SystemRandom().choice(choices)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
