"""What a git source names."""

import pytest

from skerry.base.errors import InvalidInput
from skerry.build.repositories import Repository, parse

COMMIT = "8c14115ccb1208c848ae1d7e148bc2d030ef6673"


@pytest.mark.parametrize(
    ("rest", "ref", "directory", "checksum"),
    [
        ("", "", "", ""),
        ("#v1:docs/a", "v1", "docs/a", ""),
        ("?branch=dev&subdir=docs", "dev", "docs", ""),
        (f"?tag=v1&checksum={COMMIT}", "v1", "", COMMIT),
        ("?commit=8c14115", "8c14115", "", "8c14115"),
    ],
)
def test_forms(rest: str, ref: str, directory: str, checksum: str) -> None:
    found = parse(f"https://git.example/x.git{rest}")
    assert found == Repository("https://git.example/x.git", ref, directory, checksum)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("?submodules=false", "unexpected query 'submodules'"),
        ("?checksum=main", "not a commit: 'main'"),
        ("#--upload-pack=x", "not a git reference"),
    ],
)
def test_what_is_not_known_is_refused(rest: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse(f"https://git.example/x.git{rest}")
