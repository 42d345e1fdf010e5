"""The guest's root: this host's Python with its libraries, busybox, pytest, and our own sources.

An uncompressed cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/
buffer-format.rst). Modification times are kept, so that Python trusts its compiled files.
"""

import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

REPOSITORY = Path(__file__).resolve().parents[3]
HOME = "/skerry"
"""Where the repository is in the guest, with an environment like the host's."""
BIN = f"{HOME}/.venv/bin"
SITE = f"{HOME}/.venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
BUSYBOX = "/bin/busybox"
TINI = ("/usr/bin/tini-static", "/usr/bin/docker-init", "/usr/libexec/docker/docker-init")

PYTEST_INI = """[pytest]
addopts = --import-mode=importlib
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers =
    root: needs root
    slow: takes more than ten seconds
"""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
LAUNCHER = """#!@BIN@/python -ISE
import sys
sys.path.insert(1, "@HOME@/src")
sys.argv[0] = "@NAME@"
from @MODULE@ import entry
sys.exit(entry())
"""
PROGRAMS = {"skerry": "skerry.cli.main", "skerry-runtime": "skerry.runtime.main"}

_UNUSED = re.compile(
    r"/(test|tests|idlelib|tkinter|lib2to3|ensurepip|turtledemo|pydoc_data|distutils|venv|wsgiref"
    r"|config-[^/]*|dist-packages|site-packages|xmlrpc|curses|dbm)(/|$)"
    r"|\.opt-[12]\.pyc$|/_(tkinter|curses|dbm|gdbm|test)[^/]*\.so$"
)
_LEFT_OUT = re.compile(
    r"(ast_serialize|certifi|charset_normalizer|click|cryptography|docker|grimp|hypothesis|importlinter"
    r"|librt|markdown_it|mypy|mypyc|pip|pkg_resources|pycparser|requests|rich|ruff|setuptools|urllib3"
    r"|wheel|__pycache__)(-.*)?"
)
"""Packages that neither the engine nor the tests in the guest import."""


class Archive:
    """A cpio archive that is being written; the same path twice is written once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seen: set[str] = set()

    def folder(self, path: str) -> None:
        """A folder and those above it."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            self._entry("/".join(parts[:count]), stat.S_IFDIR | 0o755, b"", 0)

    def data(self, path: str, content: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """A regular file."""
        self.folder(os.path.dirname(path) or "/")
        self._entry(path, stat.S_IFREG | mode, content, mtime)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(os.path.dirname(path) or "/")
        self._entry(path, stat.S_IFLNK | 0o777, target.encode(), 0)

    def copy(self, source: str | Path, path: str = "") -> None:
        """A file of the host, links followed, by default to the same place."""
        status = os.stat(source)
        with open(source, "rb") as file:
            self.data(
                path or str(source), file.read(), status.st_mode & 0o777, int(status.st_mtime)
            )

    def close(self) -> None:
        """The end mark."""
        self._entry("TRAILER!!!", 0, b"", 0)

    def _entry(self, path: str, mode: int, content: bytes, mtime: int) -> None:
        path = path.strip("/")
        if path in self._seen or not path:
            return
        self._seen.add(path)
        name = path.encode() + b"\0"
        numbers = (len(self._seen), mode, 0, 0, 1, mtime, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._file.write(head + b"\0" * (-len(head) % 4))
        self._file.write(content)
        self._file.write(b"\0" * (-len(content) % 4))


def write(target: Path, modules: Iterable[Path], tests: Iterable[str]) -> None:
    """Write the whole root to `target`: it loads `modules` and runs `tests` (paths in the
    repository)."""
    here = Path(__file__).parent
    with open(target, "wb") as file:
        archive = Archive(file)
        for folder in (
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "root",
            "r",
            "etc",
            "usr/bin",
            "usr/lib",
        ):
            archive.folder(folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            archive.link(name, f"usr/{name}")
        archive.data(
            "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        )
        archive.data("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        archive.copy(BUSYBOX, "usr/bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
        for applet in applets.stdout.split():
            archive.link(f"usr/bin/{applet}", "busybox")
        for module in modules:
            archive.copy(module, f"modules/{module.name}")
        archive.data("modules/order", "".join(f"{m.name}\n" for m in modules).encode())
        archive.data(f"{HOME}/pytest.ini", PYTEST_INI.encode())
        archive.link(f"{BIN}/python", "/usr/bin/python3")
        for name, module in PROGRAMS.items():
            text = LAUNCHER.replace("@BIN@", BIN).replace("@HOME@", HOME)
            text = text.replace("@NAME@", name).replace("@MODULE@", module)
            archive.data(f"{BIN}/{name}", text.encode(), 0o755)
        archive.data("environment", f"PYTHONPATH={SITE}:{HOME}/src:/usr/lib/guest\n".encode())
        archive.data("tests", "".join(f"{test}\n" for test in tests).encode())
        for program in filter(os.path.exists, TINI):
            archive.copy(program)
        archive.copy(here / "init.sh", "init")
        archive.copy(here / "guest_report.py", "usr/lib/guest/guest_report.py")
        for source, path in _python():
            archive.copy(source, path)
        for source, path in _ours():
            archive.copy(source, path)
        archive.close()


def _python() -> Iterator[tuple[str, str]]:
    """The interpreter, its library, the test runner, and every shared library that these need."""
    interpreter = os.path.realpath(sys.executable)
    yield interpreter, "usr/bin/python3"
    library = sysconfig.get_path("stdlib")
    needed = [interpreter]
    for path in _tree(library):
        if not _UNUSED.search(path[len(library) :]):
            yield path, path
            if path.endswith(".so"):
                needed.append(path)
    site = sysconfig.get_path("purelib")
    for name in sorted(os.listdir(site)):
        if _LEFT_OUT.fullmatch(name.removesuffix(".dist-info")):
            continue
        whole = f"{site}/{name}"
        for path in _tree(whole) if os.path.isdir(whole) else (whole,):
            yield path, f"{SITE}{path[len(site) :]}"
            if path.endswith(".so"):
                needed.append(path)
    for path in _shared_libraries(needed):
        # Written below the link /lib64, it would go nowhere.
        yield path, f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"


def _ours() -> Iterator[tuple[str, str]]:
    for folder in ("src", "tests", "bench"):
        root = REPOSITORY / folder
        for path in _tree(str(root)):
            if path.endswith((".py", ".pyc", ".json", ".typed")):
                yield path, f"{HOME}/{folder}{path[len(str(root)) :]}"


def _tree(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (f"{place}/{name}" for name in sorted(files))


def _shared_libraries(programs: list[str]) -> list[str]:
    """What the dynamic linker would load (ldd(1)), and the linker itself."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(?:=> |^\s+)(/[^\s]+)", said, re.MULTILINE)))
