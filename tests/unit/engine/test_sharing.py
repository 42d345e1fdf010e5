"""Mounts that share, and those that do not."""

from pathlib import Path

import pytest

from skerry.base.errors import SystemFault
from skerry.engine import sharing
from skerry.engine.record import MountPoint

LINE = "36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw"


def test_a_line_of_mountinfo() -> None:
    found = sharing.parse(LINE)
    assert found == sharing.Mount("/a b\\c", ("master:1", "propagate_from:2"))
    assert sharing.parse("23 27 0:22 / /sys rw - sysfs sysfs rw").marks == ()


def test_the_mount_of_a_path(tmp_path: Path) -> None:
    assert sharing.mount_of("/proc/self") == sharing.mount_of("/proc")
    found = sharing.mount_of("/proc")
    assert found is not None
    assert found.point == "/proc"
    assert sharing.mount_of(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("propagation", "marks", "complaint"),
    [
        ("", (), ""),
        ("rprivate", (), ""),
        ("shared", (), "path /x/y is mounted on /x but it is not a shared mount"),
        ("rslave", (), "path /x/y is mounted on /x but it is not a shared or slave mount"),
        ("rshared", ("shared:4",), ""),
        ("slave", ("shared:4",), ""),
        ("slave", ("master:4",), ""),
        ("shared", ("master:4",), "not a shared mount"),
    ],
)
def test_what_is_refused(
    propagation: str, marks: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "mount_of", lambda path: sharing.Mount("/x", marks))
    point = MountPoint("bind", "/in", source="/x/y", propagation=propagation)
    if complaint:
        with pytest.raises(SystemFault, match=complaint):
            sharing.check([point], "/var/lib/skerry")
    else:
        sharing.check([point], "/var/lib/skerry")


def test_the_engines_own_folder_may_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "mount_of", lambda path: sharing.Mount("/", ()))
    for source in ("/var/lib/skerry/volumes", "/var"):
        sharing.check([MountPoint("bind", "/in", source=source, propagation="rslave")],
                      "/var/lib/skerry")  # fmt: skip
