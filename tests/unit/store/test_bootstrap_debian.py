"""What is taken away from a fresh Debian, and how the tool that makes it is run."""

import sys
from pathlib import Path

import pytest

from skerry.base.errors import SystemFault, Unavailable
from skerry.store.bootstrap.debian import _empty_logs, _run


def test_folders_of_logs_stay(tmp_path: Path) -> None:
    (tmp_path / "nginx").mkdir(mode=0o750)
    for name in ("dpkg.log", "nginx/access.log"):
        (tmp_path / name).write_text("a day")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "nginx")
    _empty_logs(str(tmp_path))
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["apt", "nginx"]
    assert (tmp_path / "nginx").stat().st_mode & 0o777 == 0o750


def test_what_the_tool_says_is_told_and_its_last_words_are_the_error() -> None:
    told: list[object] = []
    says = "import sys; print('I: one\\nnoise\\nI: ' + sys.stdin.read(3)); sys.exit('E: no room')"
    with pytest.raises(SystemFault, match="tree: E: no room"):
        _run([sys.executable, "-c", says], ["deb x"], told.append, lambda: True)
    assert told == ["one", "deb"]


def test_the_tool_is_ended_when_nobody_wants_the_image_any_more() -> None:
    told: list[object] = []
    waits = "import time; print('I: waiting', flush=True); time.sleep(1000)"
    with pytest.raises(Unavailable, match="has gone"):
        _run([sys.executable, "-c", waits], [], told.append, lambda: not told)
