"""Trying what the host allows, and leaving nothing behind."""

import os
from pathlib import Path

import pytest

from skerry.kernel import cgroups, host_probe
from skerry.kernel.namespaces import FLAGS

pytestmark = pytest.mark.root


def traces(scratch: Path) -> list[str]:
    """What probes could have left: folders, groups, mounts."""
    left = os.listdir(scratch)
    for directory in cgroups.Cgroup("/skerry", cgroups.detect()).directories():
        if os.path.isdir(directory):
            left += [name for name in os.listdir(directory) if name.startswith(".probe-")]
    mounts = Path("/proc/self/mountinfo").read_text()
    return left + [line for line in mounts.splitlines() if str(scratch) in line]


def test_everything_is_tried_and_nothing_stays(tmp_path: Path) -> None:
    found = host_probe.probe(str(tmp_path))
    tried = {"overlay", "overlay.user", "idmap", "reflink", "proc", "seccomp"}
    assert {f"namespace.{kind}" for kind in FLAGS} | tried | {"cgroup"} <= set(found)
    assert found["namespace.mount"] == found["namespace.pid"] == found["overlay"] == ""
    assert traces(tmp_path) == []


def test_what_a_killed_probe_left_is_swept(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    left = tmp_path / f".probe-{child}" / "upper"
    left.mkdir(parents=True)
    (left / "file").touch()
    group = cgroups.Cgroup(f"/skerry/.probe-{child}", cgroups.detect())
    group.create()
    host_probe.probe(str(tmp_path))
    assert traces(tmp_path) == []
    assert not group.exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    found = host_probe.probe(str(tmp_path / "missing"))
    assert "missing" in found["scratch"]
    assert found["namespace.mount"] == ""
