"""The KVM probe: its guest, its verdicts, and devices that are not KVM."""

import os
import signal
import stat
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from skerry.kernel import kvm_probe
from skerry.kernel.kvm_probe import ABSENT, BROKEN, EMULATES, FORBIDDEN, UNKNOWN, WORKS

KILLED_BY_TIMER = int(signal.SIGPROF)


@pytest.mark.parametrize(
    ("said", "status", "state"),
    [
        ("arrived 0.0002\nfinished 0.0031\n", 0, WORKS),
        ("arrived 0.0002\n", KILLED_BY_TIMER, EMULATES),
        ("arrived 0.0002\n", int(signal.SIGKILL), EMULATES),
        ("", KILLED_BY_TIMER, BROKEN),
        ("", int(signal.SIGSEGV), BROKEN),
        ("error make a machine: No such device\n", 0, BROKEN),
        ("arrived 0.1\nerror the guest left with KVM_EXIT reason 17\n", 0, BROKEN),
        ("arrived nonsense\n", 0, BROKEN),
    ],
)
def test_verdicts(said: str, status: int, state: str) -> None:
    assert kvm_probe.judge(said, status).state == state


def test_the_verdict_on_an_emulator_says_what_it_means() -> None:
    found = kvm_probe.judge("arrived 0.0002\n", KILLED_BY_TIMER)
    assert found.detail.startswith("opens, but cannot run an ordinary guest")
    assert found.long_mode == 0.0002


def test_far_jumps_land_on_the_next_mode() -> None:
    """Each jump's target is the byte after the jump: the modes follow one another in memory."""
    start, code = max(kvm_probe.guest_memory().items())
    places = [code.index(b"\x66\xea") + 2, code.index(b"\x0f\x22\xc0\xea") + 4]
    for place, selector in zip(places, (0x08, 0x18), strict=True):
        assert struct.unpack_from("<IH", code, place) == (start + place + 6, selector)


def test_no_two_parts_of_the_guest_overlap() -> None:
    parts = sorted(kvm_probe.guest_memory().items())
    for (place, content), (following, _) in pairwise(parts):
        assert place + len(content) <= following


def test_no_device(tmp_path: Path) -> None:
    assert kvm_probe.probe(str(tmp_path / "kvm")).state == ABSENT


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_that_is_not_ours(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0)
    assert kvm_probe.probe(str(device)).state == FORBIDDEN


def test_a_folder_is_no_device(tmp_path: Path) -> None:
    assert kvm_probe.probe(str(tmp_path)).state == FORBIDDEN


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest is x86-64 code")
def test_a_device_that_is_not_kvm() -> None:
    found = kvm_probe.probe("/dev/null")
    assert found.state == BROKEN
    assert "cannot make a machine" in found.detail


@pytest.mark.skipif(
    not (os.path.exists("/dev/kvm") and stat.S_ISCHR(os.stat("/dev/kvm").st_mode)),
    reason="no /dev/kvm",
)
def test_this_host_gets_a_verdict() -> None:
    found = kvm_probe.probe()
    assert found.state in (WORKS, EMULATES, BROKEN, FORBIDDEN, UNKNOWN)
    assert (found.finished > 0) == (found.state == WORKS)
