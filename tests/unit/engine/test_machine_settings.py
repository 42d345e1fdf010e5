"""The keys of engine.json that are about machines."""

import json
from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput
from skerry.engine import machine_settings


def test_one_spare_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert machine_settings.load(str(tmp_path)).spares == 2
    (tmp_path / "engine.json").write_text(json.dumps({"mtu": 1400, "vm-spares": 0}))
    assert machine_settings.load(str(tmp_path)).spares == 0


@pytest.mark.parametrize("value", [-1, 17, True, "1", None, 1.5])
def test_what_is_no_number_of_spares_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "engine.json").write_text(json.dumps({"vm-spares": value}))
    with pytest.raises(InvalidInput, match=r"engine\.json: vm-spares"):
        machine_settings.load(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(InvalidInput) as caught:
        machine_settings.load(str(tmp_path))
    assert caught.value.message.count("engine.json") == 1
