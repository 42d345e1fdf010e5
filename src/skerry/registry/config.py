"""How each registry is reached: `registries.toml`.

    [defaults]
    proxy = "http://proxy.example:3128"      # instead of HTTPS_PROXY, HTTP_PROXY and NO_PROXY

    [registry."docker.io"]
    mirrors = ["mirror.example:5000/hub"]    # tried in order before the registry itself

    [registry."mirror.example:5000"]
    ca = "/etc/ssl/mirror.pem"

Docker's `certs.d/<host:port>/{ca.crt,client.cert,client.key}` is read where nothing is written
here. Standard library only.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from skerry.base import toml_file
from skerry.base.errors import InvalidInput

SYSTEM_FILE: Final = "/etc/skerry/registries.toml"
CERTS_FOLDERS: Final = ("/etc/skerry/certs.d", "/etc/docker/certs.d")
DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_LOCATION: Final = "registry-1.docker.io"

_LOCATION = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
    r"(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
)
_PROXY = re.compile(r"(?:https?://[^\s/]+/?)?")


class RegistrySettings(NamedTuple):
    """How one registry host is reached. Paths are absolute."""

    name: str
    """`host[:port]`, as references name it."""
    location: str
    """`host[:port][/prefix]` to connect to; the name itself unless configured otherwise."""
    mirrors: tuple[str, ...] = ()
    """Locations that are asked first, in order, when something is read."""
    insecure: bool = False
    """Certificates are not verified, and where no TLS is spoken plain HTTP is."""
    plain_http: bool = False
    """Only plain HTTP is spoken."""
    ca: str = ""
    """PEM file with the authorities that are trusted besides the system's."""
    cert: str = ""
    """PEM file with the client's certificate; `key` its private key."""
    key: str = ""
    proxy: str | None = None
    """URL of an HTTP proxy; empty for none; None for what the environment says."""
    blocked: bool = False
    """Nothing is asked there."""


class Registries:
    """The settings of all registries. Immutable."""

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings] | None = None,
        *,
        proxy: str | None = None,
        certs_folders: tuple[str, ...] = (),
    ) -> None:
        self._settings = dict(settings or {})
        self._proxy = proxy
        self._certs_folders = certs_folders

    def of(self, name: str) -> RegistrySettings:
        """Settings of the registry that references call `name`; defaults when none are written.

        A loopback registry is `insecure` unless its settings say otherwise, as with Docker.
        """
        found = self._settings.get(name)
        if found is None:
            location = DOCKER_HUB_LOCATION if name == DOCKER_HUB else name
            found = RegistrySettings(name, location, insecure=is_loopback(name))
        if found.proxy is None:
            found = found._replace(proxy=self._proxy)
        if not (found.ca or found.cert):
            found = self._with_certs(found)
        return found

    def _with_certs(self, settings: RegistrySettings) -> RegistrySettings:
        for base in self._certs_folders:
            folder = os.path.join(base, settings.name)
            ca, cert, key = (
                path if os.path.exists(path) else ""
                for path in (
                    os.path.join(folder, name) for name in ("ca.crt", "client.cert", "client.key")
                )
            )
            if ca or (cert and key):
                return settings._replace(ca=ca, cert=cert if key else "", key=key if cert else "")
        return settings


def is_loopback(name: str) -> bool:
    """Whether `host[:port]` is this machine, going by the name alone."""
    host = name.rpartition(":")[0] if re.search(r":[0-9]+$", name) else name
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_registries(
    root: str | os.PathLike[str] = "", system_file: str = SYSTEM_FILE
) -> Registries:
    """Read `<root>/registries.toml` over `/etc/skerry/registries.toml`; either may be absent.

    A host named in both has the settings of the first. InvalidInput names the file and the key.
    """
    settings: dict[str, RegistrySettings] = {}
    proxy: str | None = None
    files = [system_file]
    if root:
        files.append(os.path.join(os.fspath(root), "registries.toml"))
    for path in files:
        document = toml_file.read(path)
        if document is None:
            continue
        more, default = registries_of(document, path)
        settings |= more
        proxy = proxy if default is None else default
    return Registries(settings, proxy=proxy, certs_folders=CERTS_FOLDERS)


def parse_registries(data: bytes, path: str) -> tuple[dict[str, RegistrySettings], str | None]:
    """The settings by host and the default proxy; InvalidInput names `path` and the key."""
    return registries_of(toml_file.parse(data, path), path)


def registries_of(
    document: dict[str, Any], path: str
) -> tuple[dict[str, RegistrySettings], str | None]:
    """The same of a file's content."""
    toml_file.only(document, {"defaults", "registry"}, path, "")
    defaults = toml_file.table(document.get("defaults", {}), path, "defaults")
    toml_file.only(defaults, {"proxy"}, path, "defaults")
    tables = toml_file.table(document.get("registry", {}), path, "registry")
    settings = {
        name: _one(name, toml_file.table(table, path, f'registry."{name}"'), path)
        for name, table in tables.items()
    }
    return settings, _proxy(defaults, path, "defaults")


def _one(name: str, table: dict[str, Any], path: str) -> RegistrySettings:
    where = f'registry."{name}"'
    if not _LOCATION.fullmatch(name) or "/" in name:
        raise InvalidInput(f"{path}: {where}: not a host or host:port")
    fields = RegistrySettings._fields
    toml_file.only(table, set(fields) - {"name"}, path, where)
    flags = {key: table[key] for key in ("insecure", "plain_http", "blocked") if key in table}
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidInput(f"{path}: {where}.{flag}: has to be true or false")
    flags.setdefault("insecure", is_loopback(name))
    files = {key: _file(table, key, path, where) for key in ("ca", "cert", "key")}
    if bool(files["cert"]) != bool(files["key"]):
        raise InvalidInput(f"{path}: {where}: cert and key go together")
    location = table.get("location", DOCKER_HUB_LOCATION if name == DOCKER_HUB else name)
    mirrors = table.get("mirrors", [])
    if not isinstance(mirrors, list) or len(mirrors) > 16:
        raise InvalidInput(f"{path}: {where}.mirrors: has to be a list of at most 16 hosts")
    for each in (location, *mirrors):
        if not isinstance(each, str) or not _LOCATION.fullmatch(each):
            raise InvalidInput(f"{path}: {where}: {each!r:.80} is not host[:port][/prefix]")
    proxy = _proxy(table, path, where)
    ca, cert, key = files.values()
    return RegistrySettings(
        name, location, tuple(mirrors), ca=ca, cert=cert, key=key, proxy=proxy, **flags
    )


def _file(table: dict[str, Any], key: str, path: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str) or (value and not os.path.isabs(value)) or "\0" in value:
        raise InvalidInput(f"{path}: {where}.{key}: has to be an absolute path")
    return value


def _proxy(table: dict[str, Any], path: str, where: str) -> str | None:
    value = table.get("proxy")
    if value is None:
        return None
    if not isinstance(value, str) or not _PROXY.fullmatch(value):
        raise InvalidInput(f"{path}: {where}.proxy: has to be http://host:port, or empty for none")
    return value
