"""Packed files of a package."""

import gzip
from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.engine.vms.exchange import decompress


def test_a_packed_file_comes_out_within_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "disk.vmdk.gz"
    data = gzip.compress(b"x" * 5000)
    file.write_bytes(data)
    decompress(str(file), 5000)
    assert file.read_bytes() == b"x" * 5000
    file.write_bytes(data)
    with pytest.raises(LimitExceeded, match="larger than its disk"):
        decompress(str(file), 4999)


@pytest.mark.parametrize("cut", [0, 1, 9, 20])
def test_a_damaged_one_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "disk.gz"
    file.write_bytes(b"damaged" if not cut else gzip.compress(b"x" * 5000)[:cut])
    with pytest.raises(InvalidInput, match="gzip"):
        decompress(str(file), 5000)
