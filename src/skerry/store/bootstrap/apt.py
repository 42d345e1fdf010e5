"""Which Debian mirrors the host's own apt uses, and through which proxy."""

import glob
import re
import subprocess
from typing import Final, NamedTuple

_MAIN: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
_PROXY: Final = re.compile(r'(Acquire::https?::(?:Proxy|CaInfo)(?:::\S+)?) "([^"]*)";')
_ONE_LINE: Final = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)")


class Sources(NamedTuple):
    """Where a suite's packages are."""

    suite: str
    main: str
    security: str
    """Empty when there is none."""
    rolling: bool
    """A suite without updates and security suites of its own, such as sid."""

    def lines(self, ring: str = "") -> list[str]:
        """As lines of sources.list; `ring` is the path of the keyring that signs all of them."""
        signed = f"deb [signed-by={ring}] " if ring else "deb "
        lines = self._lines(self.main, self.security)
        return [line.replace("deb ", signed, 1) for line in lines]

    def public(self) -> list[str]:
        """The same with Debian's public addresses: what the image itself shall use."""
        return self._lines(_MAIN, _SECURITY)

    def _lines(self, main: str, security: str) -> list[str]:
        lines = [f"deb {main} {self.suite} main"]
        if self.rolling or not security:
            return lines
        lines.append(f"deb {main} {self.suite}-updates main")
        lines.append(f"deb {security} {self.suite}-security main")
        return lines


def host_sources(suite: str, *, rolling: bool) -> Sources:
    """The host's mirrors for a suite, Debian's public ones where the host has none."""
    found: list[tuple[str, str]] = []
    for path in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        found += parse_deb822(_read(path))
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        found += parse_one_line(_read(path))
    return choose(found, suite, rolling=rolling)


def choose(found: list[tuple[str, str]], suite: str, *, rolling: bool) -> Sources:
    """Pick from (address, suite) pairs: the first of Debian itself, and of its security updates."""
    main = security = ""
    for address, named in found:
        path = address.rstrip("/").rpartition("/")[2]
        if named.endswith("-security") or path == "debian-security":
            security = security or address
        elif path == "debian":
            main = main or address
    return Sources(suite, main or _MAIN, "" if rolling else security or _SECURITY, rolling)


def parse_deb822(text: str) -> list[tuple[str, str]]:
    """(address, suite) pairs of a .sources file (sources.list(5))."""
    pairs = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and last:
                fields[last] += " " + line.strip()
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
            continue
        for address in fields.get("uris", "").split():
            pairs += [(address, suite) for suite in fields.get("suites", "").split()]
    return [pair for pair in pairs if pair[0].startswith(("http://", "https://"))]


def parse_one_line(text: str) -> list[tuple[str, str]]:
    """(address, suite) pairs of a sources.list file."""
    matches = (_ONE_LINE.match(line.strip()) for line in text.splitlines())
    return [(m[1], m[2]) for m in matches if m and m[1].startswith(("http://", "https://"))]


def proxies() -> list[str]:
    """The host's apt options about proxies and certificates, as apt.conf(5) writes them."""
    try:
        dump = subprocess.run(
            ["apt-config", "dump"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except OSError:
        return []
    return [f'{key} "{value}"' for key, value in _PROXY.findall(dump) if value]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
