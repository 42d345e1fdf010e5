"""`registries.toml`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.registry.config import (
    Registries,
    RegistrySettings,
    is_loopback,
    load_registries,
    parse_registries,
)


def test_defaults() -> None:
    assert Registries().of("docker.io").location == "registry-1.docker.io"
    assert Registries().of("example.test") == RegistrySettings("example.test", "example.test")
    assert Registries().of("localhost:5000").insecure


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:1", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"]
)
def test_loopback(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["localhost.example", "128.0.0.1", "example:5000", "[::2]:5000"])
def test_not_loopback(name: str) -> None:
    assert not is_loopback(name)


def test_the_root_wins_over_the_system(tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    system.write_text(
        '[defaults]\nproxy = "http://p:1"\n[registry."a.test"]\nblocked = true\n'
        '[registry."b.test"]\nblocked = true\n'
    )
    (tmp_path / "registries.toml").write_text(
        '[registry."a.test"]\nmirrors = ["m.test:5000/hub"]\nca = "/ca.pem"\n'
    )
    found = load_registries(tmp_path, str(system))
    assert found.of("a.test").mirrors == ("m.test:5000/hub",)
    assert not found.of("a.test").blocked
    assert found.of("b.test").blocked
    assert found.of("c.test").proxy == "http://p:1"


def test_no_files(tmp_path: Path) -> None:
    assert load_registries(tmp_path, "/nonexistent").of("a.test").mirrors == ()


def test_certificates_beside_dockers(tmp_path: Path) -> None:
    folder = tmp_path / "a.test:5000"
    folder.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (folder / name).touch()
    found = Registries(certs_folders=(str(tmp_path),)).of("a.test:5000")
    assert (found.ca, found.cert, found.key) == tuple(
        str(folder / name) for name in ("ca.crt", "client.cert", "client.key")
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x", "Expected"),
        ("[other]", "other: unknown setting"),
        ("registry = 1", "registry: has to be a table"),
        ('[registry."a/b"]', "not a host"),
        ('[registry."a.test"]\ninsecur = true', "insecur: unknown setting"),
        ('[registry."a.test"]\ninsecure = "yes"', "insecure: has to be true or false"),
        ('[registry."a.test"]\nca = "relative"', "ca: has to be an absolute path"),
        ('[registry."a.test"]\ncert = "/c"', "cert and key go together"),
        ('[registry."a.test"]\nmirrors = "m"', "mirrors: has to be a list"),
        ('[registry."a.test"]\nmirrors = ["https://m"]', "is not host"),
        ('[registry."a.test"]\nlocation = "a b"', "is not host"),
        ('[defaults]\nproxy = "socks5://p"', "proxy: has to be"),
    ],
)
def test_faults_name_the_file_and_the_key(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault) as caught:
        parse_registries(text.encode(), "/etc/x.toml")
    assert caught.value.message.startswith("/etc/x.toml: ")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        parse_registries(data, "file")
    except InvalidInput as error:
        assert error.message.startswith("file: ")
