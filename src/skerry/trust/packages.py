"""What package managers leave behind in a file system: dpkg, apk, pip, npm.

Every reader takes the bytes of one file and yields packages; entries without a plausible name and
version are passed over, since an image may say what it likes about itself.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from skerry.base.errors import LimitExceeded

MAX_DATABASE: Final = 64 << 20
"""Bytes of dpkg's or apk's database."""
MAX_METADATA: Final = 2 << 20
"""Bytes of one METADATA, PKG-INFO or package.json."""
MAX_PACKAGES: Final = 100_000
_NAME: Final = re.compile(r"(?:@[A-Za-z0-9._~-]+/)?[A-Za-z0-9_][A-Za-z0-9._+~-]{0,213}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~:_!*-]{0,255}")
_FIELD: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*)")
_LONGEST: Final = 1024


class Distribution(NamedTuple):
    """ID and VERSION_ID of os-release(5); empty when unknown."""

    id: str = ""
    version: str = ""


class Package(NamedTuple):
    """One installed package. `kind` is the purl type: deb, apk, pypi, npm."""

    kind: str
    name: str
    version: str
    location: str
    """The file that says so, from the image's root."""
    architecture: str = ""
    license: str = ""
    homepage: str = ""
    source: str = ""
    """The source package, where the manager knows one by another name."""

    def purl(self, distribution: Distribution = Distribution()) -> str:  # noqa: B008
        """The package URL (purl specification, types deb, apk, pypi and npm)."""
        name, version = self.name, quote(self.version, safe=":")
        if self.kind == "pypi":
            return f"pkg:pypi/{quote(re.sub(r'[-_.]+', '-', name).lower(), safe='')}@{version}"
        if self.kind == "npm":
            scope, slash, rest = name.rpartition("/")
            head = f"{quote(scope, safe='')}/" if slash else ""
            return f"pkg:npm/{head}{quote(rest, safe='')}@{version}"
        fallback = "debian" if self.kind == "deb" else "alpine"
        vendor = quote(distribution.id or fallback, safe="")
        more = {"arch": self.architecture, "distro": ""}
        if distribution.id and distribution.version:
            more["distro"] = f"{distribution.id}-{distribution.version}"
        tail = "&".join(f"{key}={quote(text, safe='')}" for key, text in more.items() if text)
        mark = "?" if tail else ""
        return f"pkg:{self.kind}/{vendor}/{quote(name, safe='')}@{version}{mark}{tail}"


def os_release(data: bytes) -> Distribution:
    """os-release(5): shell-like assignments."""
    found = {}
    for line in _text(data).split("\n")[:1000]:
        key, equals, value = line.strip().partition("=")
        value = value.strip("\"'")
        if equals and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            found[key] = value
    return Distribution(found.get("ID", ""), found.get("VERSION_ID", ""))


def dpkg(data: bytes, location: str) -> Iterator[Package]:
    """`/var/lib/dpkg/status`, or a file of `status.d`: what is installed, deb-control(5)."""
    for stanza in _stanzas(data):
        fields = _fields(
            stanza, {"package", "status", "version", "architecture", "homepage", "source"}
        )
        # status.d, of images without a package manager, has no states.
        state = fields.get("status", "install ok installed").split()
        if state[-1:] == ["installed"]:
            package = Package(
                "deb",
                fields.get("package", ""),
                fields.get("version", ""),
                location,
                fields.get("architecture", ""),
                homepage=fields.get("homepage", ""),
                source=fields.get("source", "").partition(" ")[0],
            )
            if _plausible(package):
                yield package


def apk(data: bytes, location: str) -> Iterator[Package]:
    """`/lib/apk/db/installed`: stanzas of one-letter fields."""
    for stanza in _stanzas(data):
        fields: dict[str, str] = {}
        for line in stanza.split("\n"):
            if line[1:2] == ":" and line[0] in "PVALUo":
                fields.setdefault(line[0], line[2:].strip()[:_LONGEST])
        package = Package(
            "apk",
            fields.get("P", ""),
            fields.get("V", ""),
            location,
            fields.get("A", ""),
            fields.get("L", ""),
            fields.get("U", ""),
            fields.get("o", ""),
        )
        if _plausible(package):
            yield package


def pip(data: bytes, location: str) -> Iterator[Package]:
    """METADATA of a dist-info folder or PKG-INFO of an egg-info: core metadata headers."""
    head = re.split(r"\r?\n\r?\n", _text(data), maxsplit=1)[0]
    fields = _fields(head, {"name", "version", "license", "license-expression", "home-page"})
    package = Package(
        "pypi",
        fields.get("name", ""),
        fields.get("version", ""),
        location,
        license=fields.get("license-expression") or fields.get("license", ""),
        homepage=fields.get("home-page", ""),
    )
    if _plausible(package):
        yield package


def npm(data: bytes, location: str) -> Iterator[Package]:
    """The package.json of an installed package."""
    try:
        document: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(document, dict):
        return

    def word(key: str) -> str:
        value = document.get(key)
        if key == "license" and isinstance(value, dict):
            value = value.get("type")
        return _text(value.encode("utf-8", "replace"))[:_LONGEST] if isinstance(value, str) else ""

    package = Package(
        "npm",
        word("name"),
        word("version"),
        location,
        license=word("license"),
        homepage=word("homepage"),
    )
    if _plausible(package):
        yield package


def _plausible(package: Package) -> bool:
    return bool(_NAME.fullmatch(package.name) and _VERSION.fullmatch(package.version))


def _text(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text)


def _stanzas(data: bytes) -> list[str]:
    if len(data) > MAX_DATABASE:
        raise LimitExceeded(f"package database of {len(data)} bytes, at most {MAX_DATABASE}")
    return re.split(r"\n[ \t]*\n+", _text(data))


def _fields(stanza: str, wanted: set[str]) -> dict[str, str]:
    """The first of each field's values; lines that continue one are passed over."""
    found: dict[str, str] = {}
    for line in stanza.split("\n"):
        match = _FIELD.match(line)
        if match and (key := match[1].lower()) in wanted:
            found.setdefault(key, match[2].strip()[:_LONGEST])
    return found
