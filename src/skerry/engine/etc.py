"""The files that every container gets of its own: /etc/hostname, /etc/hosts, /etc/resolv.conf.

Pure, but for `host_file`. Formats: hostname(5), hosts(5), resolv.conf(5).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from skerry.base.errors import InvalidInput

LIMIT = 1 << 20
_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def host_file(path: str) -> str:
    """One of the host's files, empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(LIMIT)
    except OSError:
        return ""


def extra_hosts(entries: Iterable[str]) -> list[tuple[str, str]]:
    """(address, name) of `--add-host name:address`. InvalidInput with Docker's words."""
    result = []
    for entry in entries:
        name, separator, address = entry.partition("=" if "=" in entry else ":")
        address = address.strip("[]")
        if not name or not separator or any(c.isspace() for c in name):
            raise InvalidInput(f'bad format for add-host: "{entry}"')
        try:
            ipaddress.ip_address("127.0.0.1" if address == "host-gateway" else address)
        except ValueError:
            raise InvalidInput(f'invalid IP address in add-host: "{address}"') from None
        if address != "host-gateway":
            result.append((address, name))
    return result


def hosts(
    hostname: str, domain: str, extra: Iterable[tuple[str, str]], *, own_address: str = ""
) -> str:
    """/etc/hosts. `own_address` is where the container's own name points, if anywhere."""
    lines = [_LOCAL]
    lines += [f"{address}\t{name}\n" for address, name in extra]
    if own_address:
        full = f"{hostname}.{domain} {hostname}" if domain else hostname
        lines.append(f"{own_address}\t{full}\n")
    return "".join(lines)


def resolv_conf(host: str, settings: Mapping[str, Any], *, shares_host: bool) -> str:
    """/etc/resolv.conf: the host's, less servers on a loopback that the container does not see.

    `settings` is HostConfig with Dns, DnsSearch and DnsOptions.
    """
    given = settings.get("Dns") or []
    for address in given:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidInput(f"bad DNS server address: {address!r}") from None
    servers, search, options, rest = [], [], [], []
    for line in host.splitlines():
        word, _, tail = line.strip().partition(" ")
        if word == "nameserver":
            if shares_host or not _loopback(tail.strip()):
                servers.append(tail.strip())
        elif word in ("search", "domain"):
            search = tail.split()
        elif word == "options":
            options = tail.split()
        elif shares_host and word and not word.startswith(("#", ";")):
            rest.append(line.strip())
    servers = list(given) or servers
    search = list(settings.get("DnsSearch") or search)
    options = list(settings.get("DnsOptions") or options)
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join([*lines, *rest]) + "\n" if lines or rest else ""


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
