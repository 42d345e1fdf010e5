"""The files that every container gets of its own: /etc/hostname, /etc/hosts, /etc/resolv.conf.

Pure, but for `host_file`. Formats: hostname(5), hosts(5), resolv.conf(5).
"""

import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skerry.base.errors import InvalidInput

LIMIT = 1 << 20
RESOLVER = "127.0.0.11"
"""Where the engine's resolver answers inside a container."""
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


def extra_hosts(entries: Iterable[str], gateways: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(address, name) of `--add-host name:address`. InvalidInput with Docker's words.

    `host-gateway` stands for each of `gateways`; without one the entry is left out.
    """
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
        addresses = gateways if address == "host-gateway" else (address,)
        result += [(each, name) for each in addresses]
    return result


def hosts(
    hostname: str,
    domain: str,
    extra: Iterable[tuple[str, str]],
    *,
    own_addresses: Iterable[str] = (),
) -> str:
    """/etc/hosts. `own_addresses` is where the container's own name points, if anywhere."""
    lines = [_LOCAL]
    lines += [f"{address}\t{name}\n" for address, name in extra]
    lines += [f"{address}\t{full_name(hostname, domain)}\n" for address in own_addresses]
    return "".join(lines)


def full_name(hostname: str, domain: str) -> str:
    """The names of one host as a line of hosts(5) has them."""
    whole = f"{hostname}.{domain}" if domain else hostname
    short = hostname.partition(".")[0]
    return whole if whole == short else f"{whole} {short}"


def change_hosts(text: str, gone: Iterable[str], fresh: Iterable[str], names: str) -> str:
    """/etc/hosts without the lines of addresses that have gone and with one for each fresh one."""
    unwanted = {(address, names) for address in gone}
    kept = [
        line
        for line in text.splitlines(keepends=True)
        if tuple(line.rstrip("\n").split("\t", 1)) not in unwanted
    ]
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    return "".join([*kept, *(f"{address}\t{names}\n" for address in fresh)])


def through_resolver(text: str) -> str:
    """/etc/resolv.conf with the resolver at 127.0.0.11 in place of other servers."""
    lines = text.splitlines()
    dropped = ("nameserver ", *_TOLD)
    rest = [line for line in lines if line.strip() and not line.startswith(dropped)]
    servers = [line.split()[-1] for line in lines if line.startswith("nameserver ")]
    overrides = next((line for line in lines if line.startswith(_OVERRIDES)), f"{_OVERRIDES} []")
    ndots = next((line for line in lines if line.startswith(_NDOTS)), "")
    if not any(line.startswith("options") for line in rest):
        rest.append("options ndots:0")
        ndots = f"{_NDOTS} internal"
    asked = servers if "nameservers" in overrides else [f"host({each})" for each in servers]
    told = _origin(_INTERNAL, asked, overrides, ndots)
    return "\n".join([f"nameserver {RESOLVER}", *rest, *told]) + "\n"


_INTERNAL = " (internal resolver)"
_FILE, _ASKED = "# Based on host file:", "# ExtServers:"
_OVERRIDES, _NDOTS = "# Overrides:", "# Option ndots from:"
_TOLD = (_FILE, _ASKED, _OVERRIDES, _NDOTS)


def _origin(transform: str, asked: Iterable[str], overrides: str, ndots: str) -> list[str]:
    """The comments in which Docker's file says where it comes from. `asked` is whom the resolver
    asks, `host(…)` from the host's network namespace."""
    told = ["", f"{_FILE} '/etc/resolv.conf'{transform}"]
    if servers := " ".join(asked):
        told.append(f"{_ASKED} [{servers}]")
    return [*told, overrides, *([ndots] if ndots else [])]


def change_file(path: str, change: Callable[[str], str]) -> None:
    """Rewrite a file that is bind-mounted into a container, so that it stays the same file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    with open(fd, "r+", encoding="utf-8", errors="surrogateescape") as file:
        old = file.read(LIMIT)
        new = change(old)
        if new != old:
            file.seek(0)
            file.write(new)
            file.truncate()


def has_servers(settings: Mapping[str, Any], default: Iterable[str] = ()) -> bool:
    """Whether a container can ask name servers without the engine's resolver."""
    if settings.get("Dns") or tuple(default):
        return True
    return any(
        line.split()[0] == "nameserver" and not _loopback(line.split()[1])
        for line in host_file("/etc/resolv.conf").splitlines()
        if len(line.split()) > 1
    )


def resolv_conf(
    host: str, settings: Mapping[str, Any], *, shares_host: bool, resolver: bool = False
) -> str:
    """/etc/resolv.conf: the host's, less servers on a loopback that the container does not see.

    `settings` is HostConfig with Dns, DnsSearch and DnsOptions. With `resolver` the engine's stands
    in place of all servers, and asks them.
    """
    given = settings.get("Dns") or []
    for address in given:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidInput(f"bad DNS server address: {address!r}") from None
    servers, search, options, rest = [], [], [], []
    of_host: list[str] = []
    for line in host.splitlines():
        word, _, tail = line.strip().partition(" ")
        if word == "nameserver":
            of_host.append(tail.strip())
            if shares_host or not _loopback(tail.strip()):
                servers.append(tail.strip())
        elif word in ("search", "domain"):
            search = tail.split()
        elif word == "options":
            options = tail.split()
        elif shares_host and word and not word.startswith(("#", ";")):
            rest.append(line.strip())
    overrides = [word for word, key in _KEYS if settings.get(key)]
    servers = list(given) or servers
    search = list(settings.get("DnsSearch") or search)
    ndots = "override" if settings.get("DnsOptions") else "host"
    options = list(settings.get("DnsOptions") or options)
    asked: list[str] = []
    if resolver:
        asked = servers if given else [f"host({each})" for each in of_host]
        servers = [RESOLVER]
        if not any(option.startswith("ndots:") for option in options):
            options.append("ndots:0")
            ndots = "internal"
    if not any(option.startswith("ndots:") for option in options):
        ndots = ""
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    transform = _INTERNAL if resolver else "" if shares_host else " (legacy)"
    words = f"{_OVERRIDES} [{' '.join(overrides)}]"
    told = _origin(transform, asked, words, f"{_NDOTS} {ndots}" if ndots else "")
    return "\n".join([*lines, *rest, *told]) + "\n" if lines or rest else ""


_KEYS = (("nameservers", "Dns"), ("search", "DnsSearch"), ("options", "DnsOptions"))


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
