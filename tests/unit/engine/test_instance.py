"""The engine's socket: stale ones are replaced, nothing else is."""

import os
import stat
from pathlib import Path

import pytest

from skerry.base.errors import Conflict
from skerry.engine import instance


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / "s"
    for _ in range(2):
        with instance.listen(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert os.listdir(path.parent) == ["s"]


def test_nothing_else_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_LEAVING", 0.1)
    taken, file, link = tmp_path / "taken", tmp_path / "file", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(file)
    with instance.listen(str(taken)), pytest.raises(Conflict, match="another engine does"):
        instance.listen(str(taken))
    for path in (file, link, tmp_path):
        with pytest.raises(Conflict, match="no socket"):
            instance.listen(str(path))
    assert file.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "taken"]
