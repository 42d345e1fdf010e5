"""The cases of the OCI runtime specification's own validation programs, one table after the other.

Each row names its case, how it changes the default configuration, a script that looks at the
container from inside, and what the script has to print.
"""

import json
import os
import platform
from typing import Any, NamedTuple

import pytest
from tests.kernel.oci import Change, Runtime, Spec

pytestmark = pytest.mark.root


class Case(NamedTuple):
    """What a script prints in a container with a changed configuration."""

    name: str
    change: Change
    script: str
    expected: str


def nothing(spec: Spec) -> None:
    """The default configuration."""


def process(**fields: Any) -> Change:
    """Set fields of `process`."""
    return lambda spec: spec["process"].update(fields)


def linux(**fields: Any) -> Change:
    """Set fields of `linux`."""
    return lambda spec: spec["linux"].update(fields)


def capable(*names: str, **sets: list[str]) -> Change:
    """Hold these capabilities in all sets, but for those that are given."""
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return process(capabilities={kind: sets.get(kind, list(names)) for kind in kinds})


def mounted(*mounts: dict[str, Any]) -> Change:
    """Append mounts."""
    return lambda spec: spec["mounts"].extend(mounts)


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    """A tmpfs mount."""
    return {
        "destination": destination,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": list(options),
    }


def also(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(spec: Spec) -> None:
        for one in changes:
            one(spec)

    return change


def status(field: str) -> str:
    """Script: a field of /proc/self/status."""
    return f"grep '^{field}:' /proc/self/status | tr -s '\\t ' ' '"


OPTIONS = "grep ' /tmp ' /proc/self/mountinfo | cut -d' ' -f6"
"""Script: the mount options of /tmp."""

PROCESS = [
    Case("default", nothing, "echo ok", "ok"),
    Case("args", process(args=["/bin/echo", "a b", "c"]), "", "a b c"),
    Case("cwd", process(cwd="/tmp"), "pwd", "/tmp"),
    Case("env", process(env=["A=x=y", "PATH=/bin"]), "echo $A", "x=y"),
    Case("env has HOME from passwd", nothing, "echo $HOME", "/root"),
    Case("user", process(user={"uid": 10, "gid": 20}), "id -u; id -g", "10\n20"),
    Case(
        "additional gids",
        process(user={"uid": 10, "gid": 20, "additionalGids": [5, 6]}),
        status("Groups"),
        "Groups: 5 6 ",
    ),
    Case("umask", process(user={"uid": 0, "gid": 0, "umask": 0o027}), "umask", "0027"),
    Case("default umask", nothing, "umask", "0022"),
    Case("no new privileges", process(noNewPrivileges=True), status("NoNewPrivs"), "NoNewPrivs: 1"),
    Case("new privileges", process(noNewPrivileges=False), status("NoNewPrivs"), "NoNewPrivs: 0"),
    Case("oom score", process(oomScoreAdj=500), "cat /proc/self/oom_score_adj", "500"),
    Case(
        "rlimits",
        process(
            rlimits=[
                {"type": "RLIMIT_NOFILE", "soft": 8, "hard": 16},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
            ]
        ),
        "ulimit -Sn; ulimit -Hn; ulimit -Sc",
        "8\n16\n0",
    ),
    Case("capabilities none", process(capabilities={}), status("CapBnd"), f"CapBnd: {0:016x}"),
    Case("capabilities absent", lambda s: s["process"].pop("capabilities"), status("CapEff"),
         f"CapEff: {0:016x}"),
    *(
        Case(f"capabilities {field}", capable("CAP_KILL", "CAP_CHOWN"), status(field),
             f"{field}: {0x21:016x}")
        for field in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")
    ),
    Case(
        "ambient capabilities of a user",
        also(capable("CAP_NET_RAW"), process(user={"uid": 7, "gid": 7})),
        status("CapEff"),
        f"CapEff: {1 << 13:016x}",
    ),
    Case(
        "a user without ambient ones",
        also(capable("CAP_NET_RAW", ambient=[]), process(user={"uid": 7, "gid": 7})),
        status("CapEff"),
        f"CapEff: {0:016x}",
    ),
    Case("io priority", process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6}),
         "ionice -p $$",
         "best-effort: prio 6"),
    Case("scheduler", process(scheduler={"policy": "SCHED_BATCH", "nice": 5}),
         "cut -d' ' -f19,41 /proc/self/stat", "5 3"),
    Case("personality", linux(personality={"domain": "LINUX"}), "uname -m", platform.machine()),
]  # fmt: skip

LINUX = [
    Case("hostname", lambda s: s.update(hostname="mars"), "hostname", "mars"),
    Case("domainname", lambda s: s.update(domainname="example"),
         "cat /proc/sys/kernel/domainname", "example"),
    Case("root read-only", nothing, "touch /x 2>&1 | grep -c 'Read-only'", "1"),
    Case("masked file", linux(maskedPaths=["/proc/version"]), "cat /proc/version | wc -c", "0"),
    Case("masked folder", linux(maskedPaths=["/proc/sys", "/bin/../etc", "/usr"]),
         "ls /proc/sys /etc /usr | grep -vc : ", "2"),
    Case("masked file keeps the host's null device as it is",
         also(linux(maskedPaths=["/proc/version"]), capable("CAP_FOWNER", "CAP_CHOWN")),
         "(chmod 600 /proc/version; chown 1 /proc/version) 2>&1 | grep -c Read-only", "2"),
    Case("masked path that is missing", linux(maskedPaths=["/nowhere/x"]), "echo ok", "ok"),
    Case("read-only path", also(mounted(tmpfs("/tmp")), linux(readonlyPaths=["/tmp"])),
         "touch /tmp/x 2>&1 | grep -c Read-only", "1"),
    Case("read-only path below a mount", also(mounted(tmpfs("/tmp"), tmpfs("/tmp/a")),
         linux(readonlyPaths=["/tmp"])), "touch /tmp/a/x 2>&1 | grep -c Read-only", "1"),
    Case("sysctl", linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}),
         "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "1\n9000"),
    Case("sysctl with slashes", linux(sysctl={"net/ipv4/ip_forward": "1"}),
         "cat /proc/sys/net/ipv4/ip_forward", "1"),
    Case("loopback is up", nothing, "cat /sys/class/net/lo/flags", "0x9"),
    Case("default devices", nothing,
         "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' $d; done",
         "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666"),
    Case("default links", nothing,
         "cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done",
         "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx"),
    Case("devices", linux(devices=[
        {"path": "/dev/test1", "type": "c", "major": 10, "minor": 666, "fileMode": 0o432, "uid": 3,
         "gid": 4},
        {"path": "/dev/sub/test2", "type": "b", "major": 8, "minor": 66, "fileMode": 0o640},
        {"path": "/dev/test3", "type": "p", "fileMode": 0o640}]),
         "cd /dev; stat -c '%n %F %t:%T %a %u:%g' test1 sub/test2 test3",
         "test1 character special file a:29a 432 3:4\nsub/test2 block special file 8:42 640 0:0\n"
         "test3 fifo 0:0 640 0:0"),
    Case("devices are allowed by list", also(mounted(tmpfs("/dev")), capable("CAP_MKNOD")),
         "cat /dev/null && echo ok; mknod /dev/x c 1 1 && cat /dev/x 2>&1 | grep -c permitted",
         "ok\n1"),
    Case("seccomp", linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}),
         "/bin/pwd 2>&1 | grep -c 'not implemented'; " + status("Seccomp"), "1\nSeccomp: 2"),
    Case("seccomp that allows little", linux(seccomp={
        "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["execve", "exit_group", "exit", "write", "brk", "arch_prctl", "mprotect",
                   "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink", "getuid",
                   "readlinkat", "getrandom", "ioctl", "mmap"], "action": "SCMP_ACT_ALLOW"}]}),
         "echo ok", "ok"),
]  # fmt: skip

MOUNTS = [
    Case("tmpfs", mounted(tmpfs("/tmp", "nosuid", "nodev", "noexec", "size=4m")), OPTIONS,
         "rw,nosuid,nodev,noexec,relatime"),
    Case("read-only", mounted(tmpfs("/tmp", "ro", "noatime")), OPTIONS, "ro,noatime"),
    Case("later options win", mounted(tmpfs("/tmp", "ro", "nosuid", "rw", "suid")), OPTIONS,
         "rw,relatime"),
    Case("strictatime", mounted(tmpfs("/tmp", "strictatime")), OPTIONS, "rw"),
    Case("nosymfollow", mounted(tmpfs("/tmp", "nosymfollow")), OPTIONS, "rw,relatime,nosymfollow"),
    Case("tmpfs keeps the folder's mode", mounted(tmpfs("/tmp")), "stat -c %a /tmp", "1777"),
    Case("order", mounted(tmpfs("/tmp"), tmpfs("/tmp/a", "ro")),
         "touch /tmp/b && touch /tmp/a/c 2>&1 | grep -c Read-only", "1"),
    Case("copy-up", mounted(tmpfs("/etc", "tmpcopyup")), "head -n1 /etc/passwd; echo > /etc/x",
         "root:x:0:0:root:/root:/bin/sh"),
    Case("relative destination", mounted(tmpfs("tmp")), OPTIONS, "rw,relatime"),
    Case("destination with dots", mounted(tmpfs("/../../tmp")), OPTIONS, "rw,relatime"),
    Case("mqueue", mounted({"destination": "/tmp", "type": "mqueue", "source": "mqueue"}),
         "grep -c ' /tmp .* mqueue ' /proc/self/mountinfo", "1"),
    Case("cgroup", mounted({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                            "options": ["ro", "nosuid"]}),
         "cd /sys/fs/cgroup; [ -d pids ] && cd pids; read first < cgroup.procs; echo $first;"
         "mkdir x 2>&1 | grep -c Read-only", "1\n1"),
]  # fmt: skip


@pytest.mark.parametrize("case", [*PROCESS, *LINUX, *MOUNTS], ids=lambda case: case.name)
def test_inside(runtime: Runtime, case: Case) -> None:
    if case.script:
        done = runtime.shell(case.script, case.change)
    else:
        done = runtime.run(["unused"], case.change)
    assert done.stdout.rstrip("\n") == case.expected, done.stderr
    assert done.stderr == ""


REFUSED: list[tuple[str, Change, str]] = [
    ("no args", process(args=[]), "process.args"),
    ("relative cwd", process(cwd="tmp"), "Cwd must be an absolute path"),
    ("unknown rlimit", process(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "RLIMIT_X"),
    ("rlimit twice", process(rlimits=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2), "twice"),
    ("version", lambda s: s.update(ociVersion="2.0.0"), "ociVersion"),
    ("no version", lambda s: s.pop("ociVersion"), "ociVersion"),
    ("no root", lambda s: s.pop("root"), "root"),
    ("missing root", lambda s: s["root"].update(path="/nowhere"), "/nowhere"),
    ("namespace twice", lambda s: s["linux"]["namespaces"].append({"type": "pid"}), "duplicated"),
    ("unknown namespace", linux(namespaces=[{"type": "moon"}]), "moon"),
    ("namespace of another type",
     lambda s: s["linux"]["namespaces"].append(s["linux"]["namespaces"].pop(2) |
                                               {"path": "/proc/self/ns/uts"}), "ipc"),
    ("missing namespace file", lambda s: s["linux"]["namespaces"][2].update(path="/nowhere"),
     "/nowhere"),
    ("hostname without uts", lambda s: s["linux"]["namespaces"].remove({"type": "uts"}), "UTS"),
    ("mappings without user", linux(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}]),
     "USER"),
    ("propagation", linux(rootfsPropagation="sideways"), "sideways"),
    ("sysctl of the host", linux(sysctl={"vm.overcommit_memory": "1"}), "vm.overcommit_memory"),
    ("sysctl that is missing", linux(sysctl={"net.no_such": "1"}), "net/no_such"),
    ("sysctl out of the tree", linux(sysctl={"net.ipv4/../../x": "1"}), "not a name"),
    ("device type", linux(devices=[{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
     "type"),
    ("seccomp action", linux(seccomp={"defaultAction": "SCMP_ACT_DANCE"}), "SCMP_ACT_DANCE"),
    ("intelRdt", linux(intelRdt={"closID": "x"}), "Intel RDT"),
    ("mount source", mounted({"destination": "/tmp", "source": "/nowhere", "options": ["bind"]}),
     "/nowhere"),
    ("mount type", mounted({"destination": "/tmp", "type": "nofs", "source": "x"}), "nofs"),
    ("mount data", mounted(tmpfs("/tmp", "nosuchoption")), "/tmp"),
    ("mount in /proc", mounted({"destination": "/proc/sys", "source": "/tmp", "options": ["bind"]}),
     "inside /proc"),
    ("memory limit", linux(resources={"memory": {"limit": "much"}}), "memory"),
    ("cpuset", linux(resources={"cpu": {"cpus": "4000"}}), "cpus"),
    ("cgroup path", linux(cgroupsPath="/a/../../b"), ".."),
    ("hook without path", lambda s: s.update(hooks={"prestart": [{"args": ["x"]}]}), "path"),
    ("hook timeout", lambda s: s.update(hooks={"prestart": [{"path": "/x", "timeout": 0}]}),
     "timeout"),
    ("wrong type", process(env="A=b"), "process.env"),
    ("NUL byte", process(args=["a\0b"]), "NUL"),
    ("variable without a value", process(env=["A"]), "invalid environment variable"),
    ("variable without a name", process(env=["=x"]), "invalid environment variable"),
    ("no user", process(user={"uid": 2**32 - 1, "gid": 0}), "process.user.uid"),
    ("no group", process(user={"additionalGids": [2**32 - 1]}), "additionalGids"),
    ("negative umask", process(user={"umask": -1}), "umask"),
    ("device number", linux(devices=[{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]),
     "major"),
    ("no memory to start in", linux(resources={"memory": {"limit": 1}}),
     "before its program was executed"),
    ("mount over the root", mounted(tmpfs("/../.")), "the root"),
    ("shares below", linux(resources={"cpu": {"shares": 1}}), "minimum allowed cpu-shares is 2"),
    ("shares above", linux(resources={"cpu": {"shares": 1 << 30}}), "allowed cpu-shares is 262144"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "word"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_in_one_line(runtime: Runtime, name: str, change: Change, word: str) -> None:
    done = runtime.run(["/bin/true"], change)
    assert done.returncode == 1
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(runtime.root) in ([], [".seccomp"]) if runtime.root.exists() else True


def test_unknown_properties_are_ignored(runtime: Runtime) -> None:
    def change(spec: Spec) -> None:
        spec["org.example"] = {"a": [1, None]}
        spec["process"]["unknown"] = 1
        spec["annotations"] = {"org.example.key": "v"}
        spec["linux"]["later"] = [{}]

    assert runtime.output("echo ok", change) == "ok\n"


def test_a_capability_that_does_not_exist_is_a_warning(runtime: Runtime) -> None:
    done = runtime.shell("echo ok", capable("CAP_KILL", "CAP_TEST"))
    assert done.stdout == "ok\n"
    assert "CAP_TEST" in done.stderr


def test_state_of_a_container_without_process_cannot_start(runtime: Runtime) -> None:
    done = runtime.run(["/bin/true"], lambda spec: spec.pop("process"))
    assert done.returncode == 1
    assert "process" in done.stderr


def test_configuration_that_is_no_json(runtime: Runtime) -> None:
    bundle = runtime.bundle(["/bin/true"])
    (bundle / "config.json").write_text('{"ociVersion": ')
    done = runtime.call("run", "-b", str(bundle), runtime.new_id())
    assert done.returncode == 1
    assert "not JSON" in done.stderr


def test_bundle_without_configuration(runtime: Runtime) -> None:
    done = runtime.call("run", "-b", str(runtime.folder), runtime.new_id())
    assert done.returncode == 1
    assert "config.json not found" in done.stderr


def test_state_has_what_the_specification_asks_for(runtime: Runtime) -> None:
    name = runtime.background(["/bin/sleep", "60"], lambda s: s.update(annotations={"a": "b"}))
    state = runtime.state(name)
    assert state["ociVersion"].startswith("1.")
    assert state["id"] == name
    assert state["status"] == "running"
    assert state["annotations"] == {"a": "b"}
    assert json.loads((runtime.folder / "b1/config.json").read_text())["annotations"] == {"a": "b"}
    assert os.path.samefile(
        f"/proc/{state['pid']}/root/bin/busybox", runtime.rootfs / "bin/busybox"
    )
