"""`vm create` and `vm edit`: from options to the API's body."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli.options import Option, Parsed, many, number, switch, text
from skerry.cli.values import parse_size, read_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMON: tuple[Option, ...] = (
    text("memory", "Memory: 512m, 2g (default 512m)", "SIZE", "m"),
    number("cpus", "Processors (default 1)"),
    text("cpu", "Processor model as QEMU names it", "MODEL"),
    text("machine", "Machine type: q35 (default) or pc", "TYPE"),
    text("accel", "Accelerator: auto (default), kvm or tcg", "NAME"),
    text("boot", "Order of boot devices (default disk,cdrom,network)", "LIST"),
    text("video", "Screen: std (default), virtio, qxl, cirrus or none", "CARD"),
    text("vnc", "Where the screen is shown: unix (default) or 127.0.0.1:DISPLAY", "ADDRESS"),
    text("vnc-password", "At most 8 characters, for an address", "TEXT"),
    switch("usb", "Have a USB 3 controller and a tablet as pointer"),
    switch("sound", "Have an HD Audio card (its sound is not heard)"),
    switch("tpm", "Have a TPM 2.0 (needs swtpm)"),
    switch("autostart", "Start it with the host"),
    number("autostart-order", "Its turn among them: lower ones first (default 0)"),
    number("autostart-delay", "Seconds to wait before it is started", "SECONDS"),
    many(
        "nic", "Network card: nat, bridge=NAME, internal=NAME or none, with ,mac=… ,model=…", "KIND"
    ),
    many("publish", "Forward a port to the first NAT card: [IP:]HOST:GUEST[/udp]", "PORT", "p"),
    many("share", "Share a folder: PATH[:TAG][,ro][,driver=9p]", "PATH"),
)
CREATE: tuple[Option, ...] = (
    *COMMON,
    text("firmware", "Firmware: bios (default), uefi or uefi-secure (Secure Boot)", "KIND"),
    many("disk", "An empty disk or a copy of an image: SIZE, PATH, or both: PATH,size=20g,bus=…",
         "DISK", complete="files"),
    many("cdrom", "A disc image; empty for an empty drive", "ISO", complete="files"),
    switch("cloud-init", "Give it cloud-init data"),
    text("user", "User that cloud-init makes", "NAME"),
    text("password", "Password that cloud-init sets", "TEXT"),
    many("ssh-key", "Public key, or file with keys, for cloud-init", "KEY", complete="files"),
    text("hostname", "Host name for cloud-init (default: the machine's name)", "NAME"),
    text("user-data", "Whole user-data file for cloud-init instead", "FILE", complete="files"),
    text("meta-data", "Whole meta-data file for cloud-init instead", "FILE", complete="files"),
    text("network-config", "Whole network-config file for cloud-init", "FILE", complete="files"),
    switch("start", "Start it at once"),
)  # fmt: skip
_TEXTS = ("cpu", "machine", "accel", "video", "vnc", "firmware")


def body(parsed: Parsed) -> dict[str, Any]:
    """The body of a request to create; only what was given."""
    wanted = common(parsed)
    if parsed.many("disk"):
        wanted["disks"] = [disk(each) for each in parsed.many("disk")]
    if parsed.many("cdrom"):
        wanted["cdroms"] = [absolute(each) for each in parsed.many("cdrom")]
    seed = _cloud_init(parsed)
    if seed is not None:
        wanted["cloud_init"] = seed
    return wanted


def common(parsed: Parsed) -> dict[str, Any]:
    """What can be changed later as well."""
    wanted: dict[str, Any] = {name: parsed.text(name) for name in _TEXTS if parsed.text(name)}
    if parsed.text("memory"):
        wanted["memory"] = parse_size(parsed.text("memory"), "memory")
    if "cpus" in parsed.given:
        wanted["cpus"] = parsed.number("cpus")
    if "boot" in parsed.given:
        wanted["boot"] = parsed.text("boot").split(",")
    if "vnc-password" in parsed.given:
        wanted["vnc_password"] = parsed.text("vnc-password")
    for name in ("usb", "sound", "tpm", "autostart"):
        if name in parsed.given:
            wanted[name] = parsed.on(name)
    for name in ("autostart-order", "autostart-delay"):
        if name in parsed.given:
            wanted[name.replace("-", "_")] = parsed.number(name)
    nics = [nic(each) for each in parsed.many("nic")]
    ports = [forward(each) for each in parsed.many("publish")]
    if ports:
        nics = nics or [{"kind": "nat"}]
        first = next((each for each in nics if each["kind"] == "nat"), None)
        if first is None:
            raise InvalidInput("ports are forwarded to a NAT network card, and there is none")
        first["forwards"] = ports
    if nics:
        wanted["nics"] = nics
    if parsed.many("share"):
        wanted["shares"] = [
            share(each, f"share{at}") for at, each in enumerate(parsed.many("share"))
        ]
    return wanted


def changes(parsed: Parsed) -> dict[str, Any]:
    """What `common` can have, and what is added to cards, ports and folders that are there."""
    wanted = common(parsed)
    if parsed.many("publish") and not parsed.many("nic"):
        wanted["add_forwards"] = wanted.pop("nics")[0]["forwards"]
    if parsed.many("unpublish"):
        ports = parsed.many("unpublish")
        wanted["drop_forwards"] = [port if "/" in port else f"{port}/tcp" for port in ports]
    if parsed.many("add-nic"):
        wanted["add_nics"] = [nic(each) for each in parsed.many("add-nic")]
    if parsed.many("add-share"):
        wanted["add_shares"] = [share(each) for each in parsed.many("add-share")]
    return wanted


def absolute(path: str) -> str:
    """As the engine has to be told, which runs elsewhere."""
    return os.path.abspath(path) if path else ""


def _options(text_: str, what: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`first,name=value,…`; only the last parts that look like options are."""
    parts = text_.split(",")
    found: dict[str, str] = {}
    while len(parts) > 1:
        name, _, value = parts[-1].partition("=")
        if name not in known:
            break
        found[name] = value
        parts.pop()
    first = ",".join(parts)
    if not first:
        raise InvalidInput(f"invalid {what}: {text_!r:.200}")
    return first, found


def disk(text_: str) -> dict[str, Any]:
    """`20g`, `image.qcow2`, `image.vmdk,size=20g,bus=sata`; also `path=…` and `size=…` in front."""
    name, _, value = text_.partition("=")
    if name in ("path", "size"):
        text_ = value
    first, options = _options(text_, "disk", ("size", "bus", "format"))
    wanted: dict[str, Any] = {name: options[name] for name in ("bus", "format") if name in options}
    if options.get("size"):
        wanted["size"] = parse_size(options["size"], "disk size")
    if os.path.exists(first):
        wanted["source"] = absolute(first)
        return wanted
    try:
        wanted["size"] = parse_size(first, "disk size")
    except InvalidInput:
        head, comma, rest = first.rpartition(",")
        if comma and "=" in rest and (os.path.exists(head) or head[:1].isdecimal()):
            raise InvalidInput(
                f"unknown option of a disk: {rest:.80}", hint="known are size, bus and format"
            ) from None
        raise NotFound(
            f"no such disk image: {first}", hint="an empty disk is given by its size: 20g"
        ) from None
    return wanted


def nic(text_: str) -> dict[str, Any]:
    """`nat`, `bridge=br0,mac=…`, `internal=lab`, `none`."""
    first, options = _options(text_, "network card", ("mac", "model"))
    kind, _, network = first.partition("=")
    wanted: dict[str, Any] = {"kind": kind} | options
    if network:
        wanted["network"] = network
    return wanted


def forward(text_: str) -> dict[str, Any]:
    """`8080:80`, `0.0.0.0:8080:80/tcp`."""
    ports, _, protocol = text_.partition("/")
    parts = ports.split(":")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts[-2:]):
        raise InvalidInput(
            f"invalid port: {text_!r:.80}", hint="write it as [IP:]HOST:GUEST, 8080:80"
        )
    wanted: dict[str, Any] = {"host_port": int(parts[-2]), "guest_port": int(parts[-1])}
    if len(parts) == 3:
        wanted["host_ip"] = parts[0]
    if protocol:
        wanted["protocol"] = protocol
    return wanted


def share(text_: str, tag_: str = "") -> dict[str, Any]:
    """`/home/me/src:src,ro`; the tag is `tag_`, or the folder's name, when none is given."""
    first, options = _options(text_, "shared folder", ("ro", "driver"))
    path, _, tag = first.partition(":")
    whole = absolute(path)
    wanted: dict[str, Any] = {"path": whole, "tag": tag or tag_ or os.path.basename(whole)}
    if "ro" in options:
        wanted["readonly"] = True
    if "driver" in options:
        wanted["driver"] = options["driver"]
    return wanted


def _cloud_init(parsed: Parsed) -> dict[str, Any] | None:
    documents = {"user-data": "user_data", "meta-data": "meta_data", "network-config": "network"}
    names = ("user", "password", "ssh-key", "hostname", *documents)
    if not parsed.on("cloud-init") and not any(name in parsed.given for name in names):
        return None
    wanted: dict[str, Any] = {
        name: parsed.text(name) for name in ("user", "password", "hostname") if parsed.text(name)
    }
    keys: list[str] = []
    for key in parsed.many("ssh-key"):
        keys += _keys(key)
    if keys:
        wanted["ssh_keys"] = keys
    for option, name in documents.items():
        if parsed.text(option):
            wanted[name] = _document(parsed.text(option))
    return wanted


def _keys(given: str) -> list[str]:
    """A public key, or a file with some."""
    if not os.path.exists(given):
        if " " not in given:
            raise NotFound(f"neither a public SSH key nor a file with some: {given:.200}")
        return [given]
    lines = read_lines(given, "SSH key")
    if lines and lines[0].startswith("-----BEGIN"):
        raise InvalidInput(
            f"{given} is a private key", hint=f"the public one is likely {given}.pub"
        )
    return lines


def _document(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(2 << 20)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(f"cannot read {path}: {reason}") from None
