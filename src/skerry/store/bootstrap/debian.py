"""The `debian` images: a minimal system by mmdebstrap, or by debootstrap where that is missing.

The packages come from the mirrors that the host's own apt uses, verified with Debian's archive
keys. What the tools leave that is not the distribution's is removed: package lists, logs, caches,
the host's name and resolver, machine ids. No file is newer than the newest file of a package, so
the same packages give the same image whenever it is made.
"""

import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from skerry.base.errors import InvalidInput, SystemFault, Unavailable, Unsupported
from skerry.store.bootstrap import signature
from skerry.store.bootstrap.apt import Sources, host_sources, proxies
from skerry.store.bootstrap.base import Report, make_image, tell, write_file
from skerry.store.trees import remove_tree

if TYPE_CHECKING:
    from skerry.store.images import Images

_SUITE: Final = re.compile(r"[a-z][a-z0-9.-]{0,40}")
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]{1,100}(?::[a-z0-9]+)?")
_URL: Final = re.compile(r"https?://[!-~]{1,1000}")
_ROLLING: Final = frozenset({"sid", "unstable", "testing", "experimental"})
_EMPTIED: Final = (
    "run",
    "tmp",
    "var/tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/lib/dbus",
)
_REMOVED: Final = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/.pwd.lock",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dpkg/available",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/apt/extended_states.lock",
    "var/lib/systemd/random-seed",
)
_DAY: Final = 86400
_LOOK_MS: Final = 500
"""Milliseconds between looks whether the image is still wanted."""


class Request(NamedTuple):
    """What to make. An empty mirror means the host's, an empty key those of Debian."""

    suite: str
    include: tuple[str, ...]
    mirror: str
    key: str = ""
    """Path of the OpenPGP public key that signs the mirror."""


def make(
    images: "Images",
    tag: str,
    request: Request,
    progress: Report | None,
    wanted: Callable[[], bool] = lambda: True,
) -> str:
    """The image's id. Unsupported without the tools, SystemFault with their last words,
    Unavailable when it is not `wanted` any more."""
    _check(request)
    keyring = signature.keyring_of(request.key) if request.key else b""
    sources = host_sources(request.suite, rolling=request.suite in _ROLLING)
    if request.mirror:
        sources = sources._replace(main=request.mirror, security="")
    with images.leases.hold(), images.scratch.folder("debian") as folder:
        tree = os.path.join(folder, "rootfs")
        os.chmod(folder, 0o755)
        ring = _write_keyring(folder, keyring) if keyring else ""
        command = _command(request, sources, tree, ring)
        _run(command, sources.lines(ring), progress, wanted)
        created = _newest(tree)
        _clean(tree, sources, created)
        with open(os.path.join(tree, "etc/debian_version"), encoding="utf-8") as file:
            version = file.read().strip()
        tell(progress, f"packing {tag} (Debian {version})")
        with_packages = "".join(f" --include {name}" for name in sorted(request.include))
        return make_image(
            images,
            tree,
            tag=tag,
            created=created,
            created_by=f"skerry bootstrap debian:{request.suite}{with_packages}",
            command=["bash"],
            labels={
                "org.opencontainers.image.title": "debian",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.source": "https://www.debian.org",
            },
        )


def _check(request: Request) -> None:
    if not _SUITE.fullmatch(request.suite):
        raise InvalidInput(f"not a suite of Debian: {request.suite!r:.60}", hint="such as bookworm")
    for name in request.include:
        if not _PACKAGE.fullmatch(name):
            raise InvalidInput(f"not a package's name: {name!r:.120}")
    if request.mirror and not _URL.fullmatch(request.mirror):
        raise InvalidInput(f"not a mirror's address: {request.mirror!r:.200}")
    if os.geteuid() != 0:
        raise Unsupported("making a debian image needs root", hint="run the engine as root")


def _write_keyring(folder: str, keyring: bytes) -> str:
    """Where apt, which is another user, can read it."""
    path = os.path.join(folder, "keyring.gpg")
    with open(path, "wb") as file:
        file.write(keyring)
    os.chmod(path, 0o644)
    return path


def _command(request: Request, sources: Sources, tree: str, ring: str) -> list[str]:
    """A command line that ends with the engine and leaves no mount of its own behind."""
    include = ",".join(sorted(request.include))
    if shutil.which("mmdebstrap"):
        tool = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
        tool += [f"--include={include}"] if include else []
        tool += [f"--aptopt={option}" for option in proxies()]
        tool += [request.suite, tree, "-"]
    elif shutil.which("debootstrap"):
        tool = ["debootstrap", "--variant=minbase"]
        tool += [f"--keyring={ring}"] if ring else []
        tool += [f"--include={include}"] if include else []
        tool += [request.suite, tree, sources.main]
    else:
        raise Unsupported(
            "making a debian image needs mmdebstrap or debootstrap",
            hint="apt-get install mmdebstrap",
        )
    wrapper = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", "--", *wrapper, "--mount-proc", "--", *tool]


def _run(
    command: list[str],
    sources: list[str],
    progress: Report | None,
    wanted: Callable[[], bool],
) -> None:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
    }
    last: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        umask=0o022,
    ) as process:
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write("".join(f"{line}\n" for line in sources).encode())
            process.stdin.close()
        for line in _lines(process.stdout.fileno(), process.kill, wanted):
            last = [*last[-7:], line]
            if line.startswith("I: "):
                tell(progress, line.removeprefix("I: "))
    if not wanted():
        raise Unavailable("make a Debian tree: whoever asked for it has gone")
    if process.returncode:
        errors = [line for line in last if line.startswith("E: ")] or last[-3:]
        raise SystemFault(
            f"make a Debian tree: {' '.join(errors)[:1000] or command[0] + ' failed'}",
            hint="check the suite's name, the packages and that the mirror can be reached",
        )


def _lines(fd: int, kill: Callable[[], None], wanted: Callable[[], bool]) -> Iterator[str]:
    """What is written, until nobody has the pipe's other end any more; `kill` sees to that once
    it is not wanted."""
    rest = b""
    # select(2) knows no descriptor from 1024 on, which a busy engine has.
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    while True:
        if not wanted():
            kill()
        elif not ready.poll(_LOOK_MS):
            continue
        piece = os.read(fd, 65536)
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip() for line in whole)
        if not piece:
            if rest:
                yield rest.decode("utf-8", "replace").rstrip()
            return


def _newest(tree: str) -> int:
    """The time of the newest file that came out of a package, in seconds since the epoch.

    Every package brings its change log or copyright; what is made while installing is newer.
    """
    newest = 0
    for folder, _, files in os.walk(os.path.join(tree, "usr/share/doc")):
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            newest = max(newest, int(status.st_mtime))
    return newest


def _clean(tree: str, sources: Sources, created: int) -> None:
    """Take away what is not the distribution's."""
    for folder in _EMPTIED:
        path = os.path.join(tree, folder)
        if os.path.isdir(path) and not os.path.islink(path):
            for name in os.listdir(path):
                remove_tree(os.path.join(path, name))
    _empty_logs(os.path.join(tree, "var/log"))
    for name in _REMOVED:
        remove_tree(os.path.join(tree, name))
    for folder, folders, files in os.walk(tree):
        # Byte code holds its making's order of memory; it is made again when it is wanted.
        if "__pycache__" in folders:
            folders.remove("__pycache__")
            remove_tree(os.path.join(folder, "__pycache__"))
        del files
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/hosts"):
        remove_tree(os.path.join(tree, name))
        write_file(tree, name, "")
    write_file(tree, "etc/apt/sources.list", "".join(f"{x}\n" for x in sources.public()))
    os.makedirs(os.path.join(tree, "run/lock"), exist_ok=True)
    os.chmod(os.path.join(tree, "run/lock"), 0o1777)
    _date_shadow(tree, created // _DAY)


def _empty_logs(path: str) -> None:
    """The files go. The folders stay, with their owners: servers do not start without them."""
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            os.unlink(os.path.join(folder, name))
    os.makedirs(os.path.join(path, "apt"), exist_ok=True)


def _date_shadow(tree: str, day: int) -> None:
    """The day of the last change of each password, which is the day of the installation."""
    path = os.path.join(tree, "etc/shadow")
    with open(path, encoding="utf-8") as file:
        lines = [line.split(":") for line in file.read().splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2]:
            fields[2] = str(day)
    # Written in place: owner and mode stay.
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(":".join(fields) + "\n" for fields in lines))
