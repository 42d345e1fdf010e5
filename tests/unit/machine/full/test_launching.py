"""The keeper's plan, looked at without carrying it out."""

import socket
from typing import Any

from skerry.kernel.links import Link
from skerry.machine import jail
from skerry.machine.full import fence, launching
from skerry.machine.full.detours import Detour
from skerry.machine.full.launching import Launch, Places
from skerry.machine.full.spec import Cdrom, Disk, Hardware, Nic, Share

MAC = "52:54:00:00:00:01"
PLACES = Places("/root/vms/m", "/run/vms/m")


def launch(hardware: Hardware, **changes: Any) -> Launch:
    return Launch(
        **{
            "name": "name",
            "hardware": hardware,
            "places": PLACES,
            "uid": 1900000001,
            "accel": "tcg",
            "chains": {"m/a": ["/root/vms/m/disks/a.qcow2", "/root/vms/n/disks/b.qcow2"]},
            "taps": {},
            "fence": "skvm-x",
        }
        | changes
    )


def test_descriptors_have_the_numbers_that_qemu_is_told() -> None:
    hardware = Hardware(
        uuid="u",
        disks=(Disk("disk0", "m/a", 1 << 20),),
        cdroms=(Cdrom("cd0", "/a.iso"), Cdrom("cd1")),
        nics=(Nic("internal", MAC, "lab"),),
    )
    plan = launching.plan(launch(hardware, taps={0: ("tap0", "ski0", True)}, incoming="/state"))
    kinds = [(each["fd"], each["kind"], each["path"]) for each in plan["openings"]]
    assert kinds == [
        (100, "listen", "/run/vms/m/qmp.sock"),
        (101, "listen", "/run/vms/m/serial.sock"),
        (102, "read", "/a.iso"),
        (103, "tap", "tap0"),
        (104, "read", "/state"),
    ]
    line = " ".join(plan["confined"]["argv"])
    for part in ("id=qmp,fd=100", "id=serial0,fd=101", "fd=102,set=1", "fd=103", "fd:104"):
        assert part in line
    assert plan["bridges"] == ["ski0"]


def test_a_machine_sees_its_own_disks_and_others_read_only() -> None:
    plan = launching.plan(launch(Hardware(uuid="u", disks=(Disk("disk0", "m/a", 1 << 20),))))
    binds = {(bind.path, bind.writable) for bind in plan["confined"]["binds"]}
    assert binds == {
        ("/root/vms/m/disks", True),
        ("/run/vms/m/q", True),
        ("/root/vms/n/disks/b.qcow2", False),
    }
    assert plan["confined"]["seccomp"]
    assert plan["confined"]["proc"]


def test_only_what_needs_the_hosts_network_gets_it() -> None:
    for hardware, host in (
        (Hardware(uuid="u"), False),
        (Hardware(uuid="u", nics=(Nic("none", MAC),)), False),
        (Hardware(uuid="u", nics=(Nic("nat", MAC),)), True),
        (Hardware(uuid="u", vnc="127.0.0.1:1"), True),
        (Hardware(uuid="u", vnc="127.0.0.1:1", video="none"), False),
    ):
        plan = launching.plan(launch(hardware))
        assert plan["confined"]["network"] == ("host" if host else "none")
        assert plan["fence"] == ("skvm-x" if host else "")
    plugged = Hardware(uuid="u", nics=(Nic("internal", MAC, "lab"),))
    plan = launching.plan(launch(plugged, taps={0: ("tap0", "ski0", True)}))
    assert (plan["confined"]["network"], plan["fence"]) == ("none", "skvm-x")


def test_without_root_there_is_no_wall() -> None:
    plan = launching.plan(launch(Hardware(uuid="u", nics=(Nic("nat", MAC),)), uid=0))
    assert plan["fence"] == ""
    assert not {"seccomp", "proc"} & plan["confined"].keys()
    assert "unix:/run/vms/m/q/vnc.sock" in plan["confined"]["argv"]


def test_helpers_are_joined_by_a_socket() -> None:
    shares = (Share("/srv", "srv", readonly=True), Share("/old", "old", "9p"))
    plan = launching.plan(launch(Hardware(uuid="u", shares=shares, tpm=True)))
    helpers = [each for each in plan["openings"] if each["kind"] == "helper"]
    assert helpers[0]["readonly"] == "/srv"
    assert "readonly" not in helpers[0]["argv"]
    assert "source=/srv" in helpers[0]["argv"]
    assert helpers[1]["argv"][-1] == "type=unixio,clientfd={fd}"
    assert [bind.writable for bind in plan["confined"]["binds"] if bind.path == "/old"] == [True]


def test_low_ports_are_told_to_the_keeper_and_to_its_successor() -> None:
    around = (Detour("127.0.0.1", 80, "tcp", 20080),)
    plan = launching.plan(launch(Hardware(uuid="u"), detours=around))
    assert plan["detours"] == [["127.0.0.1", 80, "tcp", 20080]]
    later = launching.adoption(PLACES, "", "skvm-x", [], [("127.0.0.1", 80, "tcp")], (7, 8))
    assert (later["detours"], later["adopt"]) == ([["127.0.0.1", 80, "tcp"]], [7, 8])


def test_fences_belong_to_a_machine_and_an_engine() -> None:
    assert fence.name("/a", "m" * 64) != fence.name("/b", "m" * 64)
    assert fence.name("/a", "m" * 64).startswith(fence.prefix("/a"))


def test_bridges_lead_to_the_world_by_their_ports_or_routes() -> None:
    def link(number: int, name: str, kind: str, master: int = 0) -> Link:
        return Link(number, name, kind, "", b"", 1500, master, True)

    found = [
        *(link(1, "eth0", "", 2), link(2, "lan", "bridge")),
        *(link(3, "ve1", "veth", 4), link(4, "sk-a", "bridge")),
        *(link(5, "tap1", "tun", 6), link(6, "virbr0", "bridge")),
        *(link(7, "ve2", "veth", 8), link(8, "routed", "bridge")),
        *(link(9, "bond.5", "vlan", 10), link(10, "vlans", "bridge"), link(11, "empty", "bridge")),
    ]
    assert fence.ways(found, [8]) == {"lan", "routed", "vlans"}


def test_the_filter_has_the_sockets_that_devices_need() -> None:
    def made(hardware: Hardware) -> str:
        return launching.plan(launch(hardware))["confined"]["seccomp"]

    alone = made(Hardware(uuid="u", video="none"))
    shown = made(Hardware(uuid="u"))
    out = made(Hardware(uuid="u", nics=(Nic("nat", MAC),)))
    shared = made(Hardware(uuid="u", shares=(Share("/old", "old", "9p"),)))
    assert alone == jail.seccomp_program().hex()
    assert shown == jail.seccomp_program((socket.AF_UNIX,)).hex()
    assert len({alone, shown, out, shared}) == 4


def test_a_tpm_has_a_wall_like_qemus() -> None:
    plan = launching.plan(launch(Hardware(uuid="u", tpm=True)))
    (helper,) = [each for each in plan["openings"] if each["kind"] == "helper"]
    assert helper["wall"]["uid"] == plan["confined"]["uid"]
    assert [bind.path for bind in helper["wall"]["binds"]] == ["/root/vms/m/tpm"]
