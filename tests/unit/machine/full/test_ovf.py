"""OVF descriptors: our own, those that VMware and VirtualBox write, and hostile ones."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.machine.full import manifest, ovf
from skerry.machine.full.ovf import OvfDisk, OvfMachine, OvfNic

GOLDEN = Path(__file__).parent / "ovf"
MACHINE = OvfMachine(
    name="box",
    memory=2 << 30,
    cpus=2,
    firmware="uefi",
    disks=(
        OvfDisk("box-1.vmdk", 20 << 30, "sata"),
        OvfDisk("box-2.vmdk", 1 << 30, "scsi"),
        OvfDisk("box-3.vmdk", 1 << 20, "virtio"),
    ),
    nics=(OvfNic("nat", "virtio"), OvfNic("lab", "e1000")),
    cdroms=1,
    sizes={"box-1.vmdk": 70000, "box-2.vmdk": 1234, "box-3.vmdk": 5},
)


def test_what_is_written_is_read() -> None:
    assert ovf.parse(ovf.write(MACHINE, "uuid")) == MACHINE


def test_ide_and_no_disks() -> None:
    ide = MACHINE._replace(disks=(OvfDisk("box-1.vmdk", 1 << 30, "ide"),), firmware="bios")
    ide = ide._replace(sizes={"box-1.vmdk": 1}, cdroms=0)
    assert ovf.parse(ovf.write(ide, "uuid")) == ide
    bare = ide._replace(disks=(), sizes={}, nics=())
    assert ovf.parse(ovf.write(bare, "uuid")) == bare


def test_virtualbox() -> None:
    found = ovf.parse((GOLDEN / "virtualbox.ovf").read_bytes())
    assert (found.name, found.cpus, found.memory) == ("Debian Box", 2, 1 << 30)
    assert found.firmware == "uefi"
    assert found.disks == (OvfDisk("debian-disk001.vmdk", 8 << 30, "sata"),)
    assert found.nics == (OvfNic("NAT", "e1000"),)
    assert found.cdroms == 1


def test_secure_boot_travels() -> None:
    secure = MACHINE._replace(firmware="uefi-secure")
    written = ovf.write(secure, "uuid")
    assert ovf.parse(written) == secure
    without = written.replace(b"efiSecureBootEnabled", b"other")
    assert ovf.parse(without).firmware == "uefi"


def test_of_several_sizes_the_usual_one_is_meant() -> None:
    # As vCenter's appliances have them: items for configurations, and bounds that are no amounts.
    text = (GOLDEN / "vmware.ovf").read_text()
    item = text[text.index("<Item>") : text.index("</Item>") + len("</Item>")]

    def other(processors: int, attributes: str) -> str:
        return item.replace("<Item>", f"<Item {attributes}>").replace(
            "<rasd:VirtualQuantity>4", f"<rasd:VirtualQuantity>{processors}"
        )

    options = "".join(
        f"<Configuration ovf:id='{name}'{rest}><Label/></Configuration>"
        for name, rest in (("small", ""), ("usual", " ovf:default='true'"), ("large", ""))
    )
    sizes = other(2, "ovf:configuration='small'") + other(8, "ovf:configuration='usual x'")
    bounds = other(64, "ovf:bound='max'")
    chosen = text.replace(item, item + sizes + bounds).replace(
        "<NetworkSection>",
        f"<DeploymentOptionSection><Info/>{options}</DeploymentOptionSection><NetworkSection>",
    )
    assert ovf.parse(chosen.encode()).cpus == 8
    assert ovf.parse(chosen.replace(" ovf:default='true'", "").encode()).cpus == 2
    assert ovf.parse(text.replace(item, item + sizes + bounds).encode()).cpus == 4


def test_vmware() -> None:
    found = ovf.parse((GOLDEN / "vmware.ovf").read_bytes())
    assert (found.name, found.cpus, found.memory) == ("appliance", 4, 4096 << 20)
    assert found.firmware == "uefi"
    assert found.disks == (
        OvfDisk("appliance-disk1.vmdk", 16 << 30, "scsi"),
        OvfDisk("", 2 << 30, "scsi"),
    )
    assert found.nics == (OvfNic("VM Network", "vmxnet3"),)


ENVELOPE = b'<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">%b</Envelope>'
SYSTEM = b"<VirtualSystem><VirtualHardwareSection>%b</VirtualHardwareSection></VirtualSystem>"
BASE = (
    b"<Item><ResourceType>3</ResourceType><VirtualQuantity>1</VirtualQuantity></Item>"
    b"<Item><ResourceType>4</ResourceType><VirtualQuantity>64</VirtualQuantity></Item>"
)


def references(href: bytes, more: bytes = b"") -> bytes:
    file = b'<References><File ovf:id="f" ovf:href="%b" %b/></References>' % (href, more)
    return ENVELOPE % (file + SYSTEM % BASE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a/>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><Envelope>&a;</Envelope>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Envelope/>',
        ENVELOPE % b"",
        ENVELOPE % (SYSTEM % BASE + SYSTEM % BASE),
        ENVELOPE % (SYSTEM % b""),
        ENVELOPE % (SYSTEM % BASE.replace(b"64", b"-1")),
        ENVELOPE % (SYSTEM % BASE.replace(b"64", b"9" * 400)),
        references(b"../../etc/passwd"),
        references(b"/etc/passwd"),
        references(b"http://example.com/disk"),
        references(b".."),
        references(b"a", b'ovf:compression="bzip2"'),
        references(b"a", b'ovf:chunkSize="100"'),
        ENVELOPE
        % (
            SYSTEM
            % (BASE + b"<Item><ResourceType>17</ResourceType><HostResource>x</HostResource></Item>")
        ),
    ],
)
def test_what_is_wrong_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        ovf.parse(data)


def test_too_much_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        ovf.parse(b"<Envelope>" + b" " * ovf.MAX_DOCUMENT)


WHOLE = ovf.write(MACHINE, "uuid")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, len(WHOLE)), st.binary(max_size=30), st.integers(0, 60))
def test_damage_is_an_error_of_ours(at: int, put: bytes, cut: int) -> None:
    try:
        found = ovf.parse(WHOLE[:at] + put + WHOLE[at + cut :])
    except SkerryError:
        return
    for disk in found.disks:
        assert not disk.file or "/" not in disk.file


def test_manifests() -> None:
    digests = {"box.ovf": "ab" * 32, "box disk.vmdk": "cd" * 32}
    assert manifest.parse(manifest.write(digests)) == {
        name: ("sha256", digest) for name, digest in digests.items()
    }
    other = f"SHA1 (a.ovf) = {'0A' * 20}\r\n\r\nSHA512(b)= {'0' * 128}".encode()
    assert manifest.parse(other) == {"a.ovf": ("sha1", "0a" * 20), "b": ("sha512", "0" * 128)}
    for wrong in (b"MD5(a)= " + b"0" * 32, b"SHA1(a)= " + b"0" * 64, b"\xff"):
        with pytest.raises(InvalidInput):
            manifest.parse(wrong)


@given(st.binary(max_size=200))
def test_any_manifest(data: bytes) -> None:
    try:
        manifest.parse(data)
    except SkerryError:
        return
