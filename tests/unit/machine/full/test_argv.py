"""QEMU's command line, looked at without running it."""

import re
from typing import Any

from skerry.machine.full import argv
from skerry.machine.full.spec import Cdrom, Disk, Forward, Hardware, Nic, Share

MAC = "52:54:00:00:00:01"


def wiring(**changes: Any) -> argv.Wiring:
    return argv.Wiring(
        **{
            "accel": "tcg",
            "qmp": 100,
            "serial": 101,
            "layers": {"m/aa": "/vms/m/disks/aa.qcow2", "m/vv": "/vms/m/disks/vv.qcow2"},
            "socket_dir": "/q",
            "discs": {},
            "taps": {},
            "shares": {},
            "vnc_secret": "",
            "tpm": -1,
            "incoming": -1,
            "detours": {},
            "hold": True,
        }
        | changes
    )


def command(hardware: Hardware, **changes: Any) -> str:
    return " ".join(argv.command("name", hardware, wiring(**changes)))


def test_a_plain_machine() -> None:
    line = command(Hardware(uuid="u-u", memory=512 << 20, disks=(Disk("disk0", "m/aa", 1 << 30),)))
    assert line.startswith(f"{argv.QEMU} -name guest=name -nodefaults -no-user-config -uuid u-u ")
    assert (
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in line
    )
    assert (
        "-machine q35,usb=off,vmport=off -accel tcg,thread=multi,tb-size=256 -cpu max,+arat" in line
    )
    assert "-smp 1 -m size=524288k" in line
    assert "node-name=l-aa,discard=unmap,file.driver=file,file.filename=/vms/m/disks/aa" in line
    assert "-device virtio-blk-pci,id=disk0,drive=l-aa,serial=disk0,bootindex=1" in line
    assert line.endswith("-vnc unix:/q/vnc.sock -S")


def test_boot_order_is_by_kind_and_then_by_place() -> None:
    line = command(
        Hardware(
            uuid="u",
            boot=("cdrom", "network"),
            disks=(Disk("disk0", "m/aa", 1 << 30, "sata"),),
            cdroms=(Cdrom("cd0", "/a.iso"), Cdrom("cd1")),
            nics=(Nic("nat", MAC, model="e1000"),),
        ),
        discs={"cd0": 102},
    )
    assert "ide-hd,bus=ide.0,id=disk0,drive=l-aa,serial=disk0 " in line
    assert "-add-fd fd=102,set=1,opaque=cd0" in line
    assert "ide-cd,bus=ide.1,id=cd0,drive=medium-cd0,bootindex=1" in line
    assert "ide-cd,bus=ide.2,id=cd1,bootindex=2" in line
    assert f"e1000,id=net0,mac={MAC},bootindex=3,netdev=n0" in line


def test_every_disk_at_ide_or_sata_has_a_place_of_its_own() -> None:
    disks = tuple(Disk(f"disk{at}", "m/aa", 1 << 30, "sata") for at in range(8))
    drives = tuple(Cdrom(f"cd{at}") for at in range(16))
    line = command(Hardware(uuid="u", disks=disks, cdroms=drives))
    assert "ahci,id=ahci0 -device ahci,id=ahci1 -device ahci,id=ahci2 " in line
    assert "ahci3" not in line
    places = re.findall(r"-device ide-[hc]d,(bus=[a-z0-9.]+)", line)
    assert len(set(places)) == len(places) == 24

    old = (*(Disk(f"disk{at}", "m/aa", 1 << 30, "ide") for at in range(3)), *disks[3:4])
    line = command(Hardware(uuid="u", machine="pc", disks=old, cdroms=drives[:2]))
    assert re.findall(r"-device ide-hd,(bus=\S+?),id=", line) == [
        *("bus=ide.0,unit=0", "bus=ide.0,unit=1", "bus=ide.1,unit=0", "bus=ahci0.0")
    ]
    assert re.findall(r"-device ide-cd,(bus=\S+?),id=", line) == ["bus=ide.1,unit=1", "bus=ahci0.1"]


def test_a_seed_on_virtio_is_there_with_its_disc_only() -> None:
    hardware = Hardware(uuid="u", cdroms=(Cdrom("cd0", "/seed.iso", "virtio"),))
    assert "virtio-blk-pci,id=cd0,drive=medium-cd0,serial=cd0 " in command(
        hardware, discs={"cd0": 102}
    )
    assert "cd0" not in command(hardware)


def test_firmware_networks_and_shares() -> None:
    line = command(
        Hardware(
            uuid="u",
            firmware="uefi",
            vars="m/vv",
            nics=(
                Nic("nat", MAC, forwards=(Forward(8080, 80), Forward(53, 53, "10.0.0.1", "udp"))),
                Nic("bridge", MAC, "br0"),
                Nic("none", MAC),
            ),
            shares=(Share("/a,b", "files", "9p", True), Share("/c", "more")),
        ),
        taps={1: 105},
        shares={"more": 106},
        detours={("10.0.0.1", 53, "udp"): 20053},
    )
    assert ",pflash0=code,pflash1=l-vv" in line
    assert "hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:10.0.0.1:20053-:53" in line
    assert "tap,id=n1,fd=105" in line
    assert "hubport,id=n2,hubid=2" in line
    assert "local,id=fs0,path=/a,,b,security_model=none,multidevs=remap,readonly=on" in line
    assert "socket,id=fs1,fd=106" in line
    assert "memory-backend-memfd,id=ram,size=536870912,share=on" in line


def test_secure_boot_keeps_its_variables_to_the_firmware() -> None:
    hardware = Hardware(uuid="u", firmware="uefi-secure", vars="m/vv")
    line = command(hardware)
    for part in ("q35,", ",smm=on", "secboot.fd", "cfi.pflash01,property=secure,value=on"):
        assert part in line
    assert "smm=on" not in command(Hardware(uuid="u", firmware="uefi", vars="m/vv"))


def test_everything_else_that_can_be_had() -> None:
    line = command(
        Hardware(uuid="u", usb=True, sound=True, tpm=True, video="none"),
        tpm=107,
        incoming=108,
        hold=False,
    )
    for part in ("qemu-xhci", "usb-tablet", "hda-duplex", "tpm-tis", "-incoming fd:108"):
        assert part in line
    assert "-vnc" not in line
    assert not line.endswith("-S")
