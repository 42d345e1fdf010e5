"""Names of taps and bridges, and addresses out of tables."""

import socket
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, NotFound
from skerry.engine.vms import cables
from skerry.engine.vms.record import Machine
from skerry.machine.full.spec import Cdrom, Forward, Hardware, Nic

MACS = [f"52:54:00:00:00:0{at}" for at in range(3)]
ARP = (
    "IP address       HW type     Flags       HW address            Mask     Device\n"
    f"172.18.0.9       0x1         0x2         {MACS[1]}     *        sk-0\n"
)


def test_internal_bridges_belong_to_an_engine() -> None:
    one, other = cables.internal_bridge("/a", "lab"), cables.internal_bridge("/b", "lab")
    assert one != other
    assert len(one) == 15
    assert one.startswith(cables.prefix("/a"))


def test_addresses() -> None:
    hardware = Hardware(
        uuid="u",
        nics=(
            Nic("nat", MACS[0], forwards=(Forward(8080, 80),)),
            Nic("bridge", MACS[1], "lan"),
            Nic("none", MACS[2]),
        ),
    )
    found = cables.addresses(hardware, "", ARP)
    assert [each["addresses"] for each in found] == [["10.0.2.15"], ["172.18.0.9"], []]
    assert found[0]["forwards"] == ["127.0.0.1:8080->80/tcp"]
    table = "TCP[ESTABLISHED]  20  10.0.2.77 41000  1.2.3.4 80 0 0\n UDP 10.0.2.3 53"
    assert cables.addresses(hardware, table, "")[0]["addresses"] == ["10.0.2.77"]


def test_a_port_that_is_taken_is_named_with_its_owner() -> None:
    def machine(name: str, port: int, protocol: str = "tcp") -> Machine:
        nic = Nic("nat", MACS[0], forwards=(Forward(port, 80, protocol=protocol),))
        return Machine(
            id=name, name=name, uid=0, created_at=0, hardware=Hardware(uuid="u", nics=(nic,))
        )

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=f"new cannot have port {port}/tcp .* old has it"):
            cables.check_ports(machine("new", port), [machine("old", port)])
        with pytest.raises(Conflict, match="in use"):
            cables.check_ports(machine("new", port), [])
    cables.check_ports(machine("new", port), [])


def test_a_disc_that_is_gone_is_told_with_its_drive(tmp_path: Path) -> None:
    disc = tmp_path / "a.iso"
    drives = (Cdrom("cd0"), Cdrom("cd1", str(disc)))
    record = Machine("ab", "box", 0, 0, Hardware(uuid="u", cdroms=drives))
    with pytest.raises(NotFound, match="disc in cd1 is gone") as caught:
        cables.check_discs(record)
    assert "skerry vm edit box --disc cd1=" in caught.value.hint
    disc.touch()
    cables.check_discs(record)
