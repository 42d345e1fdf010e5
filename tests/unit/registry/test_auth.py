"""Docker's config.json, credential helpers and X-Registry-Auth."""

import base64
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.registry import docker_config, helpers
from skerry.registry.auth import (
    DOCKER_HUB_KEY,
    Credential,
    Credentials,
    decode_auth_config,
    decode_auth_header,
)

HELPER = """#!/bin/sh
cd {folder}
case "$1" in
get)
  read -r server
  cat "$(echo "$server" | tr / _)" 2>/dev/null && exit
  echo "credentials not found in native keychain"
  exit 1;;
store)
  cat > entry
  mv entry "$(sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' entry | tr / _)";;
erase)
  read -r server
  rm "$(echo "$server" | tr / _)";;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a credential helper that keeps files."""
    folder = tmp_path / "kept"
    folder.mkdir()
    program = tmp_path / "docker-credential-files"
    program.write_text(HELPER.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return "files"


def test_login_and_logout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    credentials = Credentials(str(path))
    assert not credentials.get("docker.io")
    assert credentials.store("docker.io", Credential("user", "pass:word")) == str(path)
    assert json.loads(path.read_text())["auths"] == {
        DOCKER_HUB_KEY: {"auth": base64.b64encode(b"user:pass:word").decode()}
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert credentials.get("docker.io") == Credential("user", "pass:word")
    assert not credentials.get("example.test")
    assert credentials.erase("docker.io")
    assert not credentials.erase("docker.io")
    assert os.listdir(path.parent) == ["config.json"]


def test_identity_token(tmp_path: Path) -> None:
    credentials = Credentials(str(tmp_path / "config.json"))
    credentials.store("a.test", Credential("user", "password", "token"))
    assert credentials.get("a.test") == Credential("user", "", "token")
    assert "cGFzc3dvcmQ" not in (tmp_path / "config.json").read_text()


def test_unknown_keys_and_links_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text('{"psFormat": "x", "auths": {"b.test": {"auth": "dTpw"}}}')
    link = tmp_path / "config.json"
    link.symlink_to(real)
    Credentials(str(link)).store("a.test", Credential("u", "p"))
    assert link.is_symlink()
    document = json.loads(real.read_text())
    assert document["psFormat"] == "x"
    assert set(document["auths"]) == {"a.test", "b.test"}


def test_addresses_as_older_clients_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"auths": {"https://a.test:5000/v2/": {"auth": "dTpw"}}}')
    assert Credentials(str(path)).get("a.test:5000") == Credential("u", "p")
    assert not Credentials(str(path)).get("a.test")


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "config.json")

    def login(number: int) -> None:
        Credentials(path).store(f"r{number}.test", Credential("u", "p"))

    threads = [threading.Thread(target=login, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(docker_config.read(path)["auths"]) == 8


def test_given_credentials_win_and_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("broken")
    given = Credentials(str(path), given=Credential("u", "p"))
    assert given.get("a.test") == Credential("u", "p")
    assert not given.of_mirror().get("a.test")


def test_a_helper_keeps_the_secret(tmp_path: Path, helper: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {"a.test": helper}}))
    credentials = Credentials(str(path))
    assert not credentials.get("a.test")
    assert credentials.store("a.test", Credential("u", "secret")) == "docker-credential-files"
    assert "secret" not in path.read_text()
    assert credentials.get("a.test") == Credential("u", "secret")
    credentials.store("a.test", Credential("u", "", "refresh"))
    assert credentials.get("a.test") == Credential(identity_token="refresh")
    assert credentials.erase("a.test")
    assert not credentials.get("a.test")


def test_a_store_for_all(tmp_path: Path, helper: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credsStore": helper, "auths": {"b.test": {"auth": "dTpw"}}}))
    credentials = Credentials(str(path))
    credentials.store("a.test", Credential("x", "y"))
    assert credentials.get("a.test") == Credential("x", "y")
    assert credentials.get("b.test") == Credential("u", "p")


def test_a_helper_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-slow"
    program.write_text("#!/bin/sh\nsleep 1000 &\nsleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InvalidInput, match=r"docker-credential-slow get: no answer in 0\.1 s"):
        helpers.get("slow", "a.test", timeout=0.1)


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo locked; exit 1", "locked"),
        ("exit 3", "exit status 3"),
        ("echo nonsense", "no JSON"),
        ('echo \'{"Username": 1, "Secret": 2}\'', "no JSON"),
        ("head -c 300000 /dev/zero", "more than"),
    ],
)
def test_a_helper_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, fault: str
) -> None:
    program = tmp_path / "docker-credential-bad"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InvalidInput, match=fault):
        helpers.get("bad", "a.test")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "none-of-these"])
def test_a_helper_that_is_none(name: str) -> None:
    with pytest.raises(InvalidInput):
        helpers.get(name, "a.test")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "x",
        '{"auths": []}',
        '{"credsStore": 1}',
        '{"auths": {"a.test": []}}',
        '{"auths": {"a.test": {"auth": "?"}}}',
        '{"auths": {"a.test": {"auth": "dQ=="}}}',
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=str(path)):
        Credentials(str(path)).get("a.test")


class TestHeader:
    def test_of_the_docker_cli(self) -> None:
        document = {"username": "ü", "password": "p", "serveraddress": "a.test"}
        value = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
        assert decode_auth_header(value) == Credential("ü", "p")
        assert decode_auth_header(value.rstrip("=")) == Credential("ü", "p")

    def test_nobody(self) -> None:
        assert decode_auth_header("") is None
        assert decode_auth_header(base64.urlsafe_b64encode(b"{}").decode()) is None

    def test_tokens(self) -> None:
        assert decode_auth_config({"identitytoken": "i"}) == Credential(identity_token="i")
        assert decode_auth_config({"registrytoken": "r"}) == Credential(registry_token="r")
        assert decode_auth_config({"auth": "dTpw", "username": None}) == Credential("u", "p")

    @given(
        st.one_of(
            st.text(max_size=80),
            st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode()),
        )
    )
    def test_any_text(self, text: str) -> None:
        try:
            found = decode_auth_header(text)
        except InvalidInput:
            return
        assert found is None or found


@given(st.binary(max_size=100))
def test_any_config_file(data: bytes) -> None:
    try:
        assert isinstance(docker_config.parse(data), dict)
    except InvalidInput as error:
        assert "config.json" in error.message


def test_a_secret_is_not_shown() -> None:
    assert "hidden" not in f"{Credential('u', 'hidden', 'hidden', 'hidden')!r}"
    assert "hidden" not in str(Credential("u", "hidden"))
