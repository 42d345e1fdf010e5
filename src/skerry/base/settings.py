"""Where things are: roots, socket, interpreter. Read once at start-up, passed down from there."""

import os
import sys
from typing import NamedTuple

from skerry.base.errors import InvalidInput


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


def unix_path(host: str) -> str:
    """The path of a `unix://` host, else InvalidInput."""
    scheme, _, path = host.partition("://")
    if scheme != "unix" or not path.startswith("/"):
        raise InvalidInput(f"cannot use host {host!r}", hint="write it as unix:///path/to/socket")
    return path


def default_settings(
    root: str | None = None, run_root: str | None = None, host: str | None = None
) -> Settings:
    """What was given, else the environment (SKERRY_ROOT, SKERRY_RUN_ROOT, SKERRY_HOST), else the
    system folders for root and the XDG folders for others."""
    env = os.environ
    home = env.get("HOME") or "/"
    if os.geteuid() == 0:
        data, runtime = "/var/lib/skerry", "/run/skerry"
    else:
        data = os.path.join(env.get("XDG_DATA_HOME") or f"{home}/.local/share", "skerry")
        runtime = os.path.join(env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "skerry")
    root = os.path.abspath(root or env.get("SKERRY_ROOT") or data)
    run_root = os.path.abspath(run_root or env.get("SKERRY_RUN_ROOT") or runtime)
    host = host or env.get("SKERRY_HOST") or f"unix://{run_root}/skerry.sock"
    return Settings(root, run_root, host)


def site_packages() -> str:
    """The environment's third-party packages, for an interpreter that runs without `site`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "lib", version, "site-packages")


def add_site_packages() -> None:
    """Make third-party packages importable in a lean (`-I -S -E`) interpreter."""
    path = site_packages()
    if os.path.isdir(path) and path not in sys.path:
        sys.path.append(path)
