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
        ("?branch=dev&subdir=docs", "refs/heads/dev", "docs", ""),
        (f"?tag=v1&checksum={COMMIT}", "refs/tags/v1", "", COMMIT),
        ("?commit=8c14115", "8c14115", "", "8c14115"),
        (f"?tag=v1&commit={COMMIT}&fetch-by-commit=1", COMMIT, "", COMMIT),
        ("?ref=pull/42/head#:docs", "pull/42/head", "docs", ""),
        ("?tag=refs/tags/v1#refs/tags/v1", "refs/tags/v1", "", ""),
    ],
)
def test_forms(rest: str, ref: str, directory: str, checksum: str) -> None:
    found = parse(f"https://git.example/x.git{rest}")
    assert found == Repository("https://git.example/x.git", ref, directory, checksum)


def test_switches() -> None:
    plain = parse("https://git.example/x.git")
    assert (plain.submodules, plain.keep_git_dir, plain.commit_times) == (True, None, False)
    found = parse("https://git.example/x.git?submodules=false&keep-git-dir&mtime=commit")
    assert (found.submodules, found.keep_git_dir, found.commit_times) == (False, True, True)
    assert parse("https://git.example/x.git?keep-git-dir=0&submodules").keep_git_dir is False


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("?depth=3", "unexpected query 'depth'"),
        ("?submodules=maybe", "invalid submodules value: 'maybe'"),
        ("?mtime=now", "invalid mtime value: 'now'"),
        ("?subdir=", "query 'subdir' has no value"),
        ("?tag=a&tag=b", "query 'tag' has multiple values"),
        ("?tag=a&branch=b", "ref conflicts"),
        ("?subdir=a#main:b", "subdir conflicts"),
        ("?branch=dev&fetch-by-commit=true", "needs a whole commit"),
        ("?checksum=main", "not a commit: 'main'"),
        ("#--upload-pack=x", "not a git reference"),
    ],
)
def test_what_is_not_known_is_refused(rest: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse(f"https://git.example/x.git{rest}")
