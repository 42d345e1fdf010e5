"""The guest kit: a kernel and an initramfs that holds the agent. Made on first use, kept, checked.

    <root>/kit/<digest>/{vmlinux,initramfs,manifest.json}
    <root>/kit/linux-image-…/               the distribution's package, unpacked

The agent runs on the interpreter that runs the engine, with exactly the modules that it imports, so
the plans that both exchange are of one version. A small compiled program comes before it where the
host has a compiler (`compiled`). `<digest>` is over everything that goes in: another
kernel, interpreter or skerry makes another kit. The manifest holds the files' SHA-256; whoever
opens a kit compares them, and starts machines from the very descriptors it has read.
"""

import fcntl
import hashlib
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import skerry
from skerry.base.errors import DigestMismatch, SkerryError, SystemFault
from skerry.machine import compiled, linux
from skerry.machine.cpio import Archive
from skerry.machine.guest import serving
from skerry.machine.planning import GUEST_INIT
from skerry.runtime import tiny_init

EARLY_MODULES = ("virtio_pci", "virtio_console")
"""Until the agent can speak."""
MODULES = (
    *("virtio_blk", "virtio_net", "crc32c_generic"),
    *("erofs", "ext4", "overlay", "virtiofs", "virtio_mem"),
)
"""Loaded while the template is made. File systems ask for CRC32C by a name, not as a dependency."""
_AGENT = "skerry.machine.guest.agent"
_LATE = (
    *("skerry.machine.guest.programs", "skerry.machine.guest.serving"),
    *("encodings.idna", "traceback"),
)
"""What is imported only when it is needed."""
_LEFT_OUT = ("skerry.kernel.kvm_probe", "skerry.kernel.host_probe", "skerry.kernel.seccomp_")
_SHEBANG = "#!/usr/bin/python3 -ISE\n"
_AGENT_SCRIPT = """import sys
sys.path.insert(0, "/usr/lib/skerry")
from skerry.machine.guest.agent import main
main()
"""
VMLINUX, INITRAMFS, MANIFEST = "vmlinux", "initramfs", "manifest.json"


class Kit(NamedTuple):
    """A kit whose files were checked. The descriptors belong to the caller."""

    digest: str
    kernel: int
    initramfs: int
    late_modules: list[str]
    contents: str
    """Over what is in it, wherever it was made: two kits with the same run the same guest."""

    def close(self) -> None:
        """Close both."""
        os.close(self.kernel)
        os.close(self.initramfs)


def open_kit(folder: Path, kernel: str = "") -> Kit:
    """The kit below `folder`, made now if there is none for what is installed; blocks.

    `kernel` is the user's own (see `linux.own`), empty for the distribution's. DigestMismatch when
    a file is not what it was when it was made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = _digest(folder, kernel)
        target = folder / digest
        if not (target / MANIFEST).exists():
            _make(folder, target, kernel)
    return _checked(target, digest)


def find(folder: Path, kernel: str = "") -> str:
    """The digest of the kit that `open_kit` would open without making it; empty when it would make
    one, or fetch what it is made from. Blocks."""
    if not kernel and not any(folder.glob("linux-image-*")):
        return ""
    digest = _digest(folder, kernel)
    return digest if (folder / digest / MANIFEST).exists() else ""


def unused(folder: Path) -> list[Path]:
    """All kits but the one that was opened last, and what was left half made; none while one is
    being made. The distribution's packages stay: kits are made from them without a network."""
    try:
        with open(folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kits = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
            return [*(path.parent for path in kits[:-1]), *folder.glob(".new-*")]
    except OSError:
        return []


def _checked(target: Path, digest: str) -> Kit:
    manifest = json.loads((target / MANIFEST).read_bytes())
    fds: list[int] = []
    try:
        for name in (VMLINUX, INITRAMFS):
            fds.append(os.open(target / name, os.O_RDONLY | os.O_CLOEXEC))
            if _sha256(fds[-1]) != manifest[name]:
                raise DigestMismatch(
                    f"{target / name} is not what it was when it was made",
                    hint=f"remove {target}: it is made anew at the next start",
                )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    os.utime(target / MANIFEST)  # `unused` keeps the one that was opened last.
    return Kit(digest, fds[0], fds[1], list(manifest["late_modules"]), str(manifest["contents"]))


def _sha256(fd: int) -> str:
    with open(fd, "rb", closefd=False) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    os.lseek(fd, 0, os.SEEK_SET)
    return found


def _digest(folder: Path, kernel: str) -> str:
    """Over what a kit is made of, by names, sizes and times."""
    found = hashlib.sha256(f"3 {sys.version}".encode())
    here = sorted(folder.glob("linux-image-*"))
    if kernel:
        source = linux.own(Path(kernel))
    else:
        source = linux.unpacked(here[-1]) if here else linux.fetch(folder)
    paths = [source.image, Path(os.path.realpath(sys.executable))]
    if source.modules:
        paths.append(source.modules)
    ours = Path(os.path.abspath(skerry.__file__)).parent
    for part in ("base", "kernel", "runtime", "machine", "store"):
        paths += sorted((ours / part).rglob("*.py"))
    paths += [compiled.SOURCE, *(Path(path) for path in (compiled.compiler(),) if path)]
    for path in paths:
        status = path.stat()
        found.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:32]


def _make(folder: Path, target: Path, kernel: str) -> None:
    package = linux.own(Path(kernel)) if kernel else linux.fetch(folder)
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        (fresh / VMLINUX).write_bytes(linux.elf_image(package.image.read_bytes()))
        early = package.module_files(EARLY_MODULES)
        late = package.module_files((*EARLY_MODULES, *MODULES))
        late = [module for module in late if module not in early]
        if not kernel:  # What insists on signatures may be the user's own.
            early, late = [each.bare() for each in early], [each.bare() for each in late]
        # Not compressed: to unpack it takes an emulated processor longer than QEMU to read it.
        with open(fresh / INITRAMFS, "wb") as file:
            contents = _write_initramfs(Archive(file), early, late)
        manifest: dict[str, object] = {"late_modules": [module.name for module in late]}
        for name in (VMLINUX, INITRAMFS):
            manifest[name] = hashlib.sha256((fresh / name).read_bytes()).hexdigest()
        # Not the initramfs itself: compiled modules differ with what their compiler did before.
        contents.update(str(manifest[VMLINUX]).encode())
        manifest["contents"] = contents.hexdigest()[:32]
        (fresh / MANIFEST).write_text(json.dumps(manifest))
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_initramfs(
    archive: Archive, early: list[linux.Module], late: list[linux.Module]
) -> "hashlib._Hash":
    """The digest is over what was written, of modules over their sources."""
    digest = hashlib.sha256(sys.version.encode())

    def note(path: str, data: bytes) -> bytes:
        digest.update(f"{path} {len(data)}\n".encode())
        digest.update(data)
        return data

    folders = ("proc", "sys", "dev", "run", "tmp", "r", "etc", "usr/bin", "usr/lib", "layers")
    for folder in (*folders, "rw", "volumes"):
        archive.folder(folder)
    for name in ("bin", "lib", "lib64"):
        archive.link(name, f"usr/{name}")
    add_first(archive, note)
    archive.data("modules/early", "\n".join(module.name for module in early).encode())
    for module in (*early, *late):
        archive.data(f"modules/{module.name}", note(module.name, module.data))
    with suppress(SkerryError):
        archive.data(GUEST_INIT, Path(tiny_init.find_init()).read_bytes(), 0o755)
    interpreter = os.path.realpath(sys.executable)
    needed = [interpreter]
    for path, content, source in _modules():
        note(path, source)
        archive.data(path, content)
        if path.endswith(".so"):
            needed.append(path)
    archive.data(interpreter, note(interpreter, Path(interpreter).read_bytes()), 0o755)
    archive.link("usr/bin/python3", interpreter)
    for library in shared_libraries(needed):
        # Written below the link /lib64, it would go nowhere.
        real = f"{os.path.realpath(os.path.dirname(library))}/{os.path.basename(library)}"
        archive.data(real, note(real, Path(library).read_bytes()), 0o755)
    archive.close()
    return digest


def add_first(archive: Archive, note: Callable[[str, bytes], bytes]) -> None:
    """`/init` and the agent; `note` hears of what a kit is made of. SystemFault as `compiled`."""
    compiler = compiled.compiler()
    if not compiler:
        archive.data("init", f"{_SHEBANG}{_AGENT_SCRIPT}".encode(), 0o755)
        return
    note("serve.c", compiled.SOURCE.read_bytes())
    made = compiled.build(compiler)
    archive.data("init", made.first, 0o755)
    archive.data(serving.LIBRARY, made.library, 0o755)
    archive.data("agent", _AGENT_SCRIPT.encode())


def _own_modules() -> list[str]:
    """Every module that the agent's code may import only when it needs it."""
    ours = Path(os.path.abspath(skerry.__file__)).parent
    files = [*ours.glob("kernel/*.py"), *ours.glob("runtime/*.py"), *ours.glob("runtime/init/*.py")]
    names = (".".join(("skerry", *path.relative_to(ours).with_suffix("").parts)) for path in files)
    return sorted(
        name
        for name in names
        if not name.endswith(("__init__", "__main__")) and not name.startswith(_LEFT_OUT)
    )


def _modules() -> Iterator[tuple[str, bytes, bytes]]:
    """(path in the guest, contents, source) of every module that the agent imports, compiled."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(skerry.__file__)))
    wanted = (_AGENT, *_LATE, *_own_modules())
    code = (
        f"import sys; sys.path.insert(0, {ours!r}); import importlib, types; "
        # A store without its heavy front: the agent packs and unpacks with a few of its modules.
        "store = types.ModuleType('skerry.store'); sys.modules['skerry.store'] = store; "
        f"store.__path__ = [{ours + '/skerry/store'!r}]; "
        f"[importlib.import_module(name) for name in {wanted!r}]; "
        "print(*sorted({m.__file__ for m in sys.modules.values() if getattr(m, '__file__', '')}),"
        " sep='\\n')"
    )
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-ISE", "-c", code],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemFault(f"the agent cannot be loaded here: {done.stderr.strip()[-500:]}")
    with tempfile.NamedTemporaryFile(suffix=".pyc") as compiled:
        for path in done.stdout.split():
            if path.endswith(".so"):
                yield path, (data := Path(path).read_bytes()), data
                continue
            place = path
            if path.startswith(ours):
                place = f"/usr/lib/skerry{path[len(ours) :]}"
            py_compile.compile(
                path,
                cfile=compiled.name,
                dfile=place,
                optimize=2,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            yield f"{place}c", Path(compiled.name).read_bytes(), Path(path).read_bytes()
    # The interpreter looks for its library by this file.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = os.path.dirname(os.__file__)
    yield f"{library}/os.py", b"", b""
    yield "/usr/lib/skerry/skerry/store/__init__.py", b"", b""
    yield f"{library}/lib-dynload/.keep", version.encode(), b""


def shared_libraries(programs: list[str]) -> list[str]:
    """What the dynamic linker would load (ldd(1)), and the linker itself."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(?:=> |^\s+)(/[^\s]+)", said, re.MULTILINE)))
