"""podman drives skerry-runtime in the place of runc."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.daemons import RUNTIME, remove_folder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="needs the Debian package podman"),
]

# podman's own defaults ask for more open files than a restricted root may have.
OPTIONS = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]


class Podman:
    """podman with its own storage, and our runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                *(
                    "podman",
                    "--root",
                    str(self.folder / "root"),
                    "--runroot",
                    str(self.folder / "r"),
                ),
                *("--tmpdir", str(self.folder / "tmp"), "--storage-driver", "vfs"),
                *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
                *("--runtime", str(RUNTIME), *words),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`podman run --rm` of the image; may fail."""
        return self("run", "--rm", *OPTIONS, "busybox", *words, check=False)


@pytest.fixture(scope="module")
def podman(busybox_tar: Path) -> Iterator[Podman]:
    folder = Path("/tmp") / f"skerry-podman-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    made = Podman(folder)
    try:
        made("import", str(busybox_tar), "busybox")
        yield made
        made("rm", "--all", "--force", "--time", "0", check=False)
    finally:
        remove_folder(folder)


@pytest.fixture
def sleeper(podman: Podman) -> Iterator[str]:
    script = "echo out; echo err >&2; exec sleep 600"
    name = podman("run", "-d", *OPTIONS, "busybox", "sh", "-c", script).stdout.strip()
    yield name
    podman("rm", "--force", "--time", "0", name)


def test_run(podman: Podman) -> None:
    done = podman.run("sh", "-c", "echo hi; exit 3")
    assert (done.returncode, done.stdout) == (3, "hi\n")


def test_run_with_terminal(podman: Podman) -> None:
    done = podman("run", "--rm", "-t", *OPTIONS, "busybox", "tty")
    assert done.stdout == "/dev/pts/0\n"


def test_user_mounts_and_read_only_root(podman: Podman) -> None:
    words = ("run", "--rm", "--user", "7:8", "--read-only", "--tmpfs", "/x", *OPTIONS, "busybox")
    script = "id -u; id -g; touch /y 2>&1 | grep -c Read-only; grep -c ' /x ' /proc/mounts"
    assert podman(*words, "sh", "-c", script).stdout == "7\n8\n1\n1\n"


@pytest.mark.parametrize(
    ("program", "code"), [("nosuch", 127), ("/nosuch", 127), ("/etc/passwd", 126)]
)
def test_programs_that_are_none(podman: Podman, program: str, code: int) -> None:
    assert podman.run(program).returncode == code


def test_exec(podman: Podman, sleeper: str) -> None:
    done = podman("exec", sleeper, "sh", "-c", "echo in; exit 9", check=False)
    assert (done.returncode, done.stdout) == (9, "in\n")
    assert podman("exec", "-t", sleeper, "tty").stdout == "/dev/pts/0\n"
    assert podman("exec", "--user", "7", sleeper, "id", "-u").stdout == "7\n"


def test_logs_and_inspect(podman: Podman, sleeper: str) -> None:
    logs = podman("logs", sleeper)
    assert "out" in logs.stdout
    assert "err" in logs.stderr
    runtime = podman("inspect", "--format", "{{.OCIRuntime}} {{.State.Status}}", sleeper).stdout
    assert runtime.split() == [str(RUNTIME), "running"]


def test_pause(podman: Podman, sleeper: str) -> None:
    podman("pause", sleeper)
    assert podman("inspect", "--format", "{{.State.Status}}", sleeper).stdout == "paused\n"
    podman("unpause", sleeper)
    assert podman("exec", sleeper, "echo", "on").stdout == "on\n"


def test_stop_and_kill(podman: Podman, sleeper: str) -> None:
    podman("stop", "--time", "0", sleeper)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", sleeper).stdout == "137\n"
    podman("start", sleeper)
    podman("kill", "--signal", "KILL", sleeper)
    assert podman("wait", sleeper).stdout == "137\n"
