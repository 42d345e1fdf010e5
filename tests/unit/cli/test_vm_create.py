"""`vm create`: options to the API's body."""

from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli import vm_create
from skerry.cli.commands.vm_copy import EDIT, export_form
from skerry.cli.options import parse


def test_everything(tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    image.touch()
    line = (
        f"--memory 1g --cpus 2 --disk 20g --disk {image},bus=sata,size=1g --cdrom /a.iso "
        "--nic nat --nic bridge=br0,mac=52:54:00:00:00:01,model=e1000 -p 8080:80 "
        f"-p 0.0.0.0:53:53/udp --share {tmp_path}:files,ro,driver=9p --share /srv --firmware uefi "
        "--boot cdrom,disk --usb --user me --password secret"
    )
    assert vm_create.body(parse(vm_create.CREATE, line.split())) == {
        "memory": 1 << 30,
        "cpus": 2,
        "firmware": "uefi",
        "boot": ["cdrom", "disk"],
        "usb": True,
        "disks": [
            {"size": 20 << 30},
            {"bus": "sata", "source": str(image), "size": 1 << 30},
        ],
        "cdroms": ["/a.iso"],
        "nics": [
            {
                "kind": "nat",
                "forwards": [
                    {"host_port": 8080, "guest_port": 80},
                    {"host_ip": "0.0.0.0", "host_port": 53, "guest_port": 53, "protocol": "udp"},
                ],
            },
            {"kind": "bridge", "network": "br0", "mac": "52:54:00:00:00:01", "model": "e1000"},
        ],
        "shares": [
            {"path": str(tmp_path), "tag": "files", "readonly": True, "driver": "9p"},
            {"path": "/srv", "tag": "share1"},
        ],
        "cloud_init": {"user": "me", "password": "secret"},
    }


def test_disks_as_other_tools_write_them(tmp_path: Path) -> None:
    image = tmp_path / "a,b.raw"
    image.touch()
    assert vm_create.disk("size=20g,bus=sata") == {"size": 20 << 30, "bus": "sata"}
    assert vm_create.disk(f"path={image},size=1g") == {"source": str(image), "size": 1 << 30}
    for wrong in ("20g,cache=none", f"{image},cache=none"):
        with pytest.raises(InvalidInput, match="unknown option of a disk: cache=none"):
            vm_create.disk(wrong)


def test_a_private_key_is_neither_sent_nor_shown(tmp_path: Path) -> None:
    public, private = tmp_path / "id.pub", tmp_path / "id"
    public.write_text("ssh-ed25519 AAAA me\n")
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
    made = vm_create.body(parse(vm_create.CREATE, ["--ssh-key", str(public)]))
    assert made["cloud_init"] == {"ssh_keys": ["ssh-ed25519 AAAA me"]}
    with pytest.raises(InvalidInput, match="is a private key") as caught:
        vm_create.body(parse(vm_create.CREATE, ["--ssh-key", str(private)]))
    assert caught.value.hint.endswith("id.pub")
    assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(NotFound):
        vm_create.body(parse(vm_create.CREATE, ["--ssh-key", str(tmp_path / "nosuch")]))


def test_nothing_given_is_nothing_sent() -> None:
    assert vm_create.body(parse(vm_create.CREATE, [])) == {}


def test_a_port_makes_a_nat_card_and_needs_one() -> None:
    wanted = vm_create.body(parse(vm_create.CREATE, ["-p", "1:2"]))
    assert wanted["nics"][0]["kind"] == "nat"
    with pytest.raises(InvalidInput, match="NAT"):
        vm_create.body(parse(vm_create.CREATE, ["-p", "1:2", "--nic", "none"]))


@pytest.mark.parametrize("text", ["80", "a:b", "1:2:3:4", ":80"])
def test_wrong_ports(text: str) -> None:
    with pytest.raises(InvalidInput):
        vm_create.forward(text)


def test_a_disk_that_is_neither_a_file_nor_a_size() -> None:
    with pytest.raises(NotFound, match=r"no such disk image: missing\.img"):
        vm_create.disk("missing.img")


def test_changes_add_to_what_is_there(tmp_path: Path) -> None:
    line = "-p 8080:80 --unpublish 22 --unpublish 53/udp --add-nic internal=lab"
    line += f" --add-share {tmp_path}"
    assert vm_create.changes(parse(EDIT, line.split())) == {
        "add_forwards": [{"host_port": 8080, "guest_port": 80}],
        "drop_forwards": ["22/tcp", "53/udp"],
        "add_nics": [{"kind": "internal", "network": "lab"}],
        "add_shares": [{"path": str(tmp_path), "tag": tmp_path.name}],
    }
    whole = vm_create.changes(parse(EDIT, ["-p", "1:2", "--nic", "nat"]))
    assert whole == {"nics": [{"kind": "nat", "forwards": [{"host_port": 1, "guest_port": 2}]}]}


@pytest.mark.parametrize(
    ("target", "form", "found"),
    [
        ("", "", "ova"),
        ("a.OVF", "", "ovf"),
        ("a.img", "", "raw"),
        ("a.vdi", "", "vdi"),
        ("a.b", "", "ova"),
        ("a.ova", "qcow2", "qcow2"),
        ("-", "VHDX", "vhdx"),
    ],
)
def test_the_format_of_an_export(target: str, form: str, found: str) -> None:
    assert export_form(target, form, "") == found


@pytest.mark.parametrize(("form", "disk"), [("tar", ""), ("ova", "disk0"), ("", "disk0")])
def test_no_format_of_an_export(form: str, disk: str) -> None:
    with pytest.raises(InvalidInput):
        export_form("", form, disk)
