"""Names of bases."""

import pytest

from skerry.build.bases import local_name


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("c", "docker.io/library/c:latest"),
        ("deadbeef", "docker.io/library/deadbeef:latest"),
        ("deadbeef0123", "deadbeef0123"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("r.example:5/a:1", "r.example:5/a:1"),
    ],
)
def test_what_an_id_begins_with_is_a_repository_unless_it_is_long(base: str, expected: str) -> None:
    assert local_name(base) == expected
