"""Engine, keeper and QEMU killed with `kill -9`: machines run on, or are told to have died."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from bench import footprint
from tests.kernel.machines.commands import Machines, check_disks, until
from tests.kernel.machines.fixtures import remains

pytestmark = [pytest.mark.root]

SEED = int(os.environ.get("SKERRY_TEST_SEED", "0")) or random.randrange(1, 10**6)


def crash(vm: Machines) -> None:
    """The engine dies and is started again."""
    assert vm.engine.process is not None
    vm.engine.process.kill()
    vm.engine.process.wait()
    vm.engine.start()


def task(vm: Machines, name: str) -> dict[str, list[int]]:
    """Pids and start times of a machine's QEMU and keeper."""
    folder = vm("inspect", name, "-f", "{{.id}}")[:16]
    with open(vm.engine.run_root / "vms" / folder / "task.json", "rb") as file:
        found: dict[str, list[int]] = json.load(file)
    return found


def test_whoever_is_killed_the_guest_is_accounted_for(vm: Machines, medium: Path) -> None:
    vm("create", "tiny", "--cdrom", str(medium), "--disk", "16m", "--memory", "160m",
       "--nic", "none", "--boot", "cdrom")  # fmt: skip
    vm("start", "tiny")
    vm.log_in("tiny")
    vm.runs("tiny", "echo here > /tmp/note")
    pid = vm.pid("tiny")

    crash(vm)
    assert (vm.status("tiny"), vm.pid("tiny")) == ("running", pid)
    assert "here" in vm.runs("tiny", "cat /tmp/note")

    keeper = task(vm, "tiny")["keeper"]
    os.kill(keeper[0], signal.SIGKILL)
    until(lambda: task(vm, "tiny")["keeper"] != keeper)
    assert "here" in vm.runs("tiny", "cat /tmp/note")
    crash(vm)
    assert "here" in vm.runs("tiny", "cat /tmp/note")
    assert vm.pid("tiny") == pid

    vm("pause", "tiny")
    crash(vm)
    assert vm.status("tiny") == "paused"
    vm("resume", "tiny")
    assert "here" in vm.runs("tiny", "cat /tmp/note")

    os.kill(pid, signal.SIGKILL)
    until(lambda: vm.status("tiny") == "aborted")
    assert "QEMU was killed; its keeper had been killed before" in vm("ls")
    check_disks(vm)

    vm("start", "tiny")
    os.kill(vm.pid("tiny"), signal.SIGKILL)
    until(lambda: vm.status("tiny") == "aborted")
    assert "aborted: QEMU was killed by SIGKILL" in vm("ls")

    vm("start", "tiny")
    assert vm.engine.process is not None
    vm.engine.process.kill()
    vm.engine.process.wait()
    dying = task_of(vm)
    os.kill(dying, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{dying}").exists())
    vm.engine.start()
    until(lambda: vm.status("tiny") == "aborted")
    vm("start", "tiny")
    assert vm.status("tiny") == "running"


def task_of(vm: Machines) -> int:
    """The pid of the only machine's QEMU, when no engine can be asked."""
    (path,) = (vm.engine.run_root / "vms").glob("*/task.json")
    return int(json.loads(path.read_text())["qemu"][0])


def test_an_engine_killed_at_any_moment_leaves_whole_machines(vm: Machines) -> None:
    """Verbs with a guest that never boots: its memory and disks are what counts here."""
    dice = random.Random(SEED)
    vm("create", "any", "--disk", "16m", "--disk", "16m", "--memory", "64m", "--nic", "none")
    verbs = [
        ("snapshot", "create", "any"),
        ("start", "any"),
        ("snapshot", "create", "any"),
        ("save", "any"),
        ("snapshot", "restore", "any", "snapshot-1"),
        ("start", "any"),
        ("snapshot", "create", "any"),
        ("clone", "any", "copy", "--linked", "--snapshot", "snapshot-1"),
        ("rm", "-f", "copy"),
        ("stop", "-f", "any"),
    ]
    for verb in verbs:
        command = [str(vm.engine.command()[0]), "-c", CLI, "vm", *verb]
        asked = subprocess.Popen(
            command, env=vm.engine.environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(dice.uniform(0.03, 0.35))
        crash(vm)
        asked.wait(timeout=120)
        status = vm.status("any")
        assert status in ("off", "running", "saved", "paused"), (SEED, verb, status)
        running = vm.pid("any") != 0
        assert running == (status in ("running", "paused")), (verb, status)
        for each in json.loads(vm("inspect", "any"))[0]["snapshots"]:
            state = vm.folder("any") / "states" / each["id"]
            assert state.exists() == each["full"], (verb, each["name"])
        check_disks(vm)
        if verb[0] in ("start", "save") and not running and status == "off":
            vm("start", "any")
    names = vm("snapshot", "ls", "any", "--format", "{{.Name}}").split()
    if vm.pid("any"):
        vm("stop", "-f", "any")
    for name in names:
        vm("snapshot", "restore", "any", name)
        vm("start", "any")
        assert vm.status("any") == "running"


CLI = "import sys; from skerry.cli.main import entry; sys.exit(entry())"


def test_removal_leaves_nothing_even_after_a_crash(vm: Machines) -> None:
    vm("create", "gone", "--disk", "16m", "--memory", "64m", "--nic", "none")
    before = footprint.take(vm.engine.folders, [vm.engine.run_root])
    vm("clone", "gone", "copy", "--linked")
    vm("snapshot", "create", "copy")
    vm("start", "copy")
    crash(vm)
    vm("rm", "-f", "copy")
    assert not remains(vm, before)
