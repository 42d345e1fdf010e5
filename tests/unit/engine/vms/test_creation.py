"""What may lie in a drive, what will not come about."""

from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput, NotFound
from skerry.engine.vms.creation import check_disc, doubts
from skerry.engine.vms.record import Machine
from skerry.machine.full.seed import CloudInit
from skerry.machine.full.spec import Hardware


@pytest.mark.parametrize("volume", [b"\x01CD001\x01", b"\x00BEA01\x01"])
def test_discs_have_volumes(tmp_path: Path, volume: bytes) -> None:
    disc = tmp_path / "a.iso"
    disc.write_bytes(bytes(32768) + volume)
    assert check_disc(str(disc)) == str(disc)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(40000), b"QFI\xfb" + bytes(40000)])
def test_what_has_none_is_no_disc(tmp_path: Path, data: bytes) -> None:
    disc = tmp_path / "a.iso"
    disc.write_bytes(data)
    with pytest.raises(InvalidInput, match="no disc image"):
        check_disc(str(disc))
    with pytest.raises(NotFound):
        check_disc(str(tmp_path))


def test_what_will_not_come_about_is_told() -> None:
    plain = Machine("ab", "box", 0, 0, Hardware(uuid="u"), seed=CloudInit(user="me"))
    assert doubts(plain) == []
    odd = Machine(
        "ab", "box", 0, 0, Hardware(uuid="u"), seed=CloudInit(user_data="x"), vnc_password="geheim"
    )
    ignored, screen = doubts(odd)
    assert "user-data" in ignored
    assert "no password" in screen
    assert "geheim" not in screen
