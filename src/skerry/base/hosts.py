"""Where an engine's folders and socket are, and Docker's configuration; apart from `settings`
because command lines that must start in milliseconds cannot afford to import typing."""

import os

from skerry.base.errors import InvalidInput


def unix_path(host: str) -> str:
    """The path of a `unix://` host, else InvalidInput."""
    scheme, _, path = host.partition("://")
    if scheme != "unix" or not path.startswith("/"):
        raise InvalidInput(f"cannot use host {host!r}", hint="write it as unix:///path/to/socket")
    return path


def docker_config() -> str:
    """`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(folder, "config.json")


def default_paths(
    root: str | None = None, run_root: str | None = None, host: str | None = None
) -> tuple[str, str, str]:
    """Root, run root and host: what was given, else the environment (SKERRY_ROOT,
    SKERRY_RUN_ROOT, SKERRY_HOST), else the system folders for root and the XDG folders for
    others."""
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
    return root, run_root, host
