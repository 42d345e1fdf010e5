"""Debian's kernel for the guest: fetched once by apt, unpacked, kept in a cache folder."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

PACKAGE = "linux-image-cloud-amd64"


class Linux(NamedTuple):
    """An unpacked kernel package."""

    image: Path
    modules: Path
    """`lib/modules/<release>`."""

    def module_files(self, names: tuple[str, ...]) -> list[Path]:
        """The modules with those they depend on, in the order in which they load."""
        every = {path.name.removesuffix(".ko").replace("-", "_"): path
                 for path in self.modules.rglob("*.ko")}  # fmt: skip
        ordered: list[Path] = []

        def add(name: str) -> None:
            path = every.get(name.replace("-", "_"))
            if path is None or path in ordered:
                return  # built in, or there already
            found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            for needed in found[1].decode().split(",") if found else ():
                add(needed)
            ordered.append(path)

        for name in names:
            add(name)
        return ordered


def cache_folder() -> Path:
    """Where downloads stay between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base, "skerry-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch() -> Linux:
    """The kernel of this distribution; RuntimeError with the reason when it cannot be had."""
    package = _versioned_package()
    folder = cache_folder() / package
    if not folder.is_dir():
        _download(package, folder)
    (image,) = folder.glob("boot/vmlinuz-*")
    (modules,) = [*folder.glob("lib/modules/*"), *folder.glob("usr/lib/modules/*")]
    return Linux(image, modules)


def _versioned_package() -> str:
    asked = _run("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-[0-9][^\s]*)", asked)
    if not found:
        raise RuntimeError(f"apt knows no package {PACKAGE}: apt-get update?")
    return found[1]


def _download(package: str, folder: Path) -> None:
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        _run("apt-get", "download", package, cwd=fresh)
        (archive,) = fresh.glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), str(fresh))
        archive.unlink()
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if not folder.is_dir():  # another run may have been faster
            raise


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is missing: the guest's kernel comes by apt") from None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout
