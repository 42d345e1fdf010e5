"""`skerry-runtime` and control groups, on whichever version this host has: limits, pause, update,
exec, counters, and a group that is gone afterwards."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skerry.kernel import cgroups
from skerry.kernel.cgroups import Cgroup

pytestmark = pytest.mark.root

PROGRAM = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "skerry-runtime"
LAYOUT = cgroups.detect()
MIB = 1 << 20
CGROUP_MOUNT = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
}


class Runtime:
    """One container of one bundle, and its group."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.group = Cgroup(f"/skerry-limits-{os.getpid()}/{name}", LAYOUT)

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the program; output as text."""
        command = [str(PROGRAM), "--root", str(self.root), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def must(self, *args: str) -> str:
        """Run it and fail the test when it fails."""
        done = self.call(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def limit(self, resources: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """A change of config.json: these limits in this group, seen from inside."""

        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["cgroupsPath"] = self.group.path
            spec["linux"]["resources"].update(resources)
            spec["mounts"].append(CGROUP_MOUNT)

        return change


@pytest.fixture
def runtime(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """A container's name and group; whatever is left is removed."""
    made = Runtime(tmp_path / "root", f"c{abs(hash(request.node.name)) % 10**6}")
    yield made
    made.call("delete", "--force", made.name)
    made.group.thaw()
    made.group.kill_all()
    made.group.remove()
    Cgroup(os.path.dirname(made.group.path), LAYOUT).remove()


def inside(file_v1: str, file_v2: str) -> str:
    """Where the container sees a control file of its own group."""
    if LAYOUT.version == 2:
        return f"/sys/fs/cgroup/{file_v2}"
    return f"/sys/fs/cgroup/{file_v1.partition('.')[0]}/{file_v1}"


def test_the_limits_are_seen_inside_and_the_group_goes(runtime: Runtime, bundle: Any) -> None:
    memory = inside("memory.limit_in_bytes", "memory.max")
    pids = inside("pids.max", "pids.max")
    resources = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 31}}
    folder = bundle(["cat", memory, pids], runtime.limit(resources))
    said = runtime.must("run", "--bundle", str(folder), runtime.name)
    assert said.split() == [str(64 * MIB), "31"]
    assert not runtime.group.exists()


def test_too_much_memory_is_death_by_signal(runtime: Runtime, bundle: Any) -> None:
    resources = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    grow = "x=0123456789abcdef; while :; do x=$x$x; done"
    folder = bundle(["sh", "-c", grow], runtime.limit(resources))
    done = runtime.call("run", "--bundle", str(folder), runtime.name)
    assert done.returncode == 137, done
    assert not runtime.group.exists()


def test_a_running_container(runtime: Runtime, bundle: Any) -> None:
    """Pause, resume, update, exec, ps and counters of one container."""
    resources = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 30}}
    folder = bundle(["sleep", "1000"], runtime.limit(resources))
    log = (folder / "out").open("wb")
    command = [str(PROGRAM), "--root", str(runtime.root), "create", "--bundle", str(folder)]
    subprocess.run(
        [*command, runtime.name], stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True
    )
    runtime.must("start", runtime.name)
    state = json.loads(runtime.must("state", runtime.name))
    assert state["status"] == "running"
    assert runtime.group.pids() == [state["pid"]]

    runtime.must("pause", runtime.name)
    assert json.loads(runtime.must("state", runtime.name))["status"] == "paused"
    assert runtime.group.frozen()
    runtime.must("resume", runtime.name)
    assert not runtime.group.frozen()

    runtime.must("update", "--memory", str(96 * MIB), "--pids-limit", "40", runtime.name)
    assert runtime.group.stats()["memory"]["limit"] == 96 * MIB
    assert runtime.group.stats()["pids"]["limit"] == 40

    there = runtime.must("exec", runtime.name, "cat", "/proc/self/cgroup")
    init = runtime.must("exec", runtime.name, "cat", "/proc/1/cgroup")
    assert there == init

    stats = json.loads(runtime.must("events", "--stats", runtime.name))
    assert stats["data"]["pids"]["current"] >= 1

    words = [str(PROGRAM), "--root", str(runtime.root), "events", "--interval", "20ms"]
    with subprocess.Popen([*words, runtime.name], stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        kinds = (json.loads(line)["type"] for line in events.stdout)
        assert next(kinds) == "stats"  # From here on it watches.
        grow = "x=0123456789abcdef; while :; do x=$x$x; done"
        assert runtime.call("exec", runtime.name, "sh", "-c", grow).returncode == 137
        assert "oom" in kinds
        assert next(kinds) == "stats"  # It was woken once, not for ever.
        events.kill()
    runtime.must("kill", runtime.name, "KILL")
    deadline = time.monotonic() + 120
    while runtime.group.pids() and time.monotonic() < deadline:
        time.sleep(0.01)
    runtime.must("delete", runtime.name)
    assert not runtime.group.exists()
    log.close()


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"cpu": {"cpus": "4000"}}, "cpuset.cpus"),
        ({"memory": {"limit": -5}}, "memory.limit"),
        ({"pids": {"limit": "many"}}, "pids.limit"),
    ],
)
def test_a_bad_value_is_one_clear_line(
    runtime: Runtime, bundle: Any, resources: dict[str, Any], word: str
) -> None:
    folder = bundle(["true"], runtime.limit(resources))
    done = runtime.call("run", "--bundle", str(folder), runtime.name)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not runtime.group.exists()
