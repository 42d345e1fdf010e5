"""Payloads and signature manifests: what holds, what is replayed, what is nonsense."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.digests import sha256
from skerry.base.errors import Forbidden, InvalidInput, LimitExceeded
from skerry.base.oci_image import OCI_MANIFEST, Descriptor, Manifest, encode, parse_manifest
from skerry.base.references import parse_reference
from skerry.trust import keys
from skerry.trust.payload import MAX_PAYLOAD, TYPE, check_payload, encode_payload, parse_payload
from skerry.trust.signatures import (
    ANNOTATION,
    MAX_SIGNATURES,
    Signature,
    make_signature,
    referrer_manifest,
    signature_layers,
    signature_tag,
    tag_manifest,
    verify,
    verify_any,
)

PRIVATE, PUBLIC = keys.generate()
KEY = keys.load_private(PRIVATE)
TRUSTED = [keys.load_public(PUBLIC, "team.pub")]
IMAGE = parse_reference("registry.example/team/app:1")
DIGEST = sha256(b"the manifest")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def signed(payload: bytes) -> Signature:
    return make_signature(payload, keys.sign(KEY, payload))


def test_the_payload_is_cosigns() -> None:
    data = encode_payload(parse_reference("busybox:1"), DIGEST, {"b": "2", "a": "1"})
    assert json.loads(data) == {
        "critical": {
            "identity": {"docker-reference": "index.docker.io/library/busybox"},
            "image": {"docker-manifest-digest": DIGEST},
            "type": "cosign container image signature",
        },
        "optional": {"a": "1", "b": "2"},
    }
    parsed = parse_payload(data)
    assert parsed.annotations == {"a": "1", "b": "2"}
    check_payload(parsed, parse_reference("busybox:other"), DIGEST)


def test_a_good_signature() -> None:
    found = verify(signed(encode_payload(IMAGE, DIGEST)), IMAGE, DIGEST, TRUSTED)
    assert found.key.name == "team.pub" and found.payload.digest == DIGEST


@pytest.mark.parametrize(
    ("reference", "digest", "told"),
    [
        ("registry.example/team/app:1", sha256(b"another"), "for the manifest"),
        ("registry.example/team/other:1", DIGEST, "not registry.example/team/app"),
        ("other.example/team/app:1", DIGEST, "not registry.example/team/app"),
        ("registry.example/team/app:2", DIGEST, "for the tag 2"),
    ],
)
def test_a_signature_of_something_else_is_worth_nothing(
    reference: str, digest: str, told: str
) -> None:
    document = json.loads(encode_payload(parse_reference(reference), digest))
    document["critical"]["identity"]["docker-reference"] = reference
    replayed = signed(json.dumps(document).encode())
    with pytest.raises(Forbidden, match=told):
        verify(replayed, IMAGE, DIGEST, TRUSTED)


def test_a_changed_payload_or_an_unknown_key_is_worth_nothing() -> None:
    good = signed(encode_payload(IMAGE, DIGEST))
    stranger = [keys.load_public(keys.generate()[1])]
    for signature, trusted in (
        (good._replace(payload=good.payload + b" "), TRUSTED),
        (good, stranger),
        (good, []),
    ):
        with pytest.raises(Forbidden, match="trusted key"):
            verify(signature, IMAGE, DIGEST, trusted)


def test_one_bad_signature_does_not_spoil_a_good_one() -> None:
    good = signed(encode_payload(IMAGE, DIGEST))
    held, reasons = verify_any([Signature(b"{}", "?"), good, good], IMAGE, DIGEST, TRUSTED)
    assert len(held) == 1 and reasons == ["signature is not base64"]


def test_manifests_carry_signatures() -> None:
    layer = signed(encode_payload(IMAGE, DIGEST)).descriptor
    assert signature_tag(DIGEST) == DIGEST.replace(":", "-") + ".sig"
    subject = Descriptor(OCI_MANIFEST, DIGEST, 12)
    for bundle in (tag_manifest([layer]), referrer_manifest(layer, subject)):
        assert signature_layers(bundle.manifest) == [layer]
        assert parse_manifest(bundle.manifest).config.digest == sha256(bundle.config)
    assert parse_manifest(referrer_manifest(layer, subject).manifest).subject == subject


def test_limits_of_signature_manifests() -> None:
    config = Descriptor("c", DIGEST, 2)
    layer = signed(b"{}").descriptor
    many = Manifest(2, config, [layer] * (MAX_SIGNATURES + 1), OCI_MANIFEST)
    with pytest.raises(LimitExceeded, match="signatures"):
        signature_layers(encode(many))
    large = Descriptor(layer.media_type, DIGEST, MAX_PAYLOAD + 1, annotations={ANNOTATION: "x"})
    with pytest.raises(LimitExceeded, match="payload"):
        signature_layers(encode(Manifest(2, config, [large], OCI_MANIFEST)))
    other = Descriptor("text/plain", DIGEST, 1)
    assert signature_layers(encode(Manifest(2, config, [other], OCI_MANIFEST))) == []
    with pytest.raises(LimitExceeded):
        parse_payload(b" " * (MAX_PAYLOAD + 1))
    with pytest.raises(LimitExceeded):
        encode_payload(IMAGE, DIGEST, {"k": "v" * MAX_PAYLOAD})


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    for read in (parse_payload, signature_layers):
        with pytest.raises(InvalidInput):
            read(data)


@given(JSON, JSON, JSON, JSON)
def test_no_document_of_the_right_shape_breaks_them(a: Any, b: Any, c: Any, d: Any) -> None:
    document = {
        "critical": {
            "identity": {"docker-reference": a},
            "image": {"docker-manifest-digest": b if b else DIGEST},
            "type": c if c else TYPE,
        },
        "optional": d,
    }
    try:
        parsed = parse_payload(json.dumps(document).encode())
        check_payload(parsed, IMAGE, DIGEST)
    except (InvalidInput, Forbidden):
        return
    assert parsed.digest == DIGEST and parse_reference(parsed.reference).name == IMAGE.name


def test_the_payload_is_as_containers_image_reads_and_writes_it() -> None:
    """skopeo and podman take exactly these fields, and sign with more optional ones."""
    mine = json.loads(encode_payload(IMAGE, DIGEST))
    assert set(mine) == {"critical", "optional"} and mine["optional"] is None
    assert set(mine["critical"]) == {"identity", "image", "type"}
    mine["critical"]["identity"]["docker-reference"] = str(IMAGE)
    mine["optional"] = {"creator": "containers/image 5.23.1", "timestamp": 1670000000}
    theirs = signed(json.dumps(mine, separators=(",", ":"), sort_keys=True).encode())
    found = verify(theirs, IMAGE, DIGEST, TRUSTED)
    assert found.payload.annotations == {"creator": "containers/image 5.23.1"}
    with pytest.raises(Forbidden, match="for the tag 1, not 2"):
        verify(theirs, IMAGE._replace(tag="2"), DIGEST, TRUSTED)
