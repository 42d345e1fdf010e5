"""Where things are: roots, socket, interpreter. Read once at start-up, passed down from there."""

import os
import sys

from skerry.base.hosts import default_paths, unix_path
from skerry.base.light import NamedTuple

__all__ = ["Settings", "add_site_packages", "default_settings", "site_packages", "unix_path"]


class Settings(NamedTuple):
    """The engine's own settings. Paths are absolute."""

    root: str
    """State that survives a reboot: blobs, layers, snapshots, containers, skerry.db."""
    run_root: str
    """State that does not: sockets, pids, bundles in flight."""
    host: str
    """`unix:///path/to/socket`."""

    @property
    def socket_path(self) -> str:
        """The unix socket's path in `host`."""
        return unix_path(self.host)


def default_settings(
    root: str | None = None, run_root: str | None = None, host: str | None = None
) -> Settings:
    """What was given, else the environment (SKERRY_ROOT, SKERRY_RUN_ROOT, SKERRY_HOST), else the
    system folders for root and the XDG folders for others."""
    return Settings(*default_paths(root, run_root, host))


def site_packages() -> str:
    """The environment's third-party packages, for an interpreter that runs without `site`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = os.path.dirname(os.path.dirname(sys.executable))
    return os.path.join(prefix, "lib", version, "site-packages")


def add_site_packages() -> None:
    """Make third-party packages importable in a lean (`-I -S -E`) interpreter."""
    path = site_packages()
    if os.path.isdir(path) and path not in sys.path:
        sys.path.append(path)
