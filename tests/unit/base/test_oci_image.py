"""OCI and Docker documents: read, written back, and refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base import oci_image
from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.oci_image import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    encode,
    parse_config,
    parse_index,
    parse_manifest,
)

DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": "application/x", "digest": DIGEST, "size": 5}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": DESCRIPTOR,
    "layers": [DESCRIPTOR | {"urls": ["https://example.org/x"], "annotations": {"a": "b"}}],
    "annotations": {"x": "y"},
}
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["A=b"], "Healthcheck": {"Test": ["NONE"]}, "Unknown": [1, {"x": None}]},
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True}],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "manifests": [
        DESCRIPTOR | {"platform": {"architecture": "arm", "os": "linux", "os.version": "1"}}
    ],
}


def pack(document: object) -> bytes:
    return json.dumps(document).encode()


def test_documents_come_back_as_they_went() -> None:
    manifest = parse_manifest(pack(MANIFEST))
    assert json.loads(encode(manifest)) == MANIFEST
    assert parse_manifest(encode(manifest)) == manifest
    config = parse_config(pack(CONFIG))
    assert json.loads(encode(config)) == CONFIG
    index = parse_index(pack(INDEX))
    assert index.manifests[0].platform
    assert index.manifests[0].platform.os_version == "1"
    assert json.loads(encode(index)) == INDEX


def test_encoding_does_not_depend_on_the_order_of_keys() -> None:
    one = parse_config(pack({**CONFIG, "config": {"A": 1, "B": {"C": 2, "D": 3}}}))
    two = parse_config(pack({**CONFIG, "config": {"B": {"D": 3, "C": 2}, "A": 1}}))
    assert encode(one) == encode(two)


def test_docker_manifests() -> None:
    assert parse_manifest(pack(MANIFEST | {"mediaType": DOCKER_MANIFEST})).layers


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"mediaType": OCI_INDEX},
        {"config": DESCRIPTOR | {"digest": "sha256:../../x"}},
        {"config": DESCRIPTOR | {"size": -1}},
        {"config": DESCRIPTOR | {"size": 1 << 62}},
        {"config": DESCRIPTOR | {"size": "5"}},
        {"config": None},
        {"layers": {}},
        {"layers": [DESCRIPTOR | {"digest": "x"}]},
        {"annotations": {"a": 1}},
    ],
)
def test_manifests_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"manifest|digest"):
        parse_manifest(pack(MANIFEST | change))


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"type": "other", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["nonsense"]}},
        {"rootfs": None},
        {"config": []},
        {"history": [1]},
        {"architecture": 5},
    ],
)
def test_configs_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        parse_config(pack(CONFIG | change))


def test_limits() -> None:
    with pytest.raises(LimitExceeded, match="layers"):
        parse_manifest(pack(MANIFEST | {"layers": [DESCRIPTOR] * (oci_image.MAX_LAYERS + 1)}))
    with pytest.raises(LimitExceeded, match="urls"):
        parse_manifest(pack(MANIFEST | {"config": DESCRIPTOR | {"urls": ["u"] * 99}}))
    with pytest.raises(LimitExceeded, match="bytes"):
        parse_manifest(pack(MANIFEST) + b" " * oci_image.MAX_DOCUMENT)
    with pytest.raises(LimitExceeded, match="nested"):
        parse_config(b'{"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    with pytest.raises(LimitExceeded, match="history"):
        parse_config(pack(CONFIG | {"history": [{}] * (oci_image.MAX_HISTORY + 1)}))
    with pytest.raises(LimitExceeded, match="manifests"):
        parse_index(pack(INDEX | {"manifests": [DESCRIPTOR] * (oci_image.MAX_MANIFESTS + 1)}))


def test_brackets_in_strings_are_no_depth() -> None:
    config = parse_config(pack(CONFIG | {"comment": '[{"' * 1000 + "\\"}))
    assert config.comment.startswith("[{")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)


@settings(max_examples=150)
@given(key=st.sampled_from(sorted(MANIFEST)), value=JSON)
def test_anything_in_a_field_is_read_or_refused(key: str, value: object) -> None:
    try:
        parse_manifest(pack({**MANIFEST, key: value}))
    except InvalidInput as error:
        assert error.message


@settings(max_examples=200)
@given(JSON | st.floats() | st.integers(-(1 << 70), 1 << 70) | st.text(st.characters(codec=None)))
def test_what_comes_in_can_be_read_again(value: object) -> None:
    """What the strict parser takes the fast one takes as well, and for the same."""
    data = pack({**CONFIG, "config": {"x": value}})
    try:
        config = parse_config(data)
    except InvalidInput:
        return
    assert parse_config(data, own=True) == config


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b"NaN", "NaN is no JSON"),
        (b"1e999", "out of range"),
        (b"9" * 30, "out of range"),
        (b"9" * 9000, "out of range"),
        (b'"\\ud800"', "surrogates"),
        (b'"\xff"', "invalid start byte"),
    ],
    ids=["twice", "nan", "float", "integer", "digits", "surrogate", "utf-8"],
)
def test_what_readers_differ_about_is_refused(value: bytes, reason: str) -> None:
    data = pack(CONFIG | {"config": {"x": "HERE"}}).replace(b'"HERE"', value)
    with pytest.raises(InvalidInput, match=reason):
        parse_config(data)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_manifest, parse_index, parse_config):
        with pytest.raises(InvalidInput):
            parse(data)
