"""Options of both faces, as they are asked for."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.api import build_options
from skerry.api.routes.build import registry_config
from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.build.builder import epoch_of
from skerry.build.request import Options


def test_everything_is_read() -> None:
    body, options = build_options.parse(
        {
            "Dockerfile": "d",
            "Tags": ["a", "a:latest", "b:1"],
            "BuildArgs": {"A": "1", "B": None},
            "Secrets": {"k": base64.b64encode(b"s").decode()},
            "SSH": ["default"],
            "Allow": ["network.host"],
            "Outputs": [{"Type": "oci", "RewriteTimestamp": True}],
            "CacheFrom": [{"Type": "local", "Name": "x"}],
            "CacheTo": [{"Type": "registry", "Ref": "r/c", "Mode": "max"}],
            "SourceDateEpoch": 5,
            "Memory": 100,
            "Auth": {"https://index.docker.io/v1/": {"username": "u", "password": "p"}},
            "Contexts": {"c": "docker-image://x"},
        }
    )
    assert options.tags == ("a:latest", "b:1")
    assert options.secrets["k"].data == b"s"
    assert (options.allow_host_network, options.allow_insecure) == (True, False)
    assert options.outputs[0].rewrite_timestamp
    assert options.cache_from[0].reference == "x"
    assert options.cache_to[0].mode == "max"
    assert options.host == {"Memory": 100}
    assert options.credential("docker.io") is not None
    assert body.contexts == {"c": "docker-image://x"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Tags": ["x@sha256:" + "a" * 64]}, "cannot contain a digest"),
        ({"Tags": "x"}, "invalid build options"),
        ({"Secrets": {"k": "%"}}, "not base64"),
        ({"Allow": ["everything"]}, "cannot allow"),
        ({"Outputs": [{"Typ": "x"}]}, "invalid build options"),
        ({"CacheTo": [{"Type": "s3"}]}, "unknown cache type"),
        ({"CacheFrom": [{"Type": "registry"}]}, "needs Ref"),
        ({"SourceDateEpoch": -1}, "out of range"),
    ],
)
def test_what_cannot_be_meant_is_refused(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        build_options.parse(body)


def test_secrets_are_limited() -> None:
    large = base64.b64encode(bytes(600 << 10)).decode()
    with pytest.raises(LimitExceeded, match="secret k"):
        build_options.parse({"Secrets": {"k": large}})


@given(
    st.dictionaries(
        st.sampled_from(["Tags", "Outputs", "CacheTo", "Secrets", "BuildArgs", "Pull", "Auth"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=6), inner, max_size=2)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_body_is_options_or_an_error(body: dict[str, Any]) -> None:
    try:
        build_options.parse(body)
    except SkerryError as error:
        assert error.message


@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: json.dumps(text).encode()))
def test_any_registry_header_is_credentials_or_an_error(data: bytes) -> None:
    try:
        registry_config(base64.urlsafe_b64encode(data).decode())
    except SkerryError as error:
        assert error.message


def test_the_epoch_may_be_a_build_argument() -> None:
    assert epoch_of(Options(build_args={"SOURCE_DATE_EPOCH": "17"})) == 17
    assert epoch_of(Options(epoch=3, build_args={"SOURCE_DATE_EPOCH": "17"})) == 3
    assert epoch_of(Options(build_args={"SOURCE_DATE_EPOCH": ""})) is None
    with pytest.raises(InvalidInput, match="SOURCE_DATE_EPOCH"):
        epoch_of(Options(build_args={"SOURCE_DATE_EPOCH": "today"}))
