"""When memory is copied while the machine runs."""

import pytest

from skerry.machine.saving import copies_live


@pytest.mark.parametrize(
    ("accelerator", "major", "live"),
    [("kvm", 7, True), ("tcg", 7, False), ("tcg", 8, False), ("tcg", 9, True), ("tcg", 10, True)],
)
def test_the_version_that_loses_pages_stands_still(
    accelerator: str, major: int, live: bool
) -> None:
    assert copies_live(accelerator, major) is live
