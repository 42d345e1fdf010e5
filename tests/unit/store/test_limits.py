"""How much archives may become: the file that says so, and the room that stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base import toml_file
from skerry.base.errors import InvalidInput, SystemFault
from skerry.store import Store, limits, open_store
from skerry.store.limits import Room, Unpacking, shown


def test_the_root_wins_over_the_system(tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    assert limits.load(str(tmp_path), str(system)) == Unpacking()
    system.write_text('[unpack]\nratio = 7\nreserve = "2 GiB"\n')
    (tmp_path / "limits.toml").write_text('[unpack]\nratio = 9\nsize = "1TiB"\n')
    found = limits.load(str(tmp_path), str(system))
    assert found == Unpacking(size=1 << 40, ratio=9, reserve=2 << 30)
    assert found.allowed(10 << 30) == 90 << 30 and found.allowed(0) == 16 << 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[unpack", "limits.toml: "),
        ("[unpak]", "unpak: unknown setting"),
        ("unpack = 1", "unpack: has to be a table"),
        ("[unpack]\nration = 1", "unpack.ration: unknown setting"),
        ("[unpack]\nratio = -1", "unpack.ratio: has to be a number"),
        ("[unpack]\nratio = true", "unpack.ratio: has to be a number"),
        ('[unpack]\nsize = "many"', "unpack.size: has to be a number"),
    ],
)
def test_faults_name_the_file_and_the_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "limits.toml").write_text(text)
    with pytest.raises(InvalidInput, match=words):
        open_store(str(tmp_path))


@given(
    st.binary(max_size=200) | st.text(max_size=60).map(lambda t: f"[unpack]\nratio={t}".encode())
)
def test_any_bytes(data: bytes) -> None:
    try:
        limits.parse(toml_file.parse(data, "file"), "file")
    except InvalidInput as error:
        assert error.message.startswith("file: ")


def test_sizes_for_people() -> None:
    assert [shown(n) for n in (0, 1023, 1536, 16 << 30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "16 GiB",
    ]


def test_a_hundredth_of_a_small_disk_is_enough(tmp_path: Path) -> None:
    assert Room(str(tmp_path), 1 << 60).left() > 0
    with pytest.raises(SystemFault, match="layers: no room for 1024 TiB"):
        Room(str(tmp_path), 0).require(1 << 50, "layers")


@pytest.mark.parametrize("size", [40 << 20, 4 << 20])
def test_unpacking_stops_before_the_disk_is_full(
    store: Store,
    unpack: Callable[[bytes], Path],
    make_archive: Callable[..., bytes],
    make_member: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    members = [make_member(f"file{n}", b"x" * size) for n in range((48 << 20) // size)]
    data = make_archive(*members)
    store.blobs.put(data)
    monkeypatch.setattr(Room, "left", lambda self: 1 << 20)
    with pytest.raises(SystemFault, match=r"no room for 32 MiB: 1 MiB may still be written"):
        unpack(data)
    assert store.layers.all() == []
    assert not any(Path(store.root, "tmp").iterdir())
    monkeypatch.undo()
    unpack(data)
