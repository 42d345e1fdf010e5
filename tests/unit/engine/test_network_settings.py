"""The settings of networks: the file, and the command line over it."""

from pathlib import Path
from typing import Any

import pytest

from skerry.api.main import main
from skerry.base.errors import InvalidInput
from skerry.engine import network_settings


@pytest.mark.parametrize(
    "data",
    [
        {"publish-default-address": "localhost"},
        {"bip": "10.0.0.0"},
        {"mtu": "big"},
        {"mtu": True},
        {"icc": 1},
        {"default-address-pools": [{"base": "10.0.0.0/8"}]},
        {"dns": ["nowhere"]},
    ],
)
def test_settings_that_make_no_sense(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        network_settings.parse_settings(data)


def test_settings() -> None:
    got = network_settings.parse_settings(
        {
            "publish-default-address": "127.0.0.1",
            "default-address-pools": [{"base": "10.200.0.0/16", "size": 24}],
            "other-room": {"key": 1},
        }
    )
    assert got.publish_default_address == "127.0.0.1"
    assert [str(pool.base) for pool in got.pools] == ["10.200.0.0/16"]


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    load = network_settings.load
    assert load(str(tmp_path)).publish_default_address == ""
    (tmp_path / "engine.json").write_text('{"publish-default-address": "127.0.0.1", "mtu": 1400}')
    assert load(str(tmp_path)).publish_default_address == "127.0.0.1"
    got = load(str(tmp_path), "192.0.2.1")
    assert (got.publish_default_address, got.mtu) == ("192.0.2.1", 1400)
    with pytest.raises(InvalidInput, match="--publish-default-address"):
        load(str(tmp_path), "localhost")


def test_an_engine_does_not_start_with_an_address_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path), "--publish-default-address", "localhost"]) == 1
    assert "invalid --publish-default-address address 'localhost'" in capsys.readouterr().err
