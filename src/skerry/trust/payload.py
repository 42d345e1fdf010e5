"""The signed statement: containers' "simple signing" document, as cosign writes it.

    {"critical": {"identity": {"docker-reference": NAME},
                  "image": {"docker-manifest-digest": DIGEST},
                  "type": "cosign container image signature"},
     "optional": {…} | null}

A signature is good for one manifest under one name: both are compared on every check, so one that
was copied from another image or repository is worth nothing.
"""

import json
from typing import Final, NamedTuple

import msgspec

from skerry.base.digests import parse_digest
from skerry.base.errors import Forbidden, InvalidInput, LimitExceeded
from skerry.base.references import Reference, parse_reference

MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
TYPE: Final = "cosign container image signature"
_TYPES: Final = frozenset({TYPE, "atomic container signature"})
MAX_PAYLOAD: Final = 64 << 10
MAX_ANNOTATIONS: Final = 128


class Payload(NamedTuple):
    """What was signed. `reference` is as it came; `annotations` are the optional strings."""

    reference: str
    digest: str
    annotations: dict[str, str]


class _Identity(msgspec.Struct, rename="kebab"):
    docker_reference: str


class _Image(msgspec.Struct, rename="kebab"):
    docker_manifest_digest: str


class _Critical(msgspec.Struct):
    identity: _Identity
    image: _Image
    type: str


class _Document(msgspec.Struct):
    critical: _Critical
    optional: dict[str, msgspec.Raw] | None = None


def encode_payload(
    reference: Reference, digest: str, annotations: dict[str, str] | None = None
) -> bytes:
    """The bytes to sign: this manifest, under the repository's name (no tag), as cosign does."""
    if len(annotations or ()) > MAX_ANNOTATIONS:
        raise LimitExceeded(f"more than {MAX_ANNOTATIONS} annotations")
    document = {
        "critical": {
            "identity": {"docker-reference": _name(reference)},
            "image": {"docker-manifest-digest": parse_digest(digest)},
            "type": TYPE,
        },
        "optional": dict(sorted(annotations.items())) if annotations else None,
    }
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > MAX_PAYLOAD:
        raise LimitExceeded(f"payload of {len(data)} bytes, at most {MAX_PAYLOAD}")
    return data


def parse_payload(data: bytes) -> Payload:
    """InvalidInput or LimitExceeded unless it is such a document."""
    if len(data) > MAX_PAYLOAD:
        raise LimitExceeded(f"payload of {len(data)} bytes, at most {MAX_PAYLOAD} are read")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"signed payload: {error!s:.160}") from None
    critical = document.critical
    if critical.type not in _TYPES:
        raise InvalidInput(f"signed payload: type {critical.type!r:.60} is not {TYPE!r}")
    if len(document.optional or ()) > MAX_ANNOTATIONS:
        raise LimitExceeded(f"signed payload: more than {MAX_ANNOTATIONS} annotations")
    notes = {key: bytes(value) for key, value in (document.optional or {}).items()}
    return Payload(
        critical.identity.docker_reference,
        parse_digest(critical.image.docker_manifest_digest),
        {key: json.loads(value) for key, value in notes.items() if value[:1] == b'"'},
    )


def check_payload(payload: Payload, reference: Reference, digest: str) -> None:
    """Forbidden unless the statement is about this manifest under this name.

    A statement without a tag is good for all tags of its repository; one with a tag for that tag
    and for the bare digest.
    """
    if payload.digest != digest:
        raise Forbidden(f"the signature is for the manifest {payload.digest}, not {digest}")
    named = parse_reference(payload.reference, default_tag="")
    if named.name != reference.name:
        raise Forbidden(f"the signature is for {named.name}, not {reference.name}")
    if named.tag and reference.tag and named.tag != reference.tag:
        raise Forbidden(f"the signature is for the tag {named.tag}, not {reference.tag}")
    if named.digest and named.digest != digest:
        raise Forbidden(f"the signature is for {named.digest}, not {digest}")


def _name(reference: Reference) -> str:
    # What cosign calls Docker Hub.
    registry = "index.docker.io" if reference.registry == "docker.io" else reference.registry
    return f"{registry}/{reference.repository}"
