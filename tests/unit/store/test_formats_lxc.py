"""metadata.yaml of LXC and Incus images: what it says, and documents that bite."""

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.store.formats import lxc
from skerry.store.image import Image

INCUS = b"""\
architecture: x86_64
creation_date: 1718161200
expiry_date: 1720753200
properties:
  architecture: amd64
  description: Debian bookworm amd64 (20240612_05:24)
  os: Debian
  release: bookworm
  serial: "20240612_05:24"
templates:
  /etc/hostname:
    when: [create, copy]
    create_only: false
    template: hostname.tpl
    properties: {}
"""


def image(**fields: Any) -> Image:
    base = Image(
        *("sha256:" + "a" * 64, (), (), "", "", 0, (), (), "2024-06-12T03:00:00Z", 0, ""),
        *("amd64", "linux", "", "", "", {}, 0.0),
    )
    return base._replace(**fields)


def test_what_incus_writes() -> None:
    metadata = lxc.parse(INCUS, "x")
    assert metadata.architecture == "amd64"
    assert metadata.created == 1718161200
    assert metadata.properties["serial"] == "20240612_05:24"
    assert metadata.templates == ("/etc/hostname",)
    config = lxc.config_of(metadata, "sha256:" + "1" * 64)
    assert config.created == "2024-06-12T03:00:00Z"
    assert config.config is not None
    assert config.config["Cmd"] == ["/sbin/init"]
    assert config.config["Labels"]["image.os"] == "Debian"


@pytest.mark.parametrize(
    ("machine", "platform"),
    [("x86_64", ("amd64", "")), ("aarch64", ("arm64", "")), ("armv7l", ("arm", "v7"))],
)
def test_architectures_go_both_ways(machine: str, platform: tuple[str, str]) -> None:
    found = lxc.parse(f"architecture: {machine}\n".encode(), "x")
    assert (found.architecture, found.variant) == platform
    written = lxc.metadata_of(image(architecture=platform[0], variant=platform[1]), "a:b")
    assert yaml.safe_load(written)["architecture"] == machine


def test_what_incus_needs_is_written() -> None:
    document = yaml.safe_load(lxc.metadata_of(image(), "team/app:v1"))
    assert document == {
        "architecture": "x86_64",
        "creation_date": 1718161200,
        "properties": {
            "architecture": "x86_64",
            "description": "team/app:v1 (x86_64)",
            "os": "app",
            "release": "v1",
        },
        "templates": {},
    }
    without_date = yaml.safe_load(lxc.metadata_of(image(created=""), ""))
    assert without_date["creation_date"] > 0


def test_properties_come_back() -> None:
    metadata = lxc.parse(INCUS, "x")
    config = lxc.config_of(metadata, "sha256:" + "1" * 64).config
    again = lxc.parse(lxc.metadata_of(image(config=config), "x:y"), "x")
    assert again.properties == metadata.properties


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "a mapping is expected"),
        (b"- a", "a mapping is expected"),
        (b"{}", "architecture None"),
        (b"architecture: pdp11", "architecture 'pdp11'"),
        (b"architecture: [x86_64]", "architecture"),
        (b"architecture: x86_64\ncreation_date: -4", "creation_date"),
        (b"architecture: x86_64\ncreation_date: 999999999999", "creation_date"),
        (b"architecture: x86_64\ncreation_date: [1]", "creation_date"),
        (b"architecture: x86_64\nproperties: [1]", "properties is not a mapping"),
        (b"architecture: x86_64\nproperties: {a: {b: c}}", "property 'a'"),
        (b"architecture: &a x86_64\nproperties: {b: *a}", "aliases"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        (b"\xff\xfe", "not YAML"),
        (b"a: b: c", "not YAML"),
        (b"? {a: b}\n: c", "not YAML"),
        (b"[" * 17, "nested deeper"),
        (b"[" + b"a," * 20_001 + b"]", "more than 20000 values"),
        (b"#" * (lxc.MAX_METADATA + 1), "more than 262144 bytes"),
    ],
)
def test_documents_that_bite(text: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        lxc.parse(text, "archive: metadata.yaml")


def test_tags_make_no_objects() -> None:
    found = lxc.parse(b"architecture: x86_64\nproperties: {a: !!python/name:os.system x}", "x")
    assert found.properties == {"a": "x"}


def test_depth_is_a_limit() -> None:
    with pytest.raises(LimitExceeded, match=r"archive: metadata\.yaml"):
        lxc.parse(b"{a: " * 40 + b"}" * 40, "archive: metadata.yaml")


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text("abc:-[]{}&*!|>'\"\n #?,0~x_", max_size=200).map(str.encode),
        st.tuples(st.integers(0, len(INCUS) - 1), st.integers(0, 255)).map(
            lambda at: INCUS[: at[0]] + bytes([at[1]]) + INCUS[at[0] + 1 :]
        ),
    )
)
def test_any_document(data: bytes) -> None:
    with contextlib.suppress(SkerryError):
        metadata = lxc.parse(data, "x")
        lxc.config_of(metadata, "sha256:" + "1" * 64)
