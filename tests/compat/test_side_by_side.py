"""Engines on one host, with different roots, know nothing of one another and survive themselves."""

import os
import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.root]

SLEEP = ("run", "-d", "--init", "--network", "none", "--name")


def running(engine: Any, name: str) -> str:
    told: str = engine.docker("inspect", "-f", "{{.State.Running}} {{.State.Pid}}", name).stdout
    return told.strip()


def test_a_second_engine_leaves_the_first_ones_containers_alone(
    engine: Any, own_engine: Any
) -> None:
    engine.docker(*SLEEP, "first", "busybox", "sleep", "1000")
    try:
        before = running(engine, "first")
        assert before.startswith("true ")
        own_engine.docker(*SLEEP, "second", "busybox", "sleep", "1000")
        own_engine.docker("rm", "-f", "second")
        assert own_engine.docker("ps", "-aq").stdout == ""
        own_engine.stop()
        assert running(engine, "first") == before
    finally:
        engine.docker("rm", "-f", "first")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_containers_outlive_their_engine(own_engine: Any, how: signal.Signals) -> None:
    words = ("sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    own_engine.docker("run", "-d", "--network", "none", "--name", "kept", "busybox", *words)
    before = running(own_engine, "kept")
    own_engine.stop(how)
    own_engine.start()
    assert running(own_engine, "kept") == before
    # The new engine's first container starts its spawner.
    own_engine.docker("run", "--rm", "--network", "none", "busybox", "true")
    assert running(own_engine, "kept") == before
    assert own_engine.docker("exec", "kept", "echo", "in").stdout == "in\n"
    own_engine.docker("kill", "-s", "USR1", "kept")
    assert own_engine.docker("wait", "kept").stdout == "7\n"
    assert own_engine.docker("logs", "kept").stdout == "ready\n"


def test_an_end_that_no_engine_saw_is_found_again(own_engine: Any) -> None:
    own_engine.docker("run", "-d", "-i", "--network", "none", "--name", "short", "busybox", "cat")
    pid = int(running(own_engine, "short").split()[1])
    own_engine.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    own_engine.start()
    assert own_engine.docker("wait", "short").stdout == "137\n"
