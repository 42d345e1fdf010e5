"""Signatures as they lie in a registry: manifests whose layers are signed payloads.

Under the tag `sha256-<hex>.sig` stands one manifest with a layer for every signature (cosign's tag
scheme); as a referrer (OCI distribution 1.1) each signature is a manifest of its own whose subject
is the image. What comes from there is hostile until a key has vouched for it.
"""

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from skerry.base.digests import hex_of, parse_digest, sha256
from skerry.base.errors import Forbidden, InvalidInput, LimitExceeded
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode,
    parse_manifest,
)
from skerry.base.references import Reference
from skerry.trust.payload import MAX_PAYLOAD, MEDIA_TYPE, Payload, check_payload, parse_payload

if TYPE_CHECKING:
    # The key library is large, and an engine that checks no signature does without.
    from skerry.trust.keys import Verifying

ANNOTATION: Final = "dev.cosignproject.cosign/signature"
ARTIFACT_TYPE: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
MAX_SIGNATURES: Final = 100
"""Of one image: what a check reads at most."""


class Signature(NamedTuple):
    """One signature, not yet believed. `value` is base64."""

    payload: bytes
    value: str

    @property
    def descriptor(self) -> Descriptor:
        """The layer that carries it."""
        return Descriptor(
            MEDIA_TYPE,
            sha256(self.payload),
            len(self.payload),
            annotations={ANNOTATION: self.value},
        )


class Verified(NamedTuple):
    """A signature that holds, and the key that made it."""

    payload: Payload
    key: "Verifying"


class Bundle(NamedTuple):
    """A manifest to store with its configuration."""

    manifest: bytes
    config: bytes


def make_signature(payload: bytes, value: bytes) -> Signature:
    """From the bytes that were signed and the raw signature."""
    return Signature(payload, base64.b64encode(value).decode())


def signature_tag(digest: str) -> str:
    """`sha256-<hex>.sig`."""
    return f"{digest.partition(':')[0]}-{hex_of(digest)}.sig"


def signature_layers(data: bytes, what: str = "signature manifest") -> list[Descriptor]:
    """The layers of a signature manifest that carry signatures; others are passed over.

    InvalidInput, LimitExceeded.
    """
    manifest = parse_manifest(data, what)
    layers = [
        layer
        for layer in manifest.layers
        if layer.media_type == MEDIA_TYPE and ANNOTATION in layer.annotations
    ]
    if len(layers) > MAX_SIGNATURES:
        raise LimitExceeded(f"{what}: more than {MAX_SIGNATURES} signatures")
    for layer in layers:
        if layer.size > MAX_PAYLOAD:
            raise LimitExceeded(f"{what}: payload of {layer.size} bytes, at most {MAX_PAYLOAD}")
    return layers


def tag_manifest(layers: Iterable[Descriptor]) -> Bundle:
    """The manifest for the tag: it looks like an image, for registries that know nothing else."""
    layers = list(layers)
    diff_ids = [layer.digest for layer in layers]
    config = json.dumps(
        {"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers",
         "diff_ids": diff_ids}}, separators=(",", ":")
    ).encode()  # fmt: skip
    return Bundle(encode(Manifest(2, _config(OCI_CONFIG, config), layers, OCI_MANIFEST)), config)


def referrer_manifest(layer: Descriptor, subject: Descriptor) -> Bundle:
    """The manifest of one signature that refers to the image."""
    plain = Descriptor(subject.media_type, parse_digest(subject.digest), subject.size)
    manifest = Manifest(
        2, _config(ARTIFACT_TYPE, b"{}"), [layer], OCI_MANIFEST, ARTIFACT_TYPE, subject=plain
    )
    return Bundle(encode(manifest), b"{}")


def verify(
    signature: Signature, reference: Reference, digest: str, keys: Iterable["Verifying"]
) -> Verified:
    """The key that made it and what it says; Forbidden or InvalidInput tells why it is no good.

    The signature is checked before its payload is parsed.
    """
    value = decode_signature(signature.value)
    key = next((key for key in keys if key.verifies(value, signature.payload)), None)
    if key is None:
        raise Forbidden("a signature was not made with a trusted key, or its payload was changed")
    payload = parse_payload(signature.payload)
    check_payload(payload, reference, digest)
    return Verified(payload, key)


def verify_any(
    signatures: Iterable[Signature], reference: Reference, digest: str, keys: Iterable["Verifying"]
) -> tuple[list[Verified], list[str]]:
    """Those that hold, each key once, and why each of the others does not."""
    keys = list(keys)
    good: dict[str, Verified] = {}
    reasons: list[str] = []
    for signature in signatures:
        try:
            found = verify(signature, reference, digest, keys)
        except (Forbidden, InvalidInput) as error:
            reasons.append(error.message)
        else:
            good.setdefault(found.key.fingerprint, found)
    return list(good.values()), list(dict.fromkeys(reasons))


def _config(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, sha256(data), len(data))


def decode_signature(text: str) -> bytes:
    """Standard base64 of at most 4 KiB; InvalidInput."""
    if not 0 < len(text) <= 4096:
        raise LimitExceeded(f"signature of {len(text)} characters, 1 to 4096 are read")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidInput("signature is not base64") from None
