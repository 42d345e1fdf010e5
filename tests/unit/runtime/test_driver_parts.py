"""Parts of the driver that need neither root nor a container."""

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Unsupported
from skerry.base.isolation import Started, Task
from skerry.runtime import process_plan, rundir, tiny_init
from skerry.runtime.driver import RuntimeDriver, leftovers, readings
from skerry.runtime.driver.spawning import Spawner

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 900 9 0 0 0 0 0 0 900 9 0 0 0 0 0 0
  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
eth1.5:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
"""


def test_network_counters_per_interface_without_loopback() -> None:
    found = readings.networks(NET_DEV)
    assert list(found) == ["eth0", "eth1.5"]
    assert found["eth0"] == {
        "rx_bytes": 1000,
        "rx_packets": 10,
        "rx_errors": 1,
        "rx_dropped": 2,
        "tx_bytes": 2000,
        "tx_packets": 20,
        "tx_errors": 3,
        "tx_dropped": 4,
    }
    assert found["eth1.5"]["tx_dropped"] == 8
    assert readings.networks("") == {}


def elf(*kinds: int) -> bytes:
    """A 64-bit ELF header with program headers of these types (elf.h)."""
    head = struct.pack(
        "<4sBB10xHHIQQQIHHH", b"\x7fELF", 2, 1, 2, 62, 1, 0, 64, 0, 0, 64, 56, len(kinds)
    )
    return head.ljust(64, b"\0") + b"".join(struct.pack("<I", k).ljust(56, b"\0") for k in kinds)


def program(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o755)
    return str(path)


def test_the_first_static_init_is_taken(tmp_path: Path) -> None:
    dynamic = program(tmp_path / "dynamic", elf(1, 3, 1))
    script = program(tmp_path / "script", b"#!/bin/sh\n")
    static = program(tmp_path / "static", elf(1, 1, 2))
    later = program(tmp_path / "later", elf(1))
    candidates = (str(tmp_path / "none"), dynamic, script, static, later)
    assert tiny_init.find_init(candidates) == static


def test_without_a_static_init_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as refused:
        tiny_init.find_init((program(tmp_path / "dynamic", elf(3)),))
    assert "tini" in refused.value.hint


@given(st.binary(max_size=400))
def test_any_file_is_static_or_not(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = program(tmp_path_factory.mktemp("elf") / "x", b"\x7fELF\x02" + data)
    with contextlib.suppress(Unsupported):
        assert tiny_init.find_init((path,)) == path


def test_the_configuration_with_init_leaves_the_original_alone() -> None:
    spec = {"process": {"args": ["a", "b"], "cwd": "/"}, "mounts": [{"destination": "/proc"}]}
    changed = tiny_init.with_init(spec, "/usr/bin/tini-static")
    assert changed["process"]["args"] == [tiny_init.TARGET, "--", "a", "b"]
    assert changed["mounts"][1]["source"] == "/usr/bin/tini-static"
    assert "ro" in changed["mounts"][1]["options"]
    assert spec["process"]["args"] == ["a", "b"]
    assert len(spec["mounts"]) == 1


def test_facts_come_from_the_record_then_from_the_bundle(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    state.mkdir()
    assert leftovers.facts_of(str(run), str(state), "config.json") == {}
    (state / "config.json").write_text('{"linux": {"cgroupsPath": "/a/b"}}')
    assert leftovers.facts_of(str(run), str(state), "config.json") == {"cgroup": "/a/b"}
    (state / "config.json").write_text('{"linux": ["cut sho')
    assert leftovers.facts_of(str(run), str(state), "config.json") == {}
    (run / "task.json").write_text('{"version": 1, "cgroup": "/c"}')
    assert leftovers.facts_of(str(run), str(state), "config.json")["cgroup"] == "/c"


@pytest.mark.parametrize("group", [False, True])
def test_a_signal_was_sent_though_its_process_is_reaped_at_once(
    monkeypatch: pytest.MonkeyPatch, group: bool
) -> None:
    child = subprocess.Popen(["sleep", "100"], start_new_session=True)
    started = Started(child.pid, rundir.start_time(child.pid))
    killpg, send = os.killpg, signal.pidfd_send_signal

    def kill_and_reap(pid: int, number: int) -> None:
        killpg(pid, number)
        child.wait(120)

    def reap_and_send(pidfd: int, number: int) -> None:
        if not group:
            kill_and_reap(child.pid, number)
        send(pidfd, number)

    monkeypatch.setattr(os, "killpg", kill_and_reap)
    monkeypatch.setattr(signal, "pidfd_send_signal", reap_and_send)
    assert leftovers.send_signal(started, signal.SIGKILL, group=group) is group


class NoSpawner(Spawner):
    """Plans are all that is asked for."""

    def ensure(self) -> None:
        pass


@pytest.mark.parametrize("name", ["plain", "not\udcffutf-8"])
def test_a_plan_keeps_the_profile_it_was_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def compiled(profile: object, **_: object) -> bytes:
        given.append(profile)
        return b""

    monkeypatch.setattr(process_plan.seccomp, "compile_profile", compiled)
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    spec = {
        "ociVersion": "1.2.0",
        "process": {"args": ["true"], "cwd": "/", "env": [f"NAME={name}"]},
        "root": {"path": "/"},
        "linux": {"seccomp": profile, "namespaces": [{"type": "mount"}]},
    }
    task = Task("ab", spec, None, str(tmp_path / "state"), str(tmp_path / "run"))
    asyncio.run(RuntimeDriver(spawner=NoSpawner()).create(task))
    assert [each is profile for each in given] == [True], "by which its program is known"
    written = json.loads((tmp_path / "state/config.json").read_bytes())
    assert written["process"] == spec["process"]
    assert written["linux"]["seccomp"] == profile
