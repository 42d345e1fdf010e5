"""Small files that are read again and again by descriptors that stay open."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.kernel.kept_files import KeptFiles


def test_every_reading_is_of_the_moment(tmp_path: Path) -> None:
    file = tmp_path / "usage"
    file.write_text("1\n")
    kept = KeptFiles()
    assert kept.parsed(str(file), str) == "1\n"
    file.write_text("22\n")
    assert kept.parsed(str(file), str) == "22\n"
    kept.close()


def test_what_says_the_same_is_not_parsed_again(tmp_path: Path) -> None:
    file = tmp_path / "usage"
    asked = []

    def parse(text: str) -> int:
        asked.append(text)
        return int(text)

    kept = KeptFiles()
    for said in ("1\n", "1\n", "2\n", "1\n"):
        file.write_text(said)
        assert kept.parsed(str(file), parse) == int(said)
    assert asked == ["1\n", "2\n", "1\n"]
    kept.close()


@pytest.mark.parametrize("size", [0, 2047, 2048, 16_384, 70_000])
def test_a_file_of_any_size_is_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "stat"
    file.write_text("x" * size)
    kept = KeptFiles()
    assert len(kept.parsed(str(file), str)) == size
    kept.close()


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    kept = KeptFiles()
    assert kept.parsed(str(tmp_path / "none"), str) == ""
    assert kept.parsed(str(tmp_path / "none"), str) == ""
    assert kept.parsed(str(tmp_path), str) == "", "nor can a folder be read"
    kept.close()


def test_closing_leaves_nothing_open(tmp_path: Path, open_descriptors: Callable[[], int]) -> None:
    before = open_descriptors()
    kept = KeptFiles()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        assert kept.parsed(str(tmp_path / name), str) == name
    assert open_descriptors() == before + 2
    kept.close()
    assert open_descriptors() == before
