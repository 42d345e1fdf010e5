"""The disc that cloud-init reads first: NoCloud's user-data, meta-data and network-config.

Source: cloudinit.readthedocs.io, "NoCloud": an ISO 9660 image whose volume is called CIDATA.
"""

import io
import json

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded

MAX_USER_DATA = 1 << 20
_BEGINNINGS = (
    *("#cloud-config", "#cloud-boothook", "#include", "#part-handler", "#!", "## template: jinja"),
    *("content-type:", "mime-version:"),
)
"""Of documents that cloud-init takes, in small letters: "User data formats" of its manual."""


class CloudInit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a cloud image shall be told. `user_data`, `meta_data` and `network` are whole documents
    and replace what would be made of the rest."""

    user_data: str = ""
    meta_data: str = ""
    network: str = ""
    hostname: str = ""
    user: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()


def documents(settings: CloudInit, name: str, identity: str, macs: list[str]) -> dict[str, str]:
    """File name to text. Pure. JSON is YAML, and nobody has to quote."""
    hostname = settings.hostname or name.replace("_", "-").replace(".", "-")
    if not hostname.replace("-", "").isalnum() or len(hostname) > 63:
        raise InvalidInput(f"invalid host name: {hostname!r:.80}")
    for key in settings.ssh_keys:
        if len(key.split()) < 2 or "\n" in key.strip() or key.startswith("-----"):
            # It may be a private one, which nobody wants to see in a log.
            raise InvalidInput(
                "what is given as SSH key is no public key", hint="they begin with their kind: ssh-"
            )
    meta = {"instance-id": f"skerry-{identity[:16]}", "local-hostname": hostname}
    network = settings.network or json.dumps(
        {
            "version": 2,
            "ethernets": {
                f"nic{at}": {"match": {"macaddress": mac}, "dhcp4": True}
                for at, mac in enumerate(macs)
            },
        }
    )
    return {
        "meta-data": settings.meta_data or json.dumps(meta),
        "user-data": settings.user_data or "#cloud-config\n" + json.dumps(_config(settings)),
        "network-config": network,
    }


def doubt(settings: CloudInit) -> str:
    """What makes it likely that cloud-init will not do what is wanted; empty for nothing."""
    text = settings.user_data
    if not text or text.lower().startswith(_BEGINNINGS):
        return ""
    first = text.partition("\n")[0]
    return (
        f"cloud-init will ignore the user-data: its first line is {first!r:.80} and neither "
        "#cloud-config nor another beginning that it knows"
    )


def _config(settings: CloudInit) -> dict[str, object]:
    config: dict[str, object] = {}
    user: dict[str, object] = {}
    if settings.ssh_keys:
        config["ssh_authorized_keys"] = list(settings.ssh_keys)
        user["ssh_authorized_keys"] = list(settings.ssh_keys)
    if settings.password:
        config |= {"password": settings.password, "ssh_pwauth": True}
        config["chpasswd"] = {"expire": False}
        user |= {"plain_text_passwd": settings.password, "lock_passwd": False}
    if settings.user:
        user |= {"name": settings.user, "shell": "/bin/sh", "sudo": "ALL=(ALL) NOPASSWD:ALL"}
        config["users"] = ["default", user]
    return config


def image(settings: CloudInit, name: str, identity: str, macs: list[str]) -> bytes:
    """The ISO 9660 image."""
    import pycdlib

    files = documents(settings, name, identity, macs)
    disc = pycdlib.PyCdlib()
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
    for at, (title, text) in enumerate(files.items()):
        data = text.encode()
        if len(data) > MAX_USER_DATA:
            raise LimitExceeded(f"{title}: more than {MAX_USER_DATA} bytes")
        disc.add_fp(
            io.BytesIO(data),
            len(data),
            f"/FILE{at}.;1",
            rr_name=title,
            joliet_path=f"/{title}",
        )
    out = io.BytesIO()
    disc.write_fp(out)
    disc.close()
    return out.getvalue()
