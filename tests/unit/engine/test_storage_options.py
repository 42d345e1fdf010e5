"""How much a container may write, for which walls."""

import pytest

from skerry.base.errors import InvalidInput
from skerry.engine import storage_options

VM = {"Runtime": "skerry-vm"}


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("16777216", 16 << 20), ("64g", 64 << 30)]
)
def test_a_machine_gets_a_size(text: str, size: int) -> None:
    host = {**VM, "StorageOpt": {"size": text}}
    storage_options.check(host)
    assert storage_options.disk_size(host) == size


def test_without_one_there_is_none() -> None:
    assert storage_options.disk_size({}) == storage_options.disk_size({"StorageOpt": None}) == 0
    storage_options.check({"StorageOpt": {}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": "15m"}, "invalid storage option size=15m: from 16 MB to 64 GB"),
        ({"size": "65g"}, "invalid storage option size=65g"),
        ({"size": "much"}, "invalid size: 'much'"),
        ({"size": ""}, "invalid size"),
        ({"inodes": "5"}, "Unknown option inodes"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        storage_options.check({**VM, "StorageOpt": options})


def test_a_container_is_refused_in_dockers_words_with_a_remedy() -> None:
    with pytest.raises(InvalidInput, match="supported only for overlay over xfs") as caught:
        storage_options.check({"StorageOpt": {"size": "64m"}})
    assert "--isolation vm" in caught.value.hint
