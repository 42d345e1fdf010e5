"""Settings: what was given, the environment, the defaults."""

import os

import pytest

from skerry.base.errors import InvalidInput
from skerry.base.settings import default_settings, unix_path


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SKERRY_ROOT",
        "SKERRY_RUN_ROOT",
        "SKERRY_HOST",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)


def test_root_has_the_system_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = default_settings()
    assert settings.root == "/var/lib/skerry"
    assert settings.run_root == "/run/skerry"
    assert settings.socket_path == "/run/skerry/skerry.sock"


def test_others_have_the_xdg_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_settings().root == "/home/me/.local/share/skerry"
    assert default_settings().run_root == "/run/user/1000/skerry"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/rt")
    assert default_settings().root == "/data/skerry"
    assert default_settings().run_root == "/rt/skerry"


def test_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKERRY_ROOT", "/env/root")
    monkeypatch.setenv("SKERRY_RUN_ROOT", "/env/run")
    monkeypatch.setenv("SKERRY_HOST", "unix:///env/sock")
    assert default_settings() == ("/env/root", "/env/run", "unix:///env/sock")
    assert default_settings("/a", "/b", "unix:///c") == ("/a", "/b", "unix:///c")


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert default_settings("x", "y").root == "/tmp/x"
    assert default_settings("x", "y").host == "unix:///tmp/y/skerry.sock"


@pytest.mark.parametrize("host", ["", "tcp://1.2.3.4:5", "unix://relative", "unix:/x", "/x"])
def test_hosts_that_cannot_be_used(host: str) -> None:
    with pytest.raises(InvalidInput, match="cannot use host"):
        unix_path(host)
