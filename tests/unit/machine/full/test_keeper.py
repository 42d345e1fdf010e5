"""A keeper whose start fails half-way leaves nothing that runs."""

import os
from pathlib import Path
from typing import Any

import pytest

from skerry.machine.full import keeper


def test_a_qemu_that_cannot_be_written_down_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    told: list[dict[str, Any]] = []

    def fork(*_: object) -> int:
        started.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
        return started[0]

    monkeypatch.setattr(keeper, "_fork", fork)
    monkeypatch.setattr(keeper, "_answer", told.append)
    plan: keeper.Plan = {
        "run_dir": str(tmp_path / "full"),
        "console_log": str(tmp_path / "console"),
        "qemu_log": str(tmp_path / "log"),
        "openings": [],
        "confined": {},
        "fence": "",
    }
    with pytest.raises(SystemExit):
        keeper.run(plan)
    assert "No such file" in told[0]["error"]
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
