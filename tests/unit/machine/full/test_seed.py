"""The disc that cloud-init reads."""

import io
import json

import pycdlib
import pytest

from skerry.base.errors import InvalidInput
from skerry.machine.full import seed
from skerry.machine.full.seed import CloudInit

MACS = ["52:54:00:00:00:01"]


def test_the_documents() -> None:
    files = seed.documents(
        CloudInit(user="me", password="geheim", ssh_keys=("ssh-ed25519 AAAA me",)),
        "my_machine",
        "ab" * 32,
        MACS,
    )
    assert json.loads(files["meta-data"]) == {
        "instance-id": "skerry-" + "ab" * 8,
        "local-hostname": "my-machine",
    }
    head, _, config = files["user-data"].partition("\n")
    assert head == "#cloud-config"
    user = json.loads(config)["users"][1]
    assert user["name"] == "me"
    assert user["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    network = json.loads(files["network-config"])
    assert network["ethernets"]["nic0"] == {"match": {"macaddress": MACS[0]}, "dhcp4": True}


@pytest.mark.parametrize(
    "text",
    ["", "#cloud-config\nusers: []\n", "#!/bin/sh\n", "#include\nhttp://a\n", "#include-once\n",
     "## template: jinja\n", "Content-Type: multipart/mixed\n", "MIME-Version: 1.0\n"],
)  # fmt: skip
def test_what_cloud_init_knows_is_not_doubted(text: str) -> None:
    assert seed.doubt(CloudInit(user="me", user_data=text)) == ""


@pytest.mark.parametrize("text", ["users: []\n", "\n#cloud-config\n", "cloud-config", "{}"])
def test_what_cloud_init_would_ignore_is_doubted(text: str) -> None:
    assert "will ignore the user-data" in seed.doubt(CloudInit(user_data=text))


def test_whole_documents_go_in_as_they_are() -> None:
    files = seed.documents(CloudInit(user_data="#!/bin/sh\n", network="{}"), "name", "id", MACS)
    assert files["user-data"] == "#!/bin/sh\n"
    assert files["network-config"] == "{}"


@pytest.mark.parametrize(
    "settings", [CloudInit(hostname="a b"), CloudInit(ssh_keys=("not a\nkey",))]
)
def test_what_cannot_be_meant_is_refused(settings: CloudInit) -> None:
    with pytest.raises(InvalidInput):
        seed.documents(settings, "name", "id", MACS)


def test_the_disc_is_called_cidata_and_holds_the_files() -> None:
    disc = pycdlib.PyCdlib()
    disc.open_fp(io.BytesIO(seed.image(CloudInit(user="me"), "name", "id", MACS)))
    assert disc.pvd.volume_identifier.strip() == b"CIDATA"
    out = io.BytesIO()
    disc.get_file_from_iso_fp(out, rr_path="/user-data")
    assert out.getvalue().startswith(b"#cloud-config\n")
    names = {child.file_identifier() for child in disc.list_children(joliet_path="/")}
    assert {"meta-data".encode("utf-16_be"), "network-config".encode("utf-16_be")} <= names
    disc.close()
