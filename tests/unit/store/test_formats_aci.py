"""ACI manifests: what becomes of `app`, and what is refused."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError, Unsupported
from skerry.store.formats import aci

DIFF_ID = "sha256:" + "1" * 64


def manifest(**fields: Any) -> bytes:
    return json.dumps(
        {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"} | fields
    ).encode()


FULL = manifest(
    labels=[
        {"name": "version", "value": "1.2"},
        {"name": "os", "value": "linux"},
        {"name": "arch", "value": "aarch64"},
    ],
    app={
        "exec": ["/bin/app", "--flag"],
        "user": "100",
        "group": "300",
        "workingDirectory": "/srv",
        "environment": [{"name": "A", "value": "b=c"}],
        "ports": [
            {"name": "web", "protocol": "tcp", "port": 80},
            {"name": "many", "protocol": "udp", "port": 5000, "count": 2},
        ],
        "mountPoints": [{"name": "data", "path": "/data", "readOnly": True}],
        "isolators": [{"name": "resource/cpu", "value": {"limit": "1"}}],
    },
    annotations=[
        {"name": "created", "value": "2015-10-27T19:32:27.67021798Z"},
        {"name": "authors", "value": "somebody"},
        {"name": "homepage", "value": "https://example.com"},
    ],
)


def test_everything_that_has_a_counterpart() -> None:
    config, names = aci.config_of(aci.parse(FULL, "x"), DIFF_ID, "x")
    assert names == ("example.com/app:1.2",)
    assert (config.architecture, config.os) == ("arm64", "linux")
    assert config.created == "2015-10-27T19:32:27.67021798Z"
    assert config.author == "somebody"
    found = dict(config.config or {})
    labels = found.pop("Labels")
    assert labels["org.opencontainers.image.version"] == "1.2"
    assert labels["org.opencontainers.image.url"] == "https://example.com"
    assert found == {
        "Entrypoint": ["/bin/app", "--flag"],
        "User": "100:300",
        "WorkingDir": "/srv",
        "Env": ["A=b=c"],
        "ExposedPorts": {"80/tcp": {}, "5000/udp": {}, "5001/udp": {}},
        "Volumes": {"/data": {}},
    }


def test_an_image_without_an_app() -> None:
    config, names = aci.config_of(aci.parse(manifest(), "x"), DIFF_ID, "x")
    assert names == ("example.com/app:latest",)
    assert set(config.config or {}) == {"Labels"}


def test_a_name_that_is_no_reference_is_a_label_only() -> None:
    config, names = aci.config_of(aci.parse(manifest(name="Not A/Name"), "x"), DIFF_ID, "x")
    assert names == ()
    assert (config.config or {})["Labels"]["org.opencontainers.image.title"] == "Not A/Name"


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"acKind": "PodManifest"}, InvalidInput, "acKind"),
        ({"name": 4}, InvalidInput, "name"),
        ({"dependencies": [{"imageName": "base"}]}, Unsupported, r"other images \(base\)"),
        ({"dependencies": [4]}, Unsupported, "depends"),
        ({"pathWhitelist": ["/a"]}, Unsupported, "pathWhitelist"),
        ({"labels": [{"name": "os", "value": "freebsd"}]}, Unsupported, "freebsd"),
        ({"labels": [{"name": "arch", "value": "vax"}]}, Unsupported, "vax"),
        ({"app": {"exec": ["sh"], "user": "0", "group": "0"}}, InvalidInput, "absolute"),
        ({"app": {"exec": ["/sh"], "user": "/etc", "group": "0"}}, Unsupported, "of a file"),
        ({"app": {"environment": [{"name": "A=", "value": ""}]}}, InvalidInput, "environment"),
        ({"app": {"ports": [{"name": "a", "protocol": "x", "port": 1}]}}, InvalidInput, "port"),
        (
            {"app": {"ports": [{"name": "a", "protocol": "tcp", "port": 1, "count": 65535}]}},
            LimitExceeded,
            "ports",
        ),
        (
            {"app": {"ports": [{"name": "a", "protocol": "tcp", "port": 1, "count": 10**9}]}},
            InvalidInput,
            "port",
        ),
        ({"labels": [[]] * 20_000}, LimitExceeded, "too large"),
    ],
)
def test_refusals(fields: dict[str, Any], kind: type[SkerryError], words: str) -> None:
    with pytest.raises(kind, match=words):
        aci.config_of(aci.parse(manifest(**fields), "x"), DIFF_ID, "x")


def test_a_bomb_of_brackets() -> None:
    with pytest.raises(SkerryError):
        aci.parse(b"[" * 500_000, "x")


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)).map(
            lambda at: FULL[: at[0]] + bytes([at[1]]) + FULL[at[0] + 1 :]
        ),
    )
)
def test_any_manifest(data: bytes) -> None:
    with contextlib.suppress(SkerryError):
        aci.config_of(aci.parse(data, "x"), DIFF_ID, "x")
