"""From a machine to its keeper's plan: what is opened, bound and run. Pure."""

import os
import socket
from typing import NamedTuple

from skerry.base.errors import SystemFault
from skerry.machine import jail
from skerry.machine.full import argv, keeper, serial
from skerry.machine.full.confine import Bind, Confined
from skerry.machine.full.detours import Detour
from skerry.machine.full.spec import Hardware

FIRST_FD = 100
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
SWTPM = "/usr/bin/swtpm"
OVERHEAD = 768 << 20
"""Bytes that QEMU may take beside the guest's memory: TCG's code, caches, the screen."""
INSIDE = "/q"
"""Where the folder for QEMU's own sockets is inside the wall: short, unix(7) allows 107 bytes."""


class Places(NamedTuple):
    """The folders of one machine."""

    state: str
    """Outlives a reboot: disks, saved states, logs."""
    run: str
    """Sockets and pids."""

    @property
    def disks(self) -> str:
        """Layers that this machine began."""
        return os.path.join(self.state, "disks")

    @property
    def states(self) -> str:
        """Saved memory and devices."""
        return os.path.join(self.state, "states")

    @property
    def console_log(self) -> str:
        """What the guest wrote to its serial port."""
        return os.path.join(self.state, "console.log")

    @property
    def qemu_log(self) -> str:
        """What QEMU complained about."""
        return os.path.join(self.state, "qemu.log")

    @property
    def sockets(self) -> str:
        """The folder that QEMU itself may write to."""
        return os.path.join(self.run, "q")

    @property
    def wall(self) -> str:
        """An empty folder to build the new root on."""
        return os.path.join(self.run, "root")


class Launch(NamedTuple):
    """What to start. `chains`: layer to its files, top-most first. `taps`: number of the network
    card to (its tap device, the bridge, whether the bridge is ours). `incoming`: a saved state."""

    name: str
    hardware: Hardware
    places: Places
    uid: int
    accel: str
    chains: dict[str, list[str]]
    taps: dict[int, tuple[str, str, bool]]
    cgroup: str = ""
    fence: str = ""
    groups: tuple[int, ...] = ()
    incoming: str = ""
    vnc_secret: str = ""
    detours: tuple[Detour, ...] = ()
    hold: bool = True


class _Openings:
    """Descriptors by rising numbers."""

    def __init__(self) -> None:
        self.all: list[keeper.Opening] = []

    def add(self, opening: keeper.Opening) -> int:
        opening["fd"] = FIRST_FD + len(self.all)
        self.all.append(opening)
        return opening["fd"]

    def file(self, kind: str, path: str) -> int:
        return self.add({"kind": kind, "path": path})


def plan(launch: Launch) -> keeper.Plan:
    """The keeper's plan."""
    hardware, places = launch.hardware, launch.places
    openings = _Openings()
    wiring = argv.Wiring(
        accel=launch.accel,
        qmp=openings.file("listen", os.path.join(places.run, keeper.QMP)),
        serial=openings.file("listen", os.path.join(places.run, serial.SERIAL)),
        layers={layer: launch.chains[layer][0] for layer in hardware.layers()},
        socket_dir=INSIDE if launch.uid else places.sockets,
        discs={
            drive.name: openings.file("read", drive.path) for drive in hardware.cdroms if drive.path
        },
        taps={
            at: openings.add({"kind": "tap", "path": tap, "bridge": bridge, "ours": ours})
            for at, (tap, bridge, ours) in launch.taps.items()
        },
        shares={
            share.tag: openings.add(_virtiofsd(at, places, share.path, readonly=share.readonly))
            for at, share in enumerate(hardware.shares)
            if share.driver == "virtiofs"
        },
        vnc_secret=launch.vnc_secret,
        tpm=openings.add(_swtpm(places, launch.uid)) if hardware.tpm else -1,
        incoming=openings.file("read", launch.incoming) if launch.incoming else -1,
        detours={(each.host_ip, each.port, each.protocol): each.to for each in launch.detours},
        hold=launch.hold,
    )
    confined: Confined = {
        "argv": argv.command(launch.name, hardware, wiring),
        "uid": launch.uid,
        "groups": list(launch.groups),
        "root": places.wall,
        "binds": _binds(launch),
        "network": "host" if needs_host_network(hardware) else "none",
        "cgroup": launch.cgroup,
        "limits": {"core": 0, "nofile": jail.FILES},
    }
    if launch.uid:
        confined["proc"] = True
        confined["seccomp"] = jail.seccomp_program(
            _families(hardware), shares=any(share.driver == "9p" for share in hardware.shares)
        ).hex()
    return {
        "run_dir": places.run,
        "console_log": places.console_log,
        "qemu_log": places.qemu_log,
        "openings": openings.all,
        "confined": confined,
        "cgroup": launch.cgroup,
        "fence": launch.fence if launch.uid and needs_fence(hardware) else "",
        "detours": [list(each) for each in launch.detours],
        "bridges": [bridge for _, bridge, ours in launch.taps.values() if ours],
    }


def needs_host_network(hardware: Hardware) -> bool:
    """Whether QEMU itself opens sockets: for NAT, and to show the screen at an address."""
    shown = hardware.video != "none" and hardware.vnc != "unix"
    return shown or any(nic.kind == "nat" for nic in hardware.nics)


def needs_fence(hardware: Hardware) -> bool:
    """Whether the guest could reach the host: by QEMU's sockets, or by a bridge."""
    plugged = any(nic.kind in ("bridge", "internal") for nic in hardware.nics)
    return plugged or needs_host_network(hardware)


def _families(hardware: Hardware) -> tuple[int, ...]:
    """Of the sockets that QEMU makes: the monitor's and the console's are there."""
    local = (socket.AF_UNIX,) if hardware.video != "none" else ()
    return (*local, socket.AF_INET, socket.AF_INET6) if needs_host_network(hardware) else local


def adoption(
    places: Places,
    cgroup: str,
    fence: str,
    bridges: list[str],
    held: list[tuple[str, int, str]],
    process: tuple[int, int],
) -> keeper.Plan:
    """The plan of a keeper for a QEMU whose own was killed; `process` is its pid and start time.
    `held`: ports of the host as `detours.choose` takes them."""
    return {
        "run_dir": places.run,
        "console_log": places.console_log,
        "qemu_log": places.qemu_log,
        "cgroup": cgroup,
        "fence": fence,
        "bridges": bridges,
        "detours": [list(each) for each in held],
        "adopt": list(process),
    }


def _binds(launch: Launch) -> list[Bind]:
    places = launch.places
    binds = [Bind(places.disks, True), Bind(places.sockets, True, INSIDE)]
    files = {path for chain in launch.chains.values() for path in chain}
    binds += [Bind(path) for path in sorted(files) if os.path.dirname(path) != places.disks]
    for share in launch.hardware.shares:
        if share.driver == "9p":
            binds.append(Bind(share.path, not share.readonly, owned=launch.uid != 0))
    if launch.accel == "kvm":
        binds.append(Bind("/dev/kvm", True))
    if launch.vnc_secret:
        binds.append(Bind(launch.vnc_secret))
    return binds


def _virtiofsd(at: int, places: Places, path: str, *, readonly: bool) -> keeper.Opening:
    if not os.path.exists(VIRTIOFSD):
        raise SystemFault(
            "virtiofsd is missing", hint="apt-get install qemu-system-common, or share by 9p"
        )
    options = ["-o", f"source={path}", "-o", "cache=auto", "-o", "sandbox=namespace"]
    return {
        "kind": "helper",
        "path": os.path.join(places.run, f"fs{at}.sock"),
        "argv": [VIRTIOFSD, "--fd={fd}", "-f", *options],
        "listens": True,
        # QEMU 7.2's virtiofsd has no such option itself.
        "readonly": path if readonly else "",
    }


def _swtpm(places: Places, uid: int) -> keeper.Opening:
    """Behind the same wall as QEMU, as the same user: it reads what the guest says."""
    if not os.path.exists(SWTPM):
        raise SystemFault("swtpm is missing", hint="apt-get install swtpm")
    state = os.path.join(places.state, "tpm")
    argv_ = [
        SWTPM,
        "socket",
        "--tpm2",
        "--tpmstate",
        f"dir={state}",
        "--ctrl",
        "type=unixio,clientfd={fd}",
    ]
    opening: keeper.Opening = {"kind": "helper", "path": "", "argv": argv_, "listens": False}
    if uid:
        opening["wall"] = {
            "uid": uid,
            "root": os.path.join(places.run, "tpm"),
            "binds": [Bind(state, True)],
            "network": "none",
            "proc": True,
            "limits": {"core": 0, "nofile": 64},
        }
    return opening
