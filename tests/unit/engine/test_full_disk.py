"""Files that the engine writes beside its store, on a disk without room: one clear error each."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from skerry.api.errors import message_of
from skerry.base.errors import KernelFault, SystemFault
from skerry.engine import facts
from skerry.engine.engine import Engine
from skerry.engine.sandboxes import Sandboxes
from skerry.network.sandbox import Sandbox
from skerry.runtime.driver import driver


def test_a_file_below_etc() -> None:
    with pytest.raises(SystemFault, match="write /dev/full: No space left"):
        facts._write("/dev/full", "127.0.0.1 localhost\n")


def test_a_sandbox_keeps_its_file(tmp_path: Path) -> None:
    made = Sandboxes(str(tmp_path), cast(Any, None))
    sandbox = Sandbox("c1", "/run/ns/c1")
    made.write(sandbox)
    before = (tmp_path / "c1.json").read_bytes()
    (tmp_path / "c1.json.new").symlink_to("/dev/full")
    with pytest.raises(SystemFault, match="No space left"):
        made.write(sandbox)
    assert (tmp_path / "c1.json").read_bytes() == before


def test_folders_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelFault, match="make "):
        driver._make(str(tmp_path / "file/x"))


async def test_a_create_without_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int = 0) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(
        "skerry.engine.containers.os", SimpleNamespace(**{**vars(os), "mkdir": refuse})
    )
    with pytest.raises(SystemFault, match=r"^make .*: No space left on device$"):
        await engine.containers.create({"Image": "busybox"}, {})
    assert not list(engine.roster)


def test_what_nobody_thought_of_says_what_the_kernel_said() -> None:
    said = message_of(OSError(28, "No space left on device", "/secret"))
    assert said == "internal error: OSError: No space left on device"
    assert message_of(ValueError("x")) == "internal error: ValueError"
