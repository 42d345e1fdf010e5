"""How each registry is reached: `registries.toml`.

[defaults]
proxy = "http://proxy.example:3128"      # instead of HTTPS_PROXY, HTTP_PROXY and NO_PROXY

[registry."docker.io"]
mirrors = ["mirror.example:5000/hub"]    # tried in order before the registry itself

[registry."mirror.example:5000"]
ca = "/etc/ssl/mirror.pem"
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

SYSTEM_FILE = "/etc/skerry/registries.toml"


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
        raise NotImplementedError

    def of(self, name: str) -> RegistrySettings:
        """Settings of the registry that references call `name`; defaults when none are written.

        A loopback registry is `insecure` unless its settings say otherwise, as with Docker.
        """
        raise NotImplementedError


def load_registries(
    root: str | os.PathLike[str] = "", system_file: str = SYSTEM_FILE
) -> Registries:
    """Read `<root>/registries.toml` over `/etc/skerry/registries.toml`; either may be absent.

    A host named in both has the settings of the first. InvalidInput names the file and the key.
    """
    raise NotImplementedError
