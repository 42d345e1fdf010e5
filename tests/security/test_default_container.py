"""What a program finds in the default container: rights, files, devices, descriptors."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.security.sandbox import Sandbox, Spec, mount_python, python

from skerry.engine.spec import MASKED_PATHS, READONLY_PATHS
from skerry.kernel import capabilities

pytestmark = pytest.mark.root

# What Docker 28 gives, to be at least as tight as: moby's oci/caps and oci/defaults.
DOCKER_CAPABILITIES = 0xA80425FB
DOCKER_MASKED = {
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
}
DOCKER_READONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}


def test_the_plan_is_as_tight_as_dockers() -> None:
    assert capabilities.mask(capabilities.DOCKER_DEFAULT) == DOCKER_CAPABILITIES
    thermal = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    assert set(MASKED_PATHS) >= DOCKER_MASKED | set(map(str, thermal))
    assert set(READONLY_PATHS) >= DOCKER_READONLY


def test_rights_of_the_first_process(sandbox: Sandbox) -> None:
    ran = sandbox.shell("cat /proc/self/status")
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*)$", ran.out, re.MULTILINE))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[name], 16) == DOCKER_CAPABILITIES, name
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
    assert fields["Seccomp"] == "2"
    assert fields["Seccomp_filters"] == "1"
    assert fields["Groups"].strip() in ("", "0")


def test_rights_of_an_executed_process(sandbox: Sandbox) -> None:
    name = sandbox.start(["/bin/sleep", "1000"])
    ran = sandbox.exec(name, ["/bin/cat", "/proc/self/status"])
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*)$", ran.out, re.MULTILINE))
    for field in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[field], 16) == DOCKER_CAPABILITIES, field
    assert int(fields["CapInh"], 16) == 0
    assert fields["Seccomp"] == "2"


def test_a_plain_user_has_no_rights_at_all(sandbox: Sandbox) -> None:
    def as_user(spec: Spec) -> None:
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}

    ran = sandbox.shell("grep Cap /proc/self/status; id", as_user)
    fields = dict(re.findall(r"^(Cap\w+):[ \t]*(.*)$", ran.out, re.MULTILINE))
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0
    assert "uid=1000" in ran.out


def test_masked_paths_are_empty(sandbox: Sandbox) -> None:
    script = "\n".join(
        f"if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then head -c 1 {path}; fi"
        for path in MASKED_PATHS
    )
    ran = sandbox.shell(script)
    assert ran.out == "", ran


def test_read_only_paths_cannot_be_written(sandbox: Sandbox) -> None:
    ran = sandbox.probe(
        """
        def write(path):
            os.close(os.open(path, os.O_WRONLY))
        paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
                 "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname",
                 "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
        tell({p: attempt(lambda: write(p)) for p in paths if os.path.exists(p)})
        """
    )
    assert set(ran.values()) == {"EROFS"}, ran


def test_sysfs_and_cgroups_cannot_be_written(sandbox: Sandbox) -> None:
    ran = sandbox.probe(
        """
        found = {}
        for folder in ["/sys/fs/cgroup", "/sys/kernel", "/sys/class", "/sys/module"]:
            found[folder] = attempt(lambda: os.mkdir(folder + "/made"))
        for base, folders, files in os.walk("/sys/fs/cgroup"):
            for name in files:
                if name in ("release_agent", "notify_on_release", "tasks", "devices.allow",
                            "cgroup.procs", "memory.limit_in_bytes"):
                    path = os.path.join(base, name)
                    found[path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
        for path in ["/sys/kernel/uevent_helper", "/sys/power/state",
                     "/sys/kernel/mm/transparent_hugepage/enabled"]:
            if os.path.exists(path):
                found[path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
        tell(found)
        """
    )
    assert set(ran.values()) <= {"EROFS", "EACCES", "EPERM"}, ran


def test_devices_are_the_harmless_ones(sandbox: Sandbox) -> None:
    ran = sandbox.shell("find /dev -type c -o -type b | sort; ls -l /dev/null")
    nodes = {line for line in ran.out.splitlines() if line.startswith("/dev")}
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    assert {node.removeprefix("/dev/") for node in nodes if "pts" not in node} <= allowed
    assert "1,   3" in ran.out


def test_a_disk_node_can_neither_be_opened_nor_mounted(sandbox: Sandbox) -> None:
    ran = sandbox.probe(
        """
        import stat
        found = {}
        for kind, name, major, minor in [("b", "vda", 254, 0), ("b", "sda", 8, 0),
                                         ("b", "loop", 7, 0), ("c", "mem", 1, 1),
                                         ("c", "kmsg", 1, 11), ("c", "kvm", 10, 232),
                                         ("c", "fuse", 10, 229), ("c", "tun", 10, 200),
                                         ("c", "uinput", 10, 223), ("c", "port", 1, 4)]:
            mode = 0o600 | (stat.S_IFBLK if kind == "b" else stat.S_IFCHR)
            path = "/tmp/" + name
            made = attempt(lambda: os.mknod(path, mode, os.makedev(major, minor)))
            if made == "OK":
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                    found[f"{name} {flags}"] = attempt(lambda: os.close(os.open(path, flags)))
        tell(found)
        """
    )
    assert ran, "mknod is one of Docker's capabilities"
    assert set(ran.values()) == {"EPERM"}, ran


def test_only_three_descriptors(sandbox: Sandbox) -> None:
    """Descriptors of the caller's own that are inheritable must not come through either."""
    leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(leak, True)
    try:
        script = "import os; tell(sorted(os.listdir('/proc/self/fd')))"
        seen = sandbox.probe(script, close_fds=False)
        assert seen == ["0", "1", "2", "3"]  # 3 is the listing's own
        name = sandbox.start(["/bin/sleep", "1000"])
        listed = sandbox.exec(name, ["/bin/ls", "/proc/self/fd"], close_fds=False)
        assert listed.out.split() == ["0", "1", "2", "3"]
        first = sandbox.exec(name, ["/bin/ls", "/proc/1/fd"], close_fds=False)
        assert first.out.split() == ["0", "1", "2"]
    finally:
        os.close(leak)


def test_the_callers_environment_stays_outside(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_SECRET", "do not tell")
    monkeypatch.setenv("LD_PRELOAD_TEST", "x")
    ran = sandbox.shell("env; cat /proc/self/environ | tr '\\0' '\\n'; cat /proc/1/cmdline")
    assert "HOST_SECRET" not in ran.out
    names = {line.partition("=")[0] for line in ran.out.splitlines() if "=" in line}
    assert names - {"_", "PWD", "SHLVL", "OLDPWD"} <= {"PATH", "HOSTNAME", "HOME", "TERM"}


def test_names_and_processes_of_the_host_are_not_seen(sandbox: Sandbox) -> None:
    ran: Any = sandbox.probe(
        """
        import socket
        pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]
        tell({"hostname": os.uname().nodename, "pids": pids,
              "interfaces": [n for _, n in socket.if_nameindex()],
              "root": os.path.samefile("/proc/1/root", "/"),
              "up": os.path.samefile("/", "/..")})
        """
    )
    assert ran["hostname"] == "victim"
    assert ran["pids"] == [1]
    assert ran["interfaces"] == ["lo"]
    assert ran["root"] and ran["up"]


def test_no_mount_of_the_host_is_listed(sandbox: Sandbox) -> None:
    ran = sandbox.shell("cat /proc/self/mountinfo")
    expected = {"proc", "tmpfs", "devpts", "sysfs", "mqueue", "cgroup", "cgroup2"}
    for line in ran.out.splitlines():
        place, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
        # The root itself, and masks, which are the host's /dev/null.
        assert kind in expected or place[4] == "/" or place[3] == "/null", line
    for line in ran.out.splitlines():
        optional = line.split(" - ")[0].split()[6:]
        assert not any(tag.startswith("shared:") for tag in optional), line


NULL_PROBE = """
import fcntl, stat
found = []
for number in (0, 1, 2):
    status = os.fstat(number)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
        # The same mode again: harmless where it is allowed.
        found.append([number, attempt(lambda: os.fchmod(number, stat.S_IMODE(status.st_mode))),
                      status.st_dev, os.read(number, 1) == b"",
                      fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK])
with open("/tmp/found", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.parametrize("null", ["own", "link", "missing", "fifo", "terminal"])
def test_the_hosts_null_device_keeps_its_mode(sandbox: Sandbox, null: str) -> None:
    """Root inside may not chmod the host's /dev/null, which its standard input would be."""
    make = {
        "own": "true",
        "link": "rm /dev/null; ln -s /etc/passwd /dev/null",
        "missing": "rm /dev/null",
        "fifo": "rm /dev/null; mkfifo /dev/null",
        "terminal": "rm /dev/null; mknod /dev/null c 5 2",
    }[null]
    name = sandbox.start(["/bin/sleep", "1000"], mount_python)
    assert sandbox.exec(name, ["/bin/sh", "-c", make]).code == 0
    ran = sandbox.exec(name, python(NULL_PROBE))
    assert ran.code == 0, ran
    host = os.stat("/dev/null").st_dev
    found = json.loads((sandbox.rootfs / "tmp/found").read_text())
    assert [row[0] for row in found] == [0]
    for _, changed, device, usable, nonblocking in found:
        assert (device != host) if null == "own" else (device == host and changed == "EROFS")
        assert usable and not nonblocking


def test_the_first_process_has_the_containers_null_device(sandbox: Sandbox) -> None:
    assert sandbox.run(python(NULL_PROBE), mount_python).code == 0
    found = json.loads((sandbox.rootfs / "tmp/found").read_text())
    assert found[0][2] != os.stat("/dev/null").st_dev


def test_masks_cannot_change_the_hosts_null_device(sandbox: Sandbox) -> None:
    """A mask is a mount of /dev/null: its mode is changed to what it is, which must be refused."""
    masked = [path for path in MASKED_PATHS if os.path.isfile(path)]
    script = f"tell([attempt(lambda: os.chmod(p, 0o666)) for p in {masked!r}])"
    assert set(sandbox.probe(script)) <= {"EROFS"}
