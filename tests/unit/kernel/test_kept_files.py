"""Small files that are read again and again by descriptors that stay open."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.kernel.kept_files import KeptFiles


def test_every_reading_is_of_the_moment(tmp_path: Path) -> None:
    file = tmp_path / "usage"
    file.write_text("1\n")
    kept = KeptFiles()
    assert kept.text(str(file)) == "1\n"
    file.write_text("22\n")
    assert kept.text(str(file)) == "22\n"
    kept.close()


@pytest.mark.parametrize("size", [0, 2047, 2048, 70_000])
def test_a_file_of_any_size_is_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "stat"
    file.write_text("x" * size)
    kept = KeptFiles()
    assert len(kept.text(str(file))) == size
    kept.close()


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    kept = KeptFiles()
    assert kept.text(str(tmp_path / "none")) == ""
    assert kept.text(str(tmp_path / "none")) == ""
    assert kept.text(str(tmp_path)) == "", "nor can a folder be read"
    kept.close()


def test_closing_leaves_nothing_open(tmp_path: Path, open_descriptors: Callable[[], int]) -> None:
    before = open_descriptors()
    kept = KeptFiles()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        assert kept.text(str(tmp_path / name)) == name
    assert open_descriptors() == before + 2
    kept.close()
    assert open_descriptors() == before
