"""The same probes in our default container and in Docker's: ours allows nothing that it denies."""

import json
import subprocess
from typing import Any

import pytest
from bench.daemons import Dockerd, Skerry
from tests.security.sandbox import python
from tests.security.test_engine_containers import PYTHON
from tests.security.test_system_calls import CALLS

pytestmark = pytest.mark.root

PROBE = f"""
import stat
calls = {CALLS!r}
found = {{}}
for name, (number, *args) in calls.items():
    found["call " + name] = call(number, *[a & (1 << 64) - 1 for a in args])
for kind, name, major, minor in [("b", "disk", 254, 0), ("b", "loop", 7, 0), ("c", "mem", 1, 1),
                                 ("c", "kmsg", 1, 11), ("c", "kvm", 10, 232),
                                 ("c", "tun", 10, 200), ("c", "fuse", 10, 229)]:
    mode = 0o600 | (stat.S_IFBLK if kind == "b" else stat.S_IFCHR)
    os.mknod("/tmp/" + name, mode, os.makedev(major, minor))
    found["device " + name] = attempt(lambda: os.close(os.open("/tmp/" + name, os.O_RDWR)))
for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/swappiness",
             "/sys/kernel/mm/ksm/run", "/sys/module/kernel/parameters/panic",
             "/sys/fs/cgroup/pids/cgroup.procs", "/sys/fs/cgroup/memory/release_agent",
             "/proc/irq/default_smp_affinity", "/sys/power/state"]:
    if os.path.exists(path):
        found["write " + path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi",
             "/proc/acpi", "/sys/firmware", "/proc/latency_stats"]:
    try:
        data = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
        found["read " + path] = "OK" if data else "empty"
    except OSError as error:
        found["read " + path] = errno.errorcode[error.errno]
for line in open("/proc/self/status"):
    if line.startswith(("Cap", "Seccomp:")):
        found[line.split()[0]] = line.split()[1]
guards = {{"ro", "nosuid", "nodev", "noexec"}}
found["mounts"] = [
    (line.split()[4], sorted(guards & set(line.split()[5].split(","))))
    for line in open("/proc/self/mountinfo") if not line.split()[4].startswith("/sys/fs/cgroup/")]
tell(found)
"""


def _probe(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def both(engine: Skerry, dockerd: Dockerd) -> tuple[dict[str, Any], dict[str, Any]]:
    """(ours, Docker's)."""
    command = ["run", "--rm", *PYTHON, "busybox", *python(PROBE)]
    return _probe(engine.skerry(*command)), _probe(dockerd.docker(*command))


def test_nothing_is_allowed_that_docker_denies(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = both
    words = ("call ", "device ", "write ", "read ")
    compared = {name for name in theirs if name.startswith(words)}
    assert len(compared) > 50
    laxer = {
        name: (ours[name], theirs[name])
        for name in compared
        if ours.get(name, "absent") == "OK" and theirs[name] != "OK"
    }
    assert not laxer


def test_no_more_rights_than_docker_gives(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = both
    for name in ("CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"):
        extra = int(ours[name], 16) & ~int(theirs[name], 16)
        assert not extra, f"{name} {extra:x}"
    assert ours["Seccomp:"] == theirs["Seccomp:"] == "2"


def test_mounts_are_as_guarded(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = ({place: set(flags) for place, flags in one["mounts"]} for one in both)
    guarded = {
        place: flags for place, flags in theirs.items() if place.startswith(("/proc", "/sys"))
    }
    for place, flags in guarded.items():
        # A masked file counts by what can be read there, which is compared above.
        if place in ours and "ro" in flags:
            assert flags <= ours[place] or place.startswith("/proc/"), place
    for place in ("/proc", "/sys", "/sys/fs/cgroup", "/dev/shm", "/dev/mqueue", "/dev/pts"):
        assert theirs[place] <= ours[place], place
