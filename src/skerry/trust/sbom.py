"""Bills of materials: SPDX 2.3 and CycloneDX 1.5, as JSON.

The same image gives the same bytes: order is by package, times are the image's, identities are
made from the manifest's digest.
"""

import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import skerry
from skerry.base.digests import sha256
from skerry.base.errors import InvalidInput
from skerry.base.oci_image import OCI_MANIFEST, Descriptor, Manifest, encode
from skerry.trust.packages import Distribution, Package

SPDX: Final = "spdx-json"
CYCLONEDX: Final = "cyclonedx-json"
MEDIA_TYPES: Final = {
    SPDX: "application/spdx+json",
    CYCLONEDX: "application/vnd.cyclonedx+json",
}
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
_SPACE: Final = uuid.UUID("b5a9e63e-6f0b-5d0e-9a3e-2f6a3b9e7c11")


class Subject(NamedTuple):
    """The image that is described. `created` is RFC 3339 or empty."""

    name: str
    digest: str
    created: str
    distribution: Distribution = Distribution()


class Attachment(NamedTuple):
    """A document as a referrer: the manifest and the blobs that it needs."""

    manifest: bytes
    blobs: tuple[tuple[Descriptor, bytes], ...]


def document(form: str, subject: Subject, packages: Iterable[Package]) -> bytes:
    """The document; InvalidInput for an unknown format."""
    ordered = sorted(set(packages))
    if form == SPDX:
        made = _spdx(subject, ordered)
    elif form == CYCLONEDX:
        made = _cyclonedx(subject, ordered)
    else:
        raise InvalidInput(f"unknown format {form!r:.40}", hint=f"write {SPDX} or {CYCLONEDX}")
    return json.dumps(made, indent=2, ensure_ascii=False).encode() + b"\n"


def attachment(form: str, data: bytes, subject: Descriptor) -> Attachment:
    """An artifact manifest that refers to the image (image-spec manifest.md, "Guidelines for
    Artifact Usage")."""
    kind = MEDIA_TYPES[form]
    config, layer = (
        Descriptor(media_type, sha256(content), len(content))
        for media_type, content in ((_EMPTY, b"{}"), (kind, data))
    )
    plain = Descriptor(subject.media_type, subject.digest, subject.size)
    manifest = Manifest(2, config, [layer], OCI_MANIFEST, kind, subject=plain)
    return Attachment(encode(manifest), ((config, b"{}"), (layer, data)))


def _spdx(subject: Subject, packages: list[Package]) -> dict[str, Any]:
    root = "SPDXRef-Image"
    identity = uuid.uuid5(_SPACE, f"{skerry.__version__} {subject.name} {subject.digest}")
    image = {
        "SPDXID": root,
        "name": subject.name,
        "versionInfo": subject.digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
        "externalRefs": [_reference(_image_purl(subject))],
    }
    listed = [image]
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    for package in packages:
        purl = package.purl(subject.distribution)
        id_ = f"SPDXRef-Package-{package.kind}-{_identity(package)}"
        entry = {
            "SPDXID": id_,
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "sourceInfo": f"found in {package.location}",
            "externalRefs": [_reference(purl)],
        }
        if package.license:
            # What packages write there is rarely an SPDX expression.
            entry["licenseComments"] = f"The package says: {package.license}"
        listed.append(entry)
        relations.append(_relation(root, "CONTAINS", id_))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": f"https://spdx.org/spdxdocs/skerry-{identity}",
        "creationInfo": {
            "created": _time(subject.created),
            "creators": [f"Tool: skerry-{skerry.__version__}"],
        },
        "packages": listed,
        "relationships": relations,
    }


def _reference(purl: str) -> dict[str, str]:
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }


def _relation(element: str, kind: str, related: str) -> dict[str, str]:
    return {
        "spdxElementId": element,
        "relationshipType": kind,
        "relatedSpdxElement": related,
    }


def _cyclonedx(subject: Subject, packages: list[Package]) -> dict[str, Any]:
    identity = uuid.uuid5(_SPACE, f"cyclonedx {skerry.__version__} {subject.name} {subject.digest}")
    components = []
    for package in packages:
        purl = package.purl(subject.distribution)
        entry: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"{package.kind}-{_identity(package)}",
            "name": package.name,
            "version": package.version,
            "purl": purl,
        }
        if package.license:
            entry["licenses"] = [{"license": {"name": package.license}}]
        properties = {"skerry:location": package.location, "skerry:source": package.source}
        entry["properties"] = [
            {"name": name, "value": value} for name, value in properties.items() if value
        ]
        components.append(entry)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{identity}",
        "version": 1,
        "metadata": {
            "timestamp": _time(subject.created),
            "tools": {
                "components": [
                    {"type": "application", "name": "skerry", "version": skerry.__version__}
                ]
            },
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": subject.name,
                "version": subject.digest,
                "purl": _image_purl(subject),
            },
        },
        "components": components,
    }


def _identity(package: Package) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
    return f"{plain}-{sha256(repr(package).encode())[7:19]}"


def _image_purl(subject: Subject) -> str:
    name = subject.name.rpartition("/")[2].partition(":")[0]
    return f"pkg:oci/{quote(name.lower(), safe='')}@{quote(subject.digest, safe=':')}"


def _time(text: str) -> str:
    """Seconds in UTC, as SPDX demands; 1970 when the image does not say."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = datetime.fromtimestamp(0, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment.year >= 1000 else "1970-01-01T00:00:00Z"
