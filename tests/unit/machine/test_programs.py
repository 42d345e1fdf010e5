"""What a keeper of a machine is told of its warden."""

import os
from typing import Any

import pytest

from skerry.kernel.cgroups import Layout
from skerry.machine import programs
from skerry.machine.conf import bare, pack
from skerry.machine.programs import Machines
from skerry.machine.shape import Shape
from skerry.runtime.starter import Ends

BODY = pack(
    bare(
        "box", "/nowhere", "", "", shape=Shape(256 << 20, 1), accel=("tcg", "qemu64", 0),
        layers="", writable="", below=[], blank="",
    ),
    b"",
)  # fmt: skip
NONE = Ends(-1, -1, -1, -1)


class Group:
    """A control group that is nowhere."""

    def __init__(self, *_: Any) -> None:
        pass

    def create(self, _: Any) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(
    ("spare", "taken", "reaps"), [(False, False, False), (True, True, False), (True, False, True)]
)
def test_the_keeper_reaps_a_spares_warden_that_gave_the_container_back(
    monkeypatch: pytest.MonkeyPatch, spare: bool, taken: bool, reaps: bool
) -> None:
    monkeypatch.setattr(programs, "Cgroup", Group)
    monkeypatch.setattr(programs.cgroups, "plan", lambda *_, **__: [])
    monkeypatch.setattr(programs.rundir, "remove", lambda *_: None)
    monkeypatch.setattr(programs, "_adopted", lambda *_: os.getpid() if taken else 0)
    made = Machines(Layout("v1", {}, ""))
    monkeypatch.setattr(made, "_fork_warden", lambda *_: os.getpid())
    made._spare = object() if spare else None  # type: ignore[assignment]
    launched = made.launch({"op": "start"}, BODY, NONE, lambda _: None)
    os.close(launched.pidfd)
    assert launched.reap is reaps
