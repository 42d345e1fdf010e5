"""Run in a network and mount namespace of its own: what a full machine's fence lets through.

A user stands for a QEMU with NAT, a tap that is written to for a guest on a bridge. Prints JSON.
"""

import errno
import json
import os
import socket
import struct
import subprocess
import sys
from typing import Any

from skerry.kernel import mounts, taps
from skerry.machine.full import fence

MINE, OTHER, TITLE = 1879048199, 1879048200, "skvm-test"
PORT = 7000
LINKS = """
link set lo up
link add near type bridge
addr add 192.0.2.1/24 dev near
link add nearh type veth peer name nearg
link set nearh master near up
link set nearg up
link set near up
link add far type bridge
addr add 198.51.100.1/24 dev far
link add farh type veth peer name farg
link set farh master far up
link set farg up
link set far up
route add default via 198.51.100.2 dev far
neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev near
neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev far
neigh add 198.51.100.2 lladdr 02:00:00:00:00:09 dev far
"""
TARGETS = (
    *(("127.0.0.1", PORT), ("192.0.2.1", PORT), ("198.51.100.1", PORT), ("127.0.0.1", 53)),
    *(("192.0.2.9", PORT), ("198.51.100.9", PORT), ("203.0.113.9", PORT)),
)


def listening(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    sock.settimeout(120)
    return sock


def sends(uid: int) -> Any:
    """What happens to datagrams of this user; in a child, for a change of user is for good."""
    read, write = os.pipe()
    if not os.fork():
        os.setresuid(uid, uid, uid)
        said = {}
        for target in TARGETS:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                try:
                    sock.sendto(b"x", target)
                    said[f"{target[0]}:{target[1]}"] = "OK"
                except OSError as error:
                    said[f"{target[0]}:{target[1]}"] = errno.errorcode[error.errno or 0]
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    text = os.read(read, 65536)
    os.wait()
    return json.loads(text)


def sum16(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(bridge: str, target: str, port: int, text: bytes) -> bytes:
    """virtio header, Ethernet, IPv4, UDP without a checksum."""
    body = struct.pack(">HHHH", 7, port, 8 + len(text), 0) + text
    ends = (socket.inet_aton("192.0.2.50"), socket.inet_aton(target))
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, *ends)
    head = head[:10] + struct.pack(">H", sum16(head)) + head[12:]
    with open(f"/sys/class/net/{bridge}/address", encoding="ascii") as file:
        mac = bytes.fromhex(file.read().strip().replace(":", ""))
    return bytes(10) + mac + bytes((2, 0, 0, 0, 0, 50)) + b"\x08\0" + head + body


def heard(sock: socket.socket) -> list[str]:
    """What waits at it."""
    sock.setblocking(False)
    found = []
    try:
        while True:
            found.append(sock.recv(100).decode())
    except BlockingIOError:
        return found
    finally:
        sock.settimeout(120)


def guest(bridge: str, socks: dict[str, socket.socket], *, internal: bool) -> Any:
    """What arrives of a guest's frames with the fence and without."""
    fence.build(TITLE, MINE, [("guest0", internal)])
    tap = taps.open_tap("guest0")
    taps.join(bridge, "guest0")

    def says(text: bytes) -> None:
        for target, port in (("192.0.2.1", PORT), ("198.51.100.1", PORT), ("192.0.2.1", 53),
                             ("192.0.2.1", 67)):  # fmt: skip
            os.write(tap, frame(bridge, target, port, text))

    says(b"fenced")
    fence.remove(TITLE)
    says(b"free")
    # Frames keep their order: once the last has come, what did not was dropped.
    last = socks["67"].recv(100).decode()
    found = {name: heard(sock) for name, sock in socks.items()}
    os.close(tap)
    return found | {"67": [last, *found["67"]]}


def main() -> None:
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("sysfs", "/sys", "sysfs")
    for line in LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    socks = {str(port): listening(port) for port in (PORT, 53, 67)}
    fence.build(TITLE, MINE)
    told = {"mine": sends(MINE), "other": sends(OTHER)}
    fence.remove(TITLE)
    told["free"] = sends(MINE)
    for sock in socks.values():
        heard(sock)
    told["bridge"] = guest("near", socks, internal=False)
    taps.add_bridge("lab")
    told["internal"] = guest("lab", socks, internal=True)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    told["left"] = tables.stdout
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
