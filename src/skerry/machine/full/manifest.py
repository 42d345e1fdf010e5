"""The manifest of an OVF package: a digest of every file (DSP0243, section 5.1)."""

import re

from skerry.base.errors import InvalidInput

MAX_MANIFEST = 1 << 20
_LINE = re.compile(r"(SHA1|SHA256|SHA512)\s*\(([^()\n]{1,300})\)\s*=\s*([0-9a-fA-F]{40,128})")
_LENGTHS = {"sha1": 40, "sha256": 64, "sha512": 128}


def write(digests: dict[str, str]) -> bytes:
    """File name to the SHA-256 of the file."""
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items()).encode()


def parse(data: bytes) -> dict[str, tuple[str, str]]:
    """File name to (algorithm as hashlib names it, hex digest); InvalidInput."""
    if len(data) > MAX_MANIFEST:
        raise InvalidInput("OVF: the manifest is too large")
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match or _LENGTHS[match[1].lower()] != len(match[3]):
            raise InvalidInput(f"OVF: a line of the manifest is not understood: {line!r:.120}")
        found[match[2].strip()] = (match[1].lower(), match[3].lower())
    return found
