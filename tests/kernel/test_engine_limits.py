"""The whole engine, from its command line: limits in force on whichever cgroup version there is."""

import json
import time
from collections.abc import Iterator

import pytest
from bench.daemons import Skerry, remove_folder

from skerry.kernel import cgroups

pytestmark = pytest.mark.root

LAYOUT = cgroups.detect()


@pytest.fixture
def alone() -> Iterator[Skerry]:
    """An engine of its own, stopped without the help of other clients."""
    made = Skerry()
    try:
        made.start()
        made.add_busybox()
        yield made
        listed = made.skerry("ps", "-aq").stdout.split()
        if listed:
            made.skerry("rm", "-f", *listed)
    finally:
        made.stop()
        for folder in made.folders:
            remove_folder(folder)


def files(*names: str) -> list[str]:
    """Where a container sees control files of its own group."""
    if LAYOUT.version == 2:
        v2 = {
            "memory.limit_in_bytes": "memory.max",
            "memory.memsw.limit_in_bytes": "memory.swap.max",
            "pids.max": "pids.max",
        }
        return [f"/sys/fs/cgroup/{v2[name]}" for name in names]
    return [f"/sys/fs/cgroup/{name.partition('.')[0]}/{name}" for name in names]


def test_limits_from_the_command_line_to_the_kernel(alone: Skerry) -> None:
    seen = files("memory.limit_in_bytes", "pids.max")
    limits = ("-m", "64m", "--pids-limit", "20")
    said = alone.skerry("run", "--rm", *limits, "busybox", "cat", *seen).stdout
    assert said.split() == [str(64 << 20), "20"]

    alone.skerry("run", "-d", "--name", "one", *limits, "busybox", "sleep", "1000")
    alone.skerry("update", "-m", "96m", "--memory-swap", "96m", "one")
    assert alone.skerry("exec", "one", "cat", *seen).stdout.split() == [str(96 << 20), "20"]
    # Neither the limit of swap nor any other changes along.
    alone.skerry("update", "--cpus", "0.5", "--pids-limit", "-1", "one")
    swap = files("memory.memsw.limit_in_bytes")
    most = "0" if LAYOUT.version == 2 else str(96 << 20)
    assert alone.skerry("exec", "one", "cat", *swap, *seen).stdout.split() == [
        *(most, str(96 << 20), "max"),
    ]
    alone.skerry("exec", "one", "sh", "-c", "echo x >/dev/null")

    # A process that is killed for lack of memory is told of while the container goes on.
    grow = "x=0123456789abcdef; while :; do x=$x$x; done"
    assert alone.skerry("exec", "one", "sh", "-c", grow, check=False).returncode == 137
    deadline = time.monotonic() + 120
    while '"OOMKilled": true' not in alone.skerry("inspect", "one").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = ("events", "--since", "1h", "--until", "0s", "--filter", "event=oom")
    assert alone.skerry(*told).stdout.count(" container oom ") == 1
    alone.skerry("pause", "one")
    (state,) = json.loads(alone.skerry("inspect", "one").stdout)
    assert state["State"]["Status"] == "paused"
    alone.skerry("unpause", "one")
    group = cgroups.Cgroup(f"/skerry/{state['Id']}", LAYOUT)
    assert group.exists()
    alone.skerry("rm", "-f", "one")
    assert not group.exists()


def test_the_doctor_knows_the_version(alone: Skerry) -> None:
    checks = json.loads(alone.skerry("doctor", "--format", "json").stdout)
    (found,) = [check for check in checks if check["name"] == "cgroups"]
    assert found["detail"].startswith(f"version {LAYOUT.version}")
    assert not [check for check in checks if check["status"] == "fail"]
