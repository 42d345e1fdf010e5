"""The device filter in the running kernel: verifier, attachment, and real opens."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.base.errors import KernelFault
from skerry.kernel import bpf_devices
from skerry.kernel.cgroups_devices import rules

pytestmark = pytest.mark.root


def _v2_root() -> Path:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if rest.startswith("cgroup2 "):
                return Path(fields.split()[4])
    pytest.skip("no cgroup v2 is mounted")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A fresh group and a descriptor of it."""
    path = _v2_root() / f"skerry-test-devices-{os.getpid()}"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bpf_devices.attached_programs(fd)
    except KernelFault as fault:
        os.close(fd)
        path.rmdir()
        pytest.skip(str(fault))
    yield path, fd
    os.close(fd)
    path.rmdir()


def opens(group: Path, node: str, flags: int) -> int:
    """errno of opening `node` by a process of the group, 0 when it opens."""
    child = os.fork()
    if child == 0:
        try:
            (group / "cgroup.procs").write_text("0")
            os.close(os.open(node, flags))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_the_default_list_is_enforced(group: tuple[Path, int], tmp_path: Path) -> None:
    path, fd = group
    disk = tmp_path / "disk"
    os.mknod(disk, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    memory = tmp_path / "mem"
    os.mknod(memory, 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    bpf_devices.attach_device_filter(fd, [rule.as_oci() for rule in rules(())])
    assert opens(path, "/dev/null", os.O_RDWR) == 0
    assert opens(path, "/dev/zero", os.O_RDONLY) == 0
    assert opens(path, str(memory), os.O_RDONLY) == 1
    assert opens(path, str(disk), os.O_RDONLY) == 1


def test_an_update_replaces_what_was_attached(group: tuple[Path, int]) -> None:
    path, fd = group
    bpf_devices.attach_device_filter(fd, [{"allow": False, "type": "a"}])
    first = bpf_devices.attached_programs(fd)
    assert opens(path, "/dev/null", os.O_RDONLY) == 1
    bpf_devices.attach_device_filter(
        fd, [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}]
    )
    second = bpf_devices.attached_programs(fd)
    assert len(first) == len(second) == 1
    assert first != second
    assert opens(path, "/dev/null", os.O_RDONLY) == 0
    assert opens(path, "/dev/null", os.O_RDWR) == 1


def test_a_program_that_is_kept_is_loaded_once(
    group: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fd = group
    monkeypatch.setattr(bpf_devices, "_kept", {})
    text = json.dumps([{"allow": False, "type": "a"}])
    assert bpf_devices.kept_filter(text) == -1
    bpf_devices.keep_filter(text)
    program = bpf_devices.kept_filter(text)
    try:
        bpf_devices.keep_filter(text)
        assert bpf_devices.kept_filter(text) == program
        bpf_devices.attach_program(fd, program)
        assert opens(path, "/dev/null", os.O_RDONLY) == 1
    finally:
        os.close(program)


def test_the_verifier_takes_a_long_list(group: tuple[Path, int]) -> None:
    _, fd = group
    listed = [
        {"allow": number % 3 > 0, "type": "bc"[number % 2], "major": number, "minor": number % 7}
        for number in range(500)
    ]
    bpf_devices.attach_device_filter(fd, listed)
    assert len(bpf_devices.attached_programs(fd)) == 1
