"""SPDX and CycloneDX documents: the fields that the formats demand, the same bytes each time."""

import json
import re

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from skerry.base.digests import sha256
from skerry.base.errors import InvalidInput
from skerry.base.oci_image import OCI_MANIFEST, Descriptor, parse_manifest
from skerry.trust.packages import Distribution, Package
from skerry.trust.sbom import CYCLONEDX, SPDX, Subject, attachment, document

SUBJECT = Subject(
    "team/app:1", sha256(b"x"), "2024-05-01T12:00:00.5+02:00", Distribution("debian", "12")
)
PACKAGES = [
    Package("npm", "@a/b", "1.0.0", "/app/node_modules/@a/b/package.json", license="MIT"),
    Package("deb", "libc6", "2.36-9", "/var/lib/dpkg/status", "amd64", source="glibc"),
    Package("npm", "@a/b", "1.0.0", "/other/node_modules/@a/b/package.json", license="MIT"),
]


@pytest.mark.parametrize("form", [SPDX, CYCLONEDX])
def test_order_does_not_matter(form: str) -> None:
    assert document(form, SUBJECT, PACKAGES) == document(form, SUBJECT, PACKAGES[::-1] * 2)
    other = SUBJECT._replace(digest=sha256(b"y"))
    assert document(form, SUBJECT, PACKAGES) != document(form, other, PACKAGES)


def test_spdx() -> None:
    made = json.loads(document(SPDX, SUBJECT, PACKAGES))
    assert made["spdxVersion"] == "SPDX-2.3" and made["dataLicense"] == "CC0-1.0"
    assert made["creationInfo"]["created"] == "2024-05-01T10:00:00Z"
    assert "#" not in made["documentNamespace"]
    ids = [each["SPDXID"] for each in made["packages"]]
    assert len(set(ids)) == 4 and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", id_) for id_ in ids)
    related = [each["relatedSpdxElement"] for each in made["relationships"]]
    assert related == ids
    assert made["relationships"][0]["relationshipType"] == "DESCRIBES"
    (reference,) = made["packages"][1]["externalRefs"]
    assert (
        reference["referenceLocator"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12"
    )


def test_cyclonedx() -> None:
    made = json.loads(document(CYCLONEDX, SUBJECT, PACKAGES))
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", made["serialNumber"])
    assert len({each["bom-ref"] for each in made["components"]}) == 3
    assert made["components"][1]["licenses"] == [{"license": {"name": "MIT"}}]
    assert made["metadata"]["component"]["version"] == SUBJECT.digest


def test_cyclonedx_fulfils_its_schema() -> None:
    odd = Package("pypi", "na me\u202e", "1 +x", "/a/METADATA", license='GPL "or" later\n')
    made = document(CYCLONEDX, SUBJECT, [*PACKAGES, odd]).decode()
    validator = JsonStrictValidator(SchemaVersion.V1_5)
    assert validator.validate_str(made) is None
    assert validator.validate_str(made.replace('"bomFormat"', '"format"')) is not None


@pytest.mark.parametrize("created", ["", "nonsense", "2024-05-01T12:00:00", "0001-01-01T00:00:00Z"])
def test_an_image_without_a_time(created: str) -> None:
    made = json.loads(document(SPDX, SUBJECT._replace(created=created), ()))
    assert made["creationInfo"]["created"] == "1970-01-01T00:00:00Z"


def test_unknown_format() -> None:
    with pytest.raises(InvalidInput, match="spdx-json"):
        document("spdx", SUBJECT, ())


def test_the_attachment_refers_to_the_image() -> None:
    subject = Descriptor(OCI_MANIFEST, SUBJECT.digest, 7)
    made = attachment(SPDX, b"{}\n", subject)
    manifest = parse_manifest(made.manifest)
    assert manifest.subject == subject and manifest.artifact_type == "application/spdx+json"
    assert [descriptor for descriptor, _ in made.blobs] == [manifest.config, *manifest.layers]
    assert all(sha256(data) == descriptor.digest for descriptor, data in made.blobs)
