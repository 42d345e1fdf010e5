"""`vm clone`, `edit`, `export`, `import`: machines copied, changed, packed."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, NotFound
from skerry.cli import vm_create
from skerry.cli.commands.vm import path
from skerry.cli.context import Context, out, write
from skerry.cli.options import Command, Parsed, many, number, switch, text
from skerry.cli.values import key_values, parse_size
from skerry.sdk import wire
from skerry.sdk.client import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_BLOCK = 1 << 18
_FORMATS = ("ova", "ovf", "qcow2", "raw", "vdi", "vhdx", "vmdk")


def clone(context: Context, parsed: Parsed) -> int:
    """Copy a machine."""
    source, *rest = parsed.arguments
    body = {"linked": parsed.on("linked"), "snapshot": parsed.text("snapshot")}
    made = context.client.post(path(source, f"/clone{query(name=''.join(rest))}"), body)
    out(made["Id"] if rest else made["Name"])
    return 0


def edit(context: Context, parsed: Parsed) -> int:
    """Change a machine."""
    body = vm_create.changes(parsed)
    if parsed.text("name"):
        body["name"] = parsed.text("name")
    if parsed.many("add-disk"):
        body["add_disks"] = [vm_create.disk(each) for each in parsed.many("add-disk")]
    if parsed.many("detach"):
        body["detach"] = parsed.many("detach")
    if "add-cdrom" in parsed.given:
        body["add_cdroms"] = parsed.number("add-cdrom")
    if parsed.many("resize"):
        sizes = key_values(parsed.many("resize"), "size")
        body["sizes"] = {disk: parse_size(size, "disk size") for disk, size in sizes.items()}
    if parsed.many("disc"):
        if bare := next((each for each in parsed.many("disc") if "=" not in each), ""):
            raise InvalidInput(
                f"invalid disc: {bare!r:.200}", hint=f"{bare}=ISO, or {bare}= to eject"
            )
        discs = key_values(parsed.many("disc"), "disc")
        body["discs"] = {drive: vm_create.absolute(image) for drive, image in discs.items()}
    if not body:
        raise InvalidInput("nothing to change was given")
    context.client.post(path(parsed.arguments[0], "/update"), body)
    out(parsed.arguments[0])
    return 0


def export_form(target: str, form: str, disk: str) -> str:
    """The format that is asked for, by its name or by the file's; ova is the default. ovf is an
    ova that is unpacked. InvalidInput."""
    ending = os.path.splitext(target)[1][1:].lower()
    form = form.lower() or {"img": "raw"}.get(ending, ending if ending in _FORMATS else "ova")
    if form not in _FORMATS:
        raise InvalidInput(f"unknown format: {form!r:.40}", hint=", ".join(_FORMATS))
    if disk and form in ("ova", "ovf"):
        raise InvalidInput(
            "packages hold every disk", hint="a single one goes out as qcow2, raw, vdi, vhdx, vmdk"
        )
    return form


def export(context: Context, parsed: Parsed) -> int:
    """Write a machine as an OVA, or as an OVF and its files, or one of its disks."""
    name, disk = parsed.arguments[0], parsed.text("disk")
    form = export_form(parsed.text("output"), parsed.text("format"), disk)
    target = parsed.text("output") or f"{name}.{form}"
    if form == "ovf" and target == "-":
        raise InvalidInput("an OVF and its files are several", hint="-o - writes an OVA")
    tail = query(format="ova" if form == "ovf" else form, disk=disk or None)
    response = context.client.open("GET", path(name, f"/export{tail}"))
    try:
        chunks = response.chunks()
        if target == "-":
            for chunk in chunks:
                write(1, chunk)
            return 0
        if form == "ovf":
            _unpack(target, chunks)
        else:
            _save(target, chunks)
    finally:
        response.connection.close()
    out(target)
    return 0


def _save(target: str, chunks: Iterator[bytes]) -> None:
    part = f"{target}.{os.getpid()}.part"
    try:
        with open(part, "xb") as file:
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if chunk.count(0) == len(chunk):
                    file.seek(size)  # a hole
                else:
                    file.write(chunk)
            file.truncate(size)
        os.rename(part, target)
    except OSError as error:
        raise InvalidInput(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _unpack(target: str, chunks: Iterator[bytes]) -> None:
    """The archive's files beside one another; the descriptor gets the name that was asked for."""
    import tarfile

    from skerry.sdk.unpack import ChunkFile

    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    try:
        with tarfile.open(fileobj=ChunkFile(chunks), mode="r|") as tar:  # type: ignore[call-overload]
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                if file is None or "/" in info.name or info.name.endswith(".mf"):
                    continue
                whole = target if info.name.endswith(".ovf") else os.path.join(folder, info.name)
                with open(whole, "wb") as written:
                    while data := file.read(_BLOCK):
                        written.write(data)
    except (OSError, tarfile.TarError) as error:
        raise InvalidInput(f"cannot write {target}: {error}") from None


def import_(context: Context, parsed: Parsed) -> int:
    """Make a machine from an OVA or an OVF."""
    source = parsed.arguments[0]
    name = parsed.arguments[1] if len(parsed.arguments) > 1 else ""
    chunks = _packed(source) if source.endswith(".ovf") else _chunks(source)
    response = context.client.open(
        "POST",
        f"/skerry/vms/import{query(name=name)}",
        chunks,
        {"Content-Type": "application/x-tar"},
    )
    try:
        made = wire.loads(response.read())
    finally:
        response.connection.close()
    out(made["Name"])
    return 0


def _chunks(source: str) -> Iterator[bytes]:
    if not os.path.isfile(source):
        raise NotFound(f"no such package: {source}")

    def read() -> Iterator[bytes]:
        with open(source, "rb") as file:
            while data := file.read(_BLOCK):
                yield data

    return read()


def _packed(source: str) -> Iterator[bytes]:
    """An OVF and the files beside it that it names, as the archive that the engine reads."""
    import re
    import tarfile

    try:
        with open(source, "rb") as file:
            descriptor = file.read(4 << 20)
    except OSError as error:
        raise NotFound(f"cannot read {source}: {error.strerror}") from None
    folder = os.path.dirname(os.path.abspath(source))
    names = [name.decode() for name in re.findall(rb'href="([A-Za-z0-9_. ()+-]+)"', descriptor)]
    manifest = os.path.basename(source).removesuffix(".ovf") + ".mf"
    if os.path.isfile(os.path.join(folder, manifest)):
        names.insert(0, manifest)

    def archive() -> Iterator[bytes]:
        for name in (os.path.basename(source), *dict.fromkeys(names)):
            whole = os.path.join(folder, name)
            if not os.path.isfile(whole):
                raise NotFound(f"{source} names {name}, which is not beside it")
            info = tarfile.TarInfo(name)
            info.size = os.path.getsize(whole)
            yield info.tobuf(tarfile.GNU_FORMAT)
            yield from _chunks(whole)
            yield bytes(-info.size % 512)
        yield bytes(1024)

    return archive()


EDIT: Any = (
    *vm_create.COMMON,
    text("name", "Another name", "NAME"),
    many("add-disk", "Another disk, as --disk of create", "DISK", complete="files"),
    many("add-nic", "Another network card, as --nic, which replaces all", "KIND"),
    many("add-share", "As --share, which replaces all; the tag is its name", "PATH"),
    many("unpublish", "Forward a port of the host no more: 8080, 5353/udp", "PORT"),
    many("detach", "Take a disk (snapshots keep it), drive, card (net0) or shared folder away",
         "DEVICE"),
    many("resize", "Make a disk larger", "DISK=SIZE"),
    number("add-cdrom", "So many more drives"),
    many("disc", "Put a disc into a drive, also while it runs; nothing after = ejects",
         "DRIVE=ISO"),
)  # fmt: skip
COMMANDS = {
    "vm clone": Command(
        clone,
        "Copy a machine",
        "MACHINE [NAME]",
        (
            switch("linked", "Stand on the original's disks instead of copying them"),
            text("snapshot", "Copy this snapshot, not the present", "SNAPSHOT"),
        ),
        least=1,
        most=2,
        complete="machines",
    ),
    "vm edit": Command(
        edit, "Change a machine", "MACHINE", EDIT, least=1, most=1, complete="machines"
    ),
    "vm export": Command(
        export,
        "Write a machine as OVA or OVF, or one of its disks",
        "MACHINE",
        (text("output", "The file (default MACHINE.ova); - is standard output", "FILE", "o"),
         text("format", "ova, ovf, or a disk's: qcow2, raw, vdi, vhdx, vmdk (default: as the "
              "file is called)", "FORMAT"),
         text("disk", "Which disk, where there are several: disk0", "DISK")),
        least=1,
        most=1,
        complete="machines",
    ),
    "vm import": Command(
        import_,
        "Make a machine from an OVA or OVF",
        "FILE [NAME]",
        least=1,
        most=2,
        complete="files",
    ),
}  # fmt: skip
