"""Our command line and Docker's side by side against Debian's dockerd: the same words out."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest
from bench.daemons import SKERRY, Dockerd

pytestmark = [pytest.mark.root]

Both = Callable[..., tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]]


@pytest.fixture
def both(dockerd: Dockerd) -> Both:
    """`both("ps", "-a")`: what Docker's and what ours make of the same words."""

    def call(
        *words: str, stdin: str = ""
    ) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        theirs = dockerd.docker(*words, check=False, stdin=stdin.encode())
        ours = subprocess.run(
            [str(SKERRY), "-H", dockerd.host, *words],
            env=dockerd.environment(),
            capture_output=True,
            text=True,
            input=stdin,
            timeout=120,
            check=False,
        )
        return theirs, ours

    return call


@pytest.fixture(scope="module")
def box(dockerd: Dockerd) -> Iterator[str]:
    """A running container with labels, health and some output."""
    dockerd.docker(
        "run", "-d", "--name", "box", "--network", "none", "-l", "k=v", "--health-cmd", "true",
        "--health-interval", "1h", "-e", "A=1", "busybox", "sh", "-c",
        "echo out; echo err >&2; touch /made; exec sleep 1000",
    )  # fmt: skip
    yield "box"
    dockerd.docker("rm", "-f", "box")


TABLES = [
    ("ps",),
    ("ps", "-a", "--no-trunc"),
    ("ps", "-aq"),
    ("ps", "-s"),
    ("ps", "--format", "table {{.Names}}\t{{.Status}}\t{{.Label \"k\"}}"),
    ("ps", "--format", "{{.ID}}: {{.Command}} {{.Labels}} {{upper .Image}}"),
    ("ps", "--filter", "label=k=v", "--format", "{{.Names}}"),
    ("ps", "-n", "1", "-q"),
    ("container", "ls", "-a"),
    ("images",),
    ("images", "-q"),
    ("images", "--digests", "--no-trunc"),
    ("images", "--format", "{{.Repository}}|{{.Tag}}|{{.ID}}|{{.Size}}|{{.CreatedAt}}"),
    ("image", "ls", "busybox"),
    ("history", "busybox"),
    ("history", "--no-trunc", "--human=false", "busybox"),
    ("top", "box"),
    ("top", "box", "-o", "pid,comm"),
    ("diff", "box"),
    ("logs", "box"),
    ("logs", "--tail", "1", "box"),
    ("logs", "-t", "box"),
    ("inspect", "-f", "{{.Name}} {{.State.Running}} {{.Config.Env}} {{.Config.Labels}}", "box"),
    ("inspect", "-f", "{{json .Config.Cmd}} {{len .Mounts}} {{index .Config.Labels \"k\"}}", "box"),
    ("inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}{{.HostConfig.Memory}}", "box"),
    ("inspect", "-f", "{{printf \"%s %d %q\" .Name .RestartCount .Driver | lower}}", "box"),
    ("inspect", "-f", "{{with .State}}{{if eq .Status \"running\"}}up{{end}}{{end}}", "box"),
    ("exec", "box", "sh", "-c", "echo o; echo e >&2; exit 5"),
    ("exec", "-e", "B=2", "-w", "/tmp", "-u", "3", "box", "sh", "-c", "echo $B $PWD $(id -u)"),
    ("exec", "box", "nosuch"),
    ("system", "df"),
    ("stop", "nosuch"),
    ("rm", "box"),
    ("logs", "nosuch"),
    ("rename", "a"),
    ("ps", "--nosuch"),
    ("image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "busybox"),
]  # fmt: skip


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_same_output_and_exit_code(both: Both, words: tuple[str, ...]) -> None:
    # A table that tells the time may turn over between the two commands.
    for _ in range(3):
        theirs, ours = both(*words)
        # Our output came by way of universal newlines.
        theirs.stdout = theirs.stdout.replace("\r\n", "\n")
        if theirs.stdout == ours.stdout:
            break
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode
    if words[0] in ("exec", "logs") and "nosuch" not in words:
        assert ours.stderr == theirs.stderr
    assert bool(ours.stderr) == bool(theirs.stderr)


RUNS = [
    ("sh", "-c", "echo o; echo e >&2; exit 7"),
    ("sh", "-c", "exit 255"),
    ("nosuch",),
    ("/etc",),
    ("/etc/passwd",),
    ("cat",),
    ("id",),
    ("env",),
]


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_run_is_the_same(both: Both, words: tuple[str, ...]) -> None:
    options = ("-i", "-h", "box", "-u", "1:2", "-e", "X=y", "--network", "none")
    theirs, ours = both("run", "--rm", *options, "busybox", *words, stdin="in")
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


CREATES = [
    ("-m", "64m", "--cpus", "1.5", "--pids-limit", "9", "--ulimit", "nofile=5:6"),
    ("-v", "/tmp:/x:ro", "--tmpfs", "/t:size=1m", "--mount", "type=bind,src=/tmp,dst=/y,readonly"),
    ("-p", "127.0.0.1:8080:80", "-p", "53/udp", "--expose", "1000-1002"),
    (
        "--cap-add",
        "net_admin",
        "--cap-add",
        "CAP_CHOWN",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
    ),
    ("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"),
    ("--device", "/dev/null:/dev/x:r", "--device-cgroup-rule", "c 1:3 r", "--group-add", "7"),
    ("--health-cmd", "true", "--health-interval", "1m30s", "--health-retries", "3"),
    ("--no-healthcheck", "--init", "--read-only", "--privileged", "--restart", "on-failure:2"),
    ("--entrypoint", "/bin/echo", "-w", "/w", "-u", "a:b", "-l", "a=b", "-e", "A=1", "-it"),
    ("--entrypoint", "", "--stop-signal", "INT", "--stop-timeout", "3", "-a", "stdout"),
    ("--log-opt", "max-size=1m", "--log-driver", "json-file", "--sysctl", "kernel.msgmax=10"),
    ("--add-host", "a:1.2.3.4", "--dns", "1.1.1.1", "--dns-search", "x", "--dns-option", "y"),
    ("--shm-size", "8m", "--ipc", "private", "--cgroupns", "private", "--oom-score-adj", "5"),
    ("--blkio-weight", "20", "--cpu-shares", "3", "--cpuset-cpus", "0", "--memory-swap", "-1"),
]


@pytest.mark.parametrize("options", CREATES, ids=" ".join)
def test_create_makes_the_same_container(both: Both, options: tuple[str, ...]) -> None:
    theirs, ours = both("create", "--network", "none", *options, "busybox", "sleep", "1")
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
    ids = [theirs.stdout.strip(), ours.stdout.strip()]
    one, two = json.loads(both("inspect", *ids)[0].stdout)
    both("rm", *ids)
    for part in ("Config", "HostConfig"):
        found = []
        for each in (one, two):
            fields = dict(each[part])
            # The default host name is the id; the console's size is the terminal's of the caller.
            for name in ("Hostname", "ConsoleSize"):
                fields.pop(name, None)
            if fields.get("RestartPolicy", {}).get("Name") in ("", "no"):
                del fields["RestartPolicy"]
            # Empty in one spelling or the other.
            found.append({key: value for key, value in fields.items() if value})
        assert found[1] == found[0]
