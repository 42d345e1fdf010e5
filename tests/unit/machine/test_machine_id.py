"""A container's machine-id: where it comes from and when it is given."""

from pathlib import Path
from typing import Any

import pytest

from skerry.base.isolation import Overlay
from skerry.machine import machine_id


def test_it_is_the_beginning_of_the_containers_id() -> None:
    assert machine_id.of("ab" * 32) == "ab" * 16
    named = machine_id.of("a name")
    assert len(named) == 32
    assert int(named, 16)
    assert named != machine_id.of("another name")


def test_the_topmost_layer_that_has_an_entry_decides(tmp_path: Path) -> None:
    upper, lower, empty = (str(tmp_path / name) for name in ("upper", "lower", "empty"))
    for folder in (upper, lower, empty):
        Path(folder, "etc").mkdir(parents=True)
    Path(lower, "etc/machine-id").write_text("x")
    assert machine_id.in_image(Overlay((empty, lower)))
    assert not machine_id.in_image(Overlay((empty,)))
    assert not machine_id.in_image(None)
    Path(upper, "etc/machine-id").symlink_to("/proc/version")
    assert not machine_id.in_image(Overlay((upper, lower)))


@pytest.mark.parametrize("target", ["/etc", "/etc/machine-id", "/etc/./machine-id"])
def test_what_the_user_mounts_there_stays(target: str) -> None:
    spec: dict[str, Any] = {"mounts": [{"destination": target, "type": "tmpfs"}]}
    assert machine_id.with_mount(spec, "/state") == spec


def test_it_is_mounted_after_the_others() -> None:
    spec = {"mounts": [{"destination": "/data", "type": "tmpfs"}]}
    mounts = machine_id.with_mount(spec, "/state")["mounts"]
    assert [mount["destination"] for mount in mounts] == ["/data", "/etc/machine-id"]
    assert mounts[1]["source"] == "/state/machine-id"
    assert len(spec["mounts"]) == 1
