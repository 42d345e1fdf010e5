"""Copies are started in turns, and what their container wants done in each of them is read."""

import asyncio
import os

import pytest

from skerry.base.errors import InvalidInput
from skerry.engine import after_fork, forks
from skerry.engine.after_fork import COMMAND, FOLDER, SIGNAL
from skerry.engine.forks import Fork


async def test_copies_start_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    running: set[str] = set()
    most: list[int] = []

    async def start(each: Fork) -> Fork:
        running.add(each.id)
        most.append(len(running))
        for _ in range(5):
            await asyncio.sleep(0)
        running.remove(each.id)
        return each._replace(warning="" if each.id != "7" else "late")

    wanted = [Fork(str(number), f"web-{number}") for number in range(20)]
    done = await forks.in_turns(wanted, start)
    assert max(most) == 4
    assert [each.id for each in done] == [each.id for each in wanted]
    assert [each.id for each in done if each.warning] == ["7"]


def test_what_a_container_wants_done() -> None:
    assert after_fork.wanted({}, folder=False) == ([], 0)
    both = after_fork.wanted({COMMAND: "kill 7", SIGNAL: "hup"}, folder=True)
    assert [name for name, _ in both.commands] == [FOLDER, f"label {COMMAND}"]
    assert both.commands[1][1] == ["/bin/sh", "-c", "kill 7"]
    assert both.signal == 1
    listed = after_fork.wanted({COMMAND: ' ["/server", "renew"]'}, folder=False)
    assert listed.commands[0][1] == ["/server", "renew"]


@pytest.mark.parametrize(
    "labels",
    [{SIGNAL: "HUNG"}, {COMMAND: "[1]"}, {COMMAND: "[]"}, {COMMAND: "[" * 99_999}],
    ids=["signal", "numbers", "nothing", "deep"],
)
def test_labels_that_make_no_sense(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"label org\.skerry\.after-fork"):
        after_fork.wanted(labels, folder=False)


def test_how_a_command_ended() -> None:
    assert after_fork.complaint("label x", 0, "fine") == ""
    assert after_fork.complaint("label x", 3, "") == "label x: exit code 3"
    assert after_fork.complaint("label x", 1, " no\n") == "label x: exit code 1: no"
