"""The Open Virtualization Format: a machine's descriptor, written and read.

What is written is what VMware and VirtualBox read and write themselves: OVF 1.x, one virtual
system, hardware as CIM items, disks as stream-optimised VMDK. What is read is a stranger's: no
document type, no entities, bounded sizes, and names of files that stay in the folder.

Source: DMTF DSP0243 1.1.0; resource types from CIM_ResourceAllocationSettingData.
"""

import re
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, SubElement, register_namespace, tostring

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.machine.full.spec import SECURE

MAX_DOCUMENT = 4 << 20
MAX_FILES = 32
_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
_SECURE_BOOT = "bootOptions.efiSecureBootEnabled"
_VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_CPU, _MEMORY, _IDE, _SCSI, _NIC, _CDROM, _DISK, _SATA = "3 4 5 6 10 15 17 20".split()
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. ()+-]{0,200}")
_UNITS = re.compile(r"byte\s*\*\s*(2\s*\^\s*(?P<power>[0-9]{1,2})|(?P<number>[0-9]{1,15}))")
_WORD_UNITS = {
    "": 1,
    "byte": 1,
    "bytes": 1,
    "kilobytes": 1 << 10,
    "megabytes": 1 << 20,
    "gigabytes": 1 << 30,
    "mb": 1 << 20,
    "gb": 1 << 30,
}
BUSES = {_IDE: "ide", _SCSI: "scsi", _SATA: "sata"}
_OUR_BUSES = frozenset(("virtio", "nvme", "usb"))
_NIC_TYPES = {"virtio": "VirtIO", "e1000": "E1000", "e1000e": "E1000e", "vmxnet3": "VmxNet3"}


class OvfDisk(NamedTuple):
    """A disk: its file in the package ("" for an empty one), the size a guest sees, its bus."""

    file: str
    size: int
    bus: str


class OvfNic(NamedTuple):
    """A network card: the network's name, the model as `spec` knows it."""

    network: str
    model: str


class OvfMachine(NamedTuple):
    """What a descriptor says, as far as it is understood."""

    name: str
    memory: int
    cpus: int
    firmware: str
    disks: tuple[OvfDisk, ...]
    nics: tuple[OvfNic, ...]
    cdroms: int
    sizes: dict[str, int]
    """File name to its declared size, 0 when none is declared."""
    packed: frozenset[str] = frozenset()
    """Files that are compressed by gzip."""


def _o(name: str) -> str:
    return f"{{{_OVF}}}{name}"


def write(machine: OvfMachine, uuid: str) -> bytes:
    """The descriptor. `sizes` holds the files' sizes."""
    for prefix, space in (("ovf", _OVF), ("rasd", _RASD), ("vssd", _VSSD), ("vmw", _VMW)):
        register_namespace(prefix, space)
    root = Element(_o("Envelope"))
    references = SubElement(root, _o("References"))
    disk_section = SubElement(root, _o("DiskSection"))
    SubElement(disk_section, _o("Info")).text = "Virtual disks"
    for at, disk in enumerate(machine.disks, 1):
        size = str(machine.sizes[disk.file])
        file = {_o("id"): f"file{at}", _o("href"): disk.file, _o("size"): size}
        SubElement(references, _o("File"), file)
        values = {"capacity": str(disk.size), "diskId": f"vmdisk{at}", "fileRef": f"file{at}"}
        values["format"] = _VMDK
        SubElement(disk_section, _o("Disk"), {_o(key): value for key, value in values.items()})
    networks = SubElement(root, _o("NetworkSection"))
    SubElement(networks, _o("Info")).text = "Networks"
    for name in dict.fromkeys(nic.network for nic in machine.nics):
        network = SubElement(networks, _o("Network"), {_o("name"): name})
        SubElement(network, _o("Description")).text = name
    system = SubElement(root, _o("VirtualSystem"), {_o("id"): machine.name})
    SubElement(system, _o("Info")).text = "A virtual machine"
    SubElement(system, _o("Name")).text = machine.name
    kind = SubElement(system, _o("OperatingSystemSection"), {_o("id"): "102"})
    SubElement(kind, _o("Info")).text = "Other 64-bit"
    hardware = SubElement(system, _o("VirtualHardwareSection"))
    SubElement(hardware, _o("Info")).text = "Virtual hardware"
    about = SubElement(hardware, _o("System"))
    for key, value in (
        ("ElementName", "Virtual Hardware Family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", machine.name),
        ("VirtualSystemType", "vmx-11"),
    ):
        SubElement(about, f"{{{_VSSD}}}{key}").text = value
    for item in _items(machine):
        element = SubElement(hardware, _o("Item"))
        # The schema wants the properties in alphabetical order.
        for key in sorted(item):
            SubElement(element, f"{{{_RASD}}}{key}").text = item[key]
    said = {"firmware": "efi"} if machine.firmware != "bios" else {}
    if machine.firmware == SECURE:
        said[_SECURE_BOOT] = "true"
    for key, value in said.items():
        config = {_o("required"): "false", f"{{{_VMW}}}key": key, f"{{{_VMW}}}value": value}
        SubElement(hardware, f"{{{_VMW}}}Config", config)
    for at, disk in enumerate(machine.disks):
        if disk.bus not in BUSES.values():
            own = {f"{{{_VMW}}}key": f"skerry.disk{at}.bus", f"{{{_VMW}}}value": disk.bus}
            SubElement(hardware, f"{{{_VMW}}}ExtraConfig", {_o("required"): "false"} | own)
    note = SubElement(system, _o("AnnotationSection"))
    SubElement(note, _o("Info")).text = "Where it comes from"
    SubElement(note, _o("Annotation")).text = f"skerry machine {uuid}"
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + bytes(tostring(root, encoding="utf-8"))


def _items(machine: OvfMachine) -> list[dict[str, str]]:
    megabytes = str(machine.memory >> 20)
    items: list[dict[str, str]] = []

    def add(kind: str, name: str, **more: str) -> str:
        number = str(len(items) + 1)
        items.append({"ElementName": name, "InstanceID": number, "ResourceType": kind} | more)
        return number

    add(_CPU, f"{machine.cpus} virtual CPU(s)", VirtualQuantity=str(machine.cpus),
        AllocationUnits="hertz * 10^6")  # fmt: skip
    add(_MEMORY, f"{megabytes} MB of memory", VirtualQuantity=megabytes,
        AllocationUnits="byte * 2^20")  # fmt: skip
    controllers: dict[str, str] = {}
    counts: dict[str, int] = {}
    for at, disk in enumerate(machine.disks, 1):
        bus = disk.bus if disk.bus in ("ide", "scsi") else "sata"
        if bus not in controllers:
            kind = {name: number for number, name in BUSES.items()}[bus]
            subtype = {"ide": "PIIX4", "scsi": "lsilogic", "sata": "AHCI"}[bus]
            controllers[bus] = add(kind, f"{bus}0", Address="0", ResourceSubType=subtype)
        place = counts[bus] = counts.get(bus, -1) + 1
        add(_DISK, f"disk{at}", AddressOnParent=str(place), Parent=controllers[bus],
            HostResource=f"ovf:/disk/vmdisk{at}")  # fmt: skip
    if machine.cdroms and "sata" not in controllers:
        controllers["sata"] = add(_SATA, "sata0", Address="0", ResourceSubType="AHCI")
    for at in range(machine.cdroms):
        place = counts["sata"] = counts.get("sata", -1) + 1
        add(_CDROM, f"cdrom{at + 1}", AddressOnParent=str(place), Parent=controllers["sata"],
            AutomaticAllocation="false")  # fmt: skip
    for at, nic in enumerate(machine.nics, 1):
        add(_NIC, f"ethernet{at}", AddressOnParent=str(at - 1), AutomaticAllocation="true",
            Connection=nic.network, ResourceSubType=_NIC_TYPES.get(nic.model, "E1000"))  # fmt: skip
    return items


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _child(element: Any, name: str) -> Any:
    return next((each for each in element if _local(str(each.tag)) == name), None)


def _attribute(element: Any, name: str) -> str:
    return next((str(value) for key, value in element.items() if _local(key) == name), "")


def _number(text: str, what: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise InvalidInput(f"OVF: {what} is {text!r:.40}, not a number")
    return int(text)


def _factor(text: str) -> int:
    """Bytes of an allocation unit."""
    word = " ".join(text.lower().split())
    if word in _WORD_UNITS:
        return _WORD_UNITS[word]
    found = _UNITS.fullmatch(word)
    if not found or int(found["power"] or 0) > 60:
        raise InvalidInput(f"OVF: unknown unit {text!r:.60}")
    return 1 << int(found["power"]) if found["power"] else int(found["number"])


def file_name(name: str) -> str:
    """A file of the package: a plain name, no path. InvalidInput."""
    if not _FILE_NAME.fullmatch(name) or name.endswith("."):
        raise InvalidInput(f"OVF: {name!r:.200} is not the name of a file beside the descriptor")
    return name


def parse(data: bytes) -> OvfMachine:
    """A descriptor; InvalidInput, LimitExceeded."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if len(data) > MAX_DOCUMENT:
        raise LimitExceeded(f"OVF: a descriptor of more than {MAX_DOCUMENT} bytes")
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise InvalidInput("OVF: a descriptor with a document type or entities") from None
    except (ParseError, ValueError, LookupError) as error:
        raise InvalidInput(f"OVF: not a descriptor: {error}") from None
    if _local(str(root.tag)) != "Envelope":
        raise InvalidInput(f"OVF: not a descriptor: it begins with {_local(str(root.tag))!r:.40}")
    systems = [each for each in root.iter() if _local(str(each.tag)) == "VirtualSystem"]
    if len(systems) != 1:
        raise InvalidInput(f"OVF: {len(systems)} machines in one package, exactly one is read")
    files, sizes, packed = _files(root)
    machine = _machine(systems[0], _disks(root, files), sizes, _configuration(root))
    return machine._replace(packed=packed)


def _configuration(root: Any) -> str:
    """The one of several sizes that a machine has unless somebody chooses (DSP0243, 9.8)."""
    section = _child(root, "DeploymentOptionSection")
    within = section if section is not None else ()
    found = [each for each in within if _local(str(each.tag)) == "Configuration"]
    chosen = [each for each in found if _attribute(each, "default") in ("true", "1")]
    return next((_attribute(each, "id") for each in (*chosen, *found)), "")


def _files(root: Any) -> tuple[dict[str, str], dict[str, int], frozenset[str]]:
    """File id to name, name to size, and the names of those that are compressed."""
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}
    packed: set[str] = set()
    for each in _child(root, "References") if _child(root, "References") is not None else ():
        if _local(str(each.tag)) != "File":
            continue
        compression = _attribute(each, "compression") or "identity"
        if compression not in ("identity", "gzip"):
            raise InvalidInput(f"OVF: files compressed by {compression!r:.40} are not read")
        if _attribute(each, "chunkSize"):
            raise InvalidInput("OVF: files in chunks are not read", hint="join the chunks first")
        name = file_name(_attribute(each, "href"))
        names[_attribute(each, "id")] = name
        if compression == "gzip":
            packed.add(name)
        sizes[name] = _number(_attribute(each, "size") or "0", "a file's size")
        if len(names) > MAX_FILES:
            raise LimitExceeded(f"OVF: more than {MAX_FILES} files")
    return names, sizes, frozenset(packed)


def _disks(root: Any, files: dict[str, str]) -> dict[str, tuple[str, int]]:
    """Disk id to its file and size."""
    found: dict[str, tuple[str, int]] = {}
    section = _child(root, "DiskSection")
    for each in section if section is not None else ():
        if _local(str(each.tag)) != "Disk":
            continue
        reference = _attribute(each, "fileRef")
        if reference and reference not in files:
            raise InvalidInput(f"OVF: a disk refers to the file {reference!r:.60}, which is none")
        if _attribute(each, "parentRef"):
            raise InvalidInput("OVF: disks that stand on other disks are not read")
        size = _number(_attribute(each, "capacity") or "0", "a disk's capacity")
        size *= _factor(_attribute(each, "capacityAllocationUnits"))
        found[_attribute(each, "diskId")] = (files.get(reference, ""), size)
        if len(found) > MAX_FILES:
            raise LimitExceeded(f"OVF: more than {MAX_FILES} disks")
    return found


def _items_of(hardware: Any, configuration: str) -> list[dict[str, str]]:
    """Each item's properties by name: those that no configuration or ours asks for, and no bounds.

    Where two have one identity, the configuration's is meant.
    """
    found: dict[str, dict[str, str]] = {}
    own: list[tuple[str, dict[str, str]]] = []
    for each in hardware:
        if _local(str(each.tag)) not in ("Item", "StorageItem", "EthernetPortItem"):
            continue
        wanted = _attribute(each, "configuration").split()
        if _attribute(each, "bound") or (wanted and configuration not in wanted):
            continue
        item = {_local(str(part.tag)): (part.text or "").strip() for part in each}
        identity = item.get("InstanceID") or f"#{len(found)}"
        if wanted:
            own.append((identity, item))
        else:
            found[identity] = item
        if len(found) + len(own) > 256:
            raise LimitExceeded("OVF: more than 256 items of hardware")
    return list((found | dict(own)).values())


def _machine(
    system: Any, disks: dict[str, tuple[str, int]], sizes: dict[str, int], configuration: str
) -> OvfMachine:
    name = _child(system, "Name")
    title = (name.text or "").strip() if name is not None else ""
    hardware = _child(system, "VirtualHardwareSection")
    if hardware is None:
        raise InvalidInput("OVF: the machine has no hardware section")
    items = _items_of(hardware, configuration)
    kinds = {item.get("InstanceID", ""): item.get("ResourceType", "") for item in items}
    memory, cpus, cdroms = 0, 0, 0
    found: list[OvfDisk] = []
    nics: list[OvfNic] = []
    for item in items:
        kind, amount = item.get("ResourceType"), item.get("VirtualQuantity", "")
        if kind == _CPU:
            cpus += _number(amount, "the number of processors")
        elif kind == _MEMORY:
            memory += _number(amount, "the memory") * _factor(
                item.get("AllocationUnits") or "MegaBytes"
            )
        elif kind == _DISK:
            identity = item.get("HostResource", "").rpartition("/")[2]
            if identity not in disks:
                raise InvalidInput(f"OVF: the hardware has a disk {identity!r:.60}, which is none")
            bus = BUSES.get(kinds.get(item.get("Parent", ""), ""), "sata")
            found.append(OvfDisk(*disks[identity], bus))
        elif kind == _NIC:
            model = item.get("ResourceSubType", "").lower()
            model = model if model in _NIC_TYPES else "e1000"
            nics.append(OvfNic(item.get("Connection", "")[:100], model))
        elif kind in (_CDROM, "16"):
            cdroms += 1
    extra = _extra(hardware)
    found = [
        disk._replace(bus=extra.get(f"skerry.disk{at}.bus", disk.bus))
        for at, disk in enumerate(found)
    ]
    if not memory or not cpus:
        raise InvalidInput("OVF: the hardware has no processor or no memory")
    return OvfMachine(
        title or _attribute(system, "id"),
        memory,
        cpus,
        _firmware(hardware, system),
        tuple(found),
        tuple(nics),
        min(cdroms, 4),
        sizes,
    )


def _extra(hardware: Any) -> dict[str, str]:
    """What we have said ourselves of disks on buses that the format has no word for."""
    found = {
        _attribute(each, "key"): _attribute(each, "value")
        for each in hardware
        if _local(str(each.tag)) == "ExtraConfig"
    }
    return {key: value for key, value in found.items() if value in _OUR_BUSES}


def _firmware(hardware: Any, system: Any) -> str:
    """VMware's keys in the hardware section, or VirtualBox's element in its own section."""
    told = {
        _attribute(each, "key"): _attribute(each, "value").lower()
        for each in hardware
        if _local(str(each.tag)) == "Config"
    }
    if "firmware" in told:
        secure = told.get(_SECURE_BOOT) == "true"
        return (SECURE if secure else "uefi") if "efi" in told["firmware"] else "bios"
    for each in system.iter():
        if _local(str(each.tag)) == "Firmware":
            return "uefi" if "efi" in _attribute(each, "type").lower() else "bios"
    return "bios"
