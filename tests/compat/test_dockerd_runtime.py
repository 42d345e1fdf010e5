"""dockerd and containerd drive skerry-runtime, registered beside runc by --add-runtime."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.daemons import RUNTIME, Dockerd

pytestmark = pytest.mark.root

RUN = ("run", "--runtime", "skerry", "--network", "none")


@pytest.fixture(scope="module")
def daemon(busybox_tar: Path) -> Iterator[Dockerd]:
    if not Path(Dockerd.program).exists():
        pytest.skip("needs the Debian package docker.io")
    with Dockerd(extra=["--add-runtime", f"skerry={RUNTIME}"], busybox=busybox_tar) as running:
        yield running


@pytest.fixture
def sleeper(daemon: Dockerd) -> Iterator[str]:
    script = "echo out; echo err >&2; exec sleep 600"
    name = daemon.docker(*RUN, "-d", "busybox", "sh", "-c", script).stdout.strip()
    yield name
    daemon.docker("rm", "--force", name)


def inspected(daemon: Dockerd, name: str, template: str) -> str:
    return daemon.docker("inspect", "--format", template, name).stdout.strip()


def test_run(daemon: Dockerd) -> None:
    done = daemon.docker(*RUN, "--rm", "busybox", "sh", "-c", "echo hi; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "hi\n")


def test_standard_input(daemon: Dockerd) -> None:
    done = daemon.docker(*RUN, "--rm", "-i", "busybox", "cat", stdin=b"in and out")
    assert done.stdout == "in and out"


def test_terminal_and_init(daemon: Dockerd) -> None:
    assert daemon.docker(*RUN, "--rm", "-t", "busybox", "tty").stdout == "/dev/pts/0\r\n"
    shown = daemon.docker(*RUN, "--rm", "--init", "busybox", "cat", "/proc/1/comm").stdout
    assert "init" in shown


def status_of(daemon: Dockerd, runtime: str, *options: str) -> str:
    """What limits a container, as the kernel tells it."""
    script = (
        "grep -e Cap -e NoNew -e Seccomp: -e Groups /proc/self/status; id; ulimit -a; mount;"
        "ls -l /dev"
    )
    words = ("run", "--runtime", runtime, "--network", "none", "--rm", *options, "busybox")
    shown = daemon.docker(*words, "sh", "-c", script).stdout
    # Paths of layers and times of nodes differ from run to run, and what a mask is made of. The
    # folder of the v1 hierarchies is read-only with us and is not with runc 1.1.
    passed = ("overlay", "tmpfs on /sys/fs/cgroup ")
    lines = [line for line in shown.splitlines() if not any(word in line for word in passed)]
    masks = (" on /proc/", " on /sys/firmware")
    lines = [
        f"masked {line.split()[2]}" if any(mask in line for mask in masks) else line
        for line in lines
    ]
    return "\n".join(sorted(" ".join(_steady(line)) for line in lines))


def _steady(line: str) -> list[str]:
    words = line.split()
    if line[:1] in "cldbp" and len(words) > 8:
        return [*words[:5], words[-1]]
    return [word for word in words if not word.startswith("/var/") and "/data/" not in word]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--user", "1000:1000"),
        ("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"),
        ("--read-only", "--tmpfs", "/x:size=1m"),
        ("--security-opt", "no-new-privileges", "--ulimit", "nofile=100:200"),
        ("--group-add", "10", "--pids-limit", "20", "--memory", "32m"),
    ],
    ids=" ".join,
)
def test_the_same_confinement_as_runc(daemon: Dockerd, options: tuple[str, ...]) -> None:
    assert status_of(daemon, "skerry", *options) == status_of(daemon, "runc", *options)


@pytest.mark.parametrize(
    ("program", "code"), [("nosuch", 127), ("/nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
def test_programs_that_are_none(daemon: Dockerd, program: str, code: int) -> None:
    assert daemon.docker(*RUN, "--rm", "busybox", program, check=False).returncode == code


def test_exec(daemon: Dockerd, sleeper: str) -> None:
    done = daemon.docker("exec", sleeper, "sh", "-c", "echo in; exit 9", check=False)
    assert (done.returncode, done.stdout) == (9, "in\n")
    assert daemon.docker("exec", "-t", sleeper, "tty").stdout == "/dev/pts/0\r\n"
    assert daemon.docker("exec", "-u", "7", "-w", "/tmp", sleeper, "pwd").stdout == "/tmp\n"
    assert daemon.docker("exec", sleeper, "nosuch", check=False).returncode in (126, 127)
    daemon.docker("exec", "-d", sleeper, "sleep", "500")
    assert "sleep 500" in daemon.docker("top", sleeper).stdout


def test_logs_stats_update(daemon: Dockerd, sleeper: str) -> None:
    logs = daemon.docker("logs", sleeper)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    daemon.docker(
        "update", "--memory", "64m", "--memory-swap", "128m", "--pids-limit", "30", sleeper
    )
    shown = daemon.docker(
        "stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", sleeper
    ).stdout
    assert shown.split()[2:] == ["64MiB", "1"]


def test_pause(daemon: Dockerd, sleeper: str) -> None:
    daemon.docker("pause", sleeper)
    assert inspected(daemon, sleeper, "{{.State.Status}}") == "paused"
    daemon.docker("unpause", sleeper)
    assert daemon.docker("exec", sleeper, "echo", "on").stdout == "on\n"


def test_stop_and_start_again(daemon: Dockerd, sleeper: str) -> None:
    daemon.docker("stop", "-t", "0", sleeper)
    assert inspected(daemon, sleeper, "{{.State.ExitCode}}") == "137"
    daemon.docker("start", sleeper)
    assert inspected(daemon, sleeper, "{{.State.Status}}") == "running"


def test_out_of_memory_is_seen(daemon: Dockerd) -> None:
    name = daemon.docker(
        *(*RUN, "-d", "--memory", "16m", "--memory-swap", "16m", "busybox"),
        *("sh", "-c", "exec tail -n1 /dev/zero"),
    ).stdout.strip()
    assert daemon.docker("wait", name).stdout == "137\n"
    assert inspected(daemon, name, "{{.State.OOMKilled}}") == "true"
    daemon.docker("rm", name)


def test_nothing_is_left(daemon: Dockerd) -> None:
    daemon.docker(*RUN, "--rm", "busybox", "true")
    found = subprocess.run(
        ["find", str(daemon.run_home), "-path", "*runtime*", "-name", "state.json"],
        capture_output=True,
        text=True,
        check=False,  # files of containerd come and go while find looks
    )
    assert found.stdout == ""
