"""Our own command line against our engine: every command, with the effect looked up elsewhere."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import tarfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import SKERRY as PROGRAM
from bench.daemons import Skerry

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]

DEADLINE = 120.0
RUN = ("run", "--rm", "busybox")

Cli = Callable[..., str]


@pytest.fixture
def skerry(engine: Skerry) -> Cli:
    """`skerry("ps", code=0, stdin=b"")`: what it prints; the exit code must be `code`.

    `error=True` gives standard error instead.
    """

    def call(*words: str, code: int = 0, stdin: bytes = b"", error: bool = False) -> str:
        done = engine.skerry(*words, check=False, stdin=stdin)
        assert done.returncode == code, f"{words}: {done.returncode}: {done.stderr or done.stdout}"
        assert "Traceback" not in done.stderr
        return (done.stderr if error else done.stdout).strip()

    return call


@pytest.fixture
def name(engine: Skerry, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for this test's container, which is removed at the end."""
    unique = f"cli-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    yield unique
    engine.skerry("rm", "-f", unique, check=False)


@pytest.fixture
def sleeper(skerry: Cli, name: str) -> str:
    """The name of a running container that ends at once on SIGTERM."""
    skerry("run", "-d", "--init", "--name", name, "busybox", "sleep", "1000")
    # The kernel drops signals for a PID 1 that has not yet said that it wants them; tini says so
    # before it forks.
    until(lambda: len(skerry("top", name).splitlines()) == 3, "tini's child")
    return name


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.02)


class Typed:
    """A command on a terminal of its own."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(words[0], words, env | {"TERM": "dumb"})

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def expect(self, mark: bytes) -> bytes:
        deadline = time.monotonic() + DEADLINE
        while mark not in self.seen:
            assert self._fill(deadline), f"{mark!r} did not show: {self.seen[-500:]!r}"
        before, _, self.seen = self.seen.partition(mark)
        return before + mark

    def end(self) -> int:
        deadline = time.monotonic() + DEADLINE
        while self._fill(deadline):
            pass
        assert time.monotonic() < deadline, f"it does not end: {self.seen[-500:]!r}"
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _fill(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
        try:
            data = os.read(self.fd, 65536) if ready else b""
        except OSError:  # EIO: the other end is closed
            data = b""
        self.seen += data
        return bool(data)


@pytest.fixture
def typed(engine: Skerry) -> Iterator[Callable[..., Typed]]:
    """Factory: `typed("run", "-it", "busybox")`."""
    opened: list[Typed] = []

    def start(*words: str) -> Typed:
        opened.append(Typed([str(PROGRAM), *words], engine.environment()))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture
def background(engine: Skerry) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Factory: a command that goes on, with pipes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [str(PROGRAM), *words],
                env=engine.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


class TestRun:
    def test_streams_and_exit_code(self, engine: Skerry) -> None:
        done = engine.skerry(*RUN, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)

    def test_a_signal_is_128_and_its_number(self, skerry: Cli) -> None:
        skerry("run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$", code=137)

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("nope",), 127, "not found"),
            (("/etc",), 126, "is a directory|permission denied"),
            (("/etc/passwd",), 126, "permission denied"),
        ],
    )
    def test_what_cannot_be_run(
        self, skerry: Cli, words: tuple[str, ...], code: int, message: str
    ) -> None:
        shown = skerry(*RUN, *words, code=code, error=True)
        assert re.search(message, shown)
        assert shown.startswith("skerry: ")
        assert skerry("ps", "-aq") == ""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--isolation", "glass"), "no isolation 'glass'"),
            (("--runtime", "nosuch"), "runtime name: nosuch"),
            (("--network", "nosuch"), "network nosuch not found"),
            (("--device", "/dev/nosuch"), '"/dev/nosuch": no such file or directory'),
            (("--user", "nosuch"), "unable to find user nosuch"),
            (("--cap-add", "nosuch"), "invalid CapAdd"),
            (("--mount", "type=bind,src=/proc/nosuch,dst=/x"), "does not exist: /proc/nosuch"),
            (("--cpus", "10000"), "range of CPUs"),
            (("--log-driver", "nosuch"), "looking up logging plugin nosuch"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_what_is_refused_is_one_clear_line(
        self, skerry: Cli, options: tuple[str, ...], message: str
    ) -> None:
        shown = skerry("run", "--rm", *options, "busybox", "true", code=125, error=True)
        line, empty, see = shown.splitlines()
        assert line.startswith("skerry: ")
        assert message in line
        assert "Errno" not in line
        assert (empty, see) == ("", "See 'skerry run --help'.")
        assert skerry("ps", "-aq") == ""

    def test_a_missing_image_names_the_way_out(self, skerry: Cli) -> None:
        shown = skerry("run", "--rm", "debian:nosuch", code=125, error=True)
        assert "skerry bootstrap debian:nosuch" in shown
        skerry("run", "--rm", "--pull", "never", "nosuch", code=125)

    def test_input_goes_in_whole(self, skerry: Cli) -> None:
        data = os.urandom(300_000).hex().encode()
        own = subprocess.run(["md5sum"], input=data, capture_output=True, check=True)
        told = skerry("run", "--rm", "-i", "busybox", "md5sum", stdin=data)
        assert told.split()[0] == own.stdout.decode().split()[0]

    def test_options_arrive(self, skerry: Cli, name: str, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        (tmp_path / "file").write_text("content")
        (tmp_path / "env").write_text("FROM_FILE=1\n")
        script = (
            "cat /mnt/file; echo; echo $A $FROM_FILE; pwd; id -u; hostname; ulimit -n; ls -d /t"
        )
        cid_file = tmp_path / "cid"
        shown = skerry(
            "run", "--name", name, "-e", "A=b", "--env-file", str(tmp_path / "env"),
            "-v", f"{tmp_path}:/mnt:ro", "--tmpfs", "/t", "-w", "/tmp", "-u", "7", "-h", "box",
            "--ulimit", "nofile=100:100", "-m", "64m", "--label", "x=y", "--read-only",
            "--cidfile", str(cid_file), "busybox", "sh", "-c", script,
        )  # fmt: skip
        assert shown.split() == ["content", "b", "1", "/tmp", "7", "box", "100", "/t"]
        found = json.loads(skerry("inspect", name))[0]
        assert found["Id"] == cid_file.read_text()
        assert found["HostConfig"]["Memory"] == 64 << 20
        assert found["Config"]["Labels"]["x"] == "y"
        assert "delete" in skerry(
            "run", "--cidfile", str(cid_file), "busybox", code=125, error=True
        )

    def test_detached_prints_the_id(self, skerry: Cli, name: str) -> None:
        full = skerry("run", "-d", "--name", name, "busybox", "sleep", "1000")
        assert re.fullmatch("[0-9a-f]{64}", full)
        assert skerry("inspect", "-f", "{{.State.Running}} {{.Id}}", name) == f"true {full}"

    def test_signals_are_passed_on(self, background: Any, skerry: Cli, name: str) -> None:
        script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        process = background("run", "--rm", "--name", name, "busybox", "sh", "-c", script)
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE)[0] == b"got\n"
        assert process.returncode == 3

    def test_three_interrupts_leave_a_deaf_container(
        self, background: Any, skerry: Cli, name: str
    ) -> None:
        script = "trap '' INT; echo ready; sleep 1000"
        process = background("run", "--name", name, "busybox", "sh", "-c", script)
        assert process.stdout.readline() == b"ready\n"
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        # A fourth one may come while it ends: the same to a shell.
        assert process.returncode in (130, -signal.SIGINT)
        assert skerry("inspect", "-f", "{{.State.Status}}", name) == "running"

    def test_an_interrupt_leaves_an_exec_running(self, background: Any, sleeper: str) -> None:
        process = background("exec", sleeper, "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130

    def test_output_to_a_closed_pipe_is_no_error(self, engine: Skerry) -> None:
        line = f"{PROGRAM} run --rm busybox seq 100000 | head -1"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=engine.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


class TestTerminal:
    def test_size_keys_and_code(self, typed: Callable[..., Typed]) -> None:
        session = typed("run", "--rm", "-it", "busybox", "sh")
        session.expect(b"/ # ")
        termios.tcsetwinsize(session.fd, (33, 99))
        # The new size travels by SIGWINCH and a request: ask until it has arrived.
        deadline = time.monotonic() + DEADLINE
        while True:
            session.type(b"stty size\n")
            if b"33 99" in session.expect(b"/ # "):
                break
            assert time.monotonic() < deadline
        session.type(b"sh -c 'echo be\"\"gun; exec sleep 1000'\n")
        session.expect(b"begun")
        session.type(b"\x03")
        session.type(b"exit 5\n")
        assert session.end() == 5

    def test_detach_and_attach(self, typed: Callable[..., Typed], skerry: Cli, name: str) -> None:
        session = typed("run", "-it", "--name", name, "busybox", "sh")
        session.expect(b"/ # ")
        session.type(b"\x10\x11")
        assert session.end() == 0
        assert skerry("ps", "--format", "{{.State}}", "-f", f"name={name}") == "running"
        again = typed("attach", "--detach-keys", "ctrl-a,x", name)
        again.type(b"\necho a$((20+3))b\n")
        again.expect(b"a23b")
        again.type(b"\x01x")
        assert again.end() == 1, "as Docker's"
        third = typed("attach", name)
        third.type(b"exit 4\n")
        assert third.end() == 4

    def test_the_terminal_is_given_back(self, engine: Skerry) -> None:
        leader, follower = pty.openpty()
        before = termios.tcgetattr(follower)
        process = subprocess.Popen(
            [str(PROGRAM), "run", "--rm", "-it", "busybox", "sh", "-c", "echo raw; sleep 1000"],
            env=engine.environment(),
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        seen = b""
        while b"raw" not in seen:
            seen += os.read(leader, 1000)
        assert termios.tcgetattr(follower) != before
        # Three are enough, but those that come together count as one.
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert termios.tcgetattr(follower) == before
        os.close(leader)
        os.close(follower)

    def test_exec(self, typed: Callable[..., Typed], sleeper: str) -> None:
        session = typed("exec", "-it", sleeper, "sh")
        session.expect(b"/ # ")
        session.type(b"tty; exit 6\n")
        session.expect(b"/dev/")
        assert session.end() == 6


class TestLifeCycle:
    def test_create_start_wait_logs_remove(self, skerry: Cli, name: str) -> None:
        full = skerry("create", "--name", name, "busybox", "sh", "-c", "echo hi; exit 3")
        assert skerry("ps", "-a", "-q", "--no-trunc", "-f", f"name={name}") == full
        assert skerry("start", "-a", name, code=3) == "hi"
        assert skerry("wait", name) == "3"
        assert skerry("logs", name) == "hi"
        assert skerry("rm", name) == name
        assert "No such container" in skerry("rm", name, code=1, error=True)
        skerry("rm", "-f", name)

    def test_stop_start_restart_kill(self, skerry: Cli, sleeper: str) -> None:
        status = ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", sleeper)
        assert skerry("stop", sleeper) == sleeper
        assert skerry(*status) == "exited 143"
        assert skerry("start", sleeper) == sleeper
        skerry("restart", "-t", "5", sleeper)
        assert skerry(*status) == "running 0"
        assert skerry("kill", "-s", "CONT", sleeper) == sleeper
        skerry("kill", sleeper)
        until(lambda: skerry(*status).startswith("exited"), "the end")
        assert "not running" in skerry("kill", sleeper, code=1, error=True)

    def test_pause(self, skerry: Cli, sleeper: str) -> None:
        skerry("pause", sleeper)
        assert "(Paused)" in skerry("ps", "--format", "{{.Status}}", "-f", f"name={sleeper}")
        assert "paused" in skerry("attach", sleeper, code=1, error=True)
        skerry("unpause", sleeper)
        assert skerry("inspect", "-f", "{{.State.Paused}}", sleeper) == "false"

    def test_rename(self, skerry: Cli, sleeper: str) -> None:
        skerry("rename", sleeper, f"{sleeper}-x")
        assert skerry("inspect", "-f", "{{.Name}}", f"{sleeper}-x") == f"/{sleeper}-x"
        skerry("rename", f"{sleeper}-x", sleeper)

    def test_update(self, skerry: Cli, sleeper: str) -> None:
        skerry("update", "-m", "32m", "--memory-swap", "64m", "--pids-limit", "50", sleeper)
        shown = skerry("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", sleeper)
        assert shown == f"{32 << 20} 50"
        assert "nothing to update" in skerry("update", sleeper, code=1, error=True)

    def test_failures_do_not_stop_the_others(self, skerry: Cli, sleeper: str) -> None:
        assert skerry("stop", "nosuch", sleeper, code=1) == sleeper

    def test_health_shows(self, skerry: Cli, name: str) -> None:
        skerry("run", "-d", "--name", name, "--health-cmd", "true", "--health-interval", "100ms",
               "busybox", "sleep", "1000")  # fmt: skip
        until(lambda: "(healthy)" in skerry("ps", "-f", f"name={name}"), "health")


class TestExec:
    def test_streams_code_and_input(self, engine: Skerry, sleeper: str) -> None:
        done = engine.skerry("exec", sleeper, "sh", "-c", "echo o; echo e >&2; exit 9", check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("o\n", "e\n", 9)
        script = "cat; echo $A $PWD $(id -u)"
        options = ("-i", "-e", "A=1", "-w", "/tmp", "-u", "3")
        done = engine.skerry("exec", *options, sleeper, "sh", "-c", script, stdin=b"in\n")
        assert done.stdout == "in\n1 /tmp 3\n"

    def test_detached(self, skerry: Cli, sleeper: str) -> None:
        assert skerry("exec", "-d", sleeper, "touch", "/made") == ""
        until(lambda: "made" in skerry("exec", sleeper, "ls", "/"), "the file")

    def test_what_cannot_be_run(self, skerry: Cli, sleeper: str) -> None:
        skerry("exec", sleeper, "nope", code=127)
        skerry("exec", sleeper, "/etc", code=126)
        assert "No such container" in skerry("exec", "nosuch", "ls", code=1, error=True)


class TestLooking:
    def test_ps(self, skerry: Cli, sleeper: str) -> None:
        lines = skerry("ps").splitlines()
        assert re.fullmatch(
            r"CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES", lines[0]
        )
        assert re.search(r'^[0-9a-f]{12} +busybox +"sleep 1000" +.* ago +Up .*' + sleeper, lines[1])
        row = json.loads(skerry("ps", "--format", "json", "-f", f"name={sleeper}"))
        assert (row["Names"], row["State"], row["Image"]) == (sleeper, "running", "busybox")
        assert "virtual" in skerry("ps", "-s", "-f", f"name={sleeper}")
        assert 'no field or key "Nope"' in skerry("ps", "--format", "{{.Nope}}", code=1, error=True)

    def test_logs(self, skerry: Cli, name: str, background: Any) -> None:
        script = "echo one; echo two >&2; read x; echo $x"
        process = background("run", "-i", "--name", name, "busybox", "sh", "-c", script)
        assert process.stdout.readline() == b"one\n"
        follower = background("logs", "-f", name)
        assert follower.stdout.readline() == b"one\n"
        process.communicate(b"three\n", timeout=DEADLINE)
        assert follower.communicate(timeout=DEADLINE) == (b"three\n", b"two\n")
        assert skerry("logs", "--tail", "1", name) == "three"
        assert re.match(r"\d{4}-\d\d-\d\dT[0-9:.]+Z three", skerry("logs", "-t", "-n", "1", name))
        assert skerry("logs", "--since", "2999-01-01", name) == ""
        assert skerry("logs", "--until", "2001-01-01", name) == ""
        assert "invalid --tail" in skerry("logs", "--tail", "x", name, code=1, error=True)

    def test_top_and_stats(self, skerry: Cli, sleeper: str) -> None:
        assert "sleep 1000" in skerry("top", sleeper)
        assert skerry("top", sleeper, "-o", "pid,comm").split()[:2] == ["PID", "COMMAND"]
        heading, row = skerry("stats", "--no-stream", sleeper).splitlines()
        assert heading.split()[:3] == ["CONTAINER", "ID", "NAME"]
        assert re.search(rf"{sleeper} +[\d.]+% +[\d.]+\w+ / [\d.]+GiB +[\d.]+%", row)

    def test_inspect(self, skerry: Cli, sleeper: str) -> None:
        both = json.loads(skerry("inspect", sleeper, "busybox"))
        assert both[0]["Name"] == f"/{sleeper}"
        assert "busybox:latest" in both[1]["RepoTags"]
        assert skerry("inspect", "nosuch", code=1) == "[]"
        skerry("inspect", "--type", "image", sleeper, code=1)
        skerry("image", "inspect", sleeper, code=1)
        assert skerry("image", "inspect", "-f", "{{.Os}}", "busybox") == "linux"

    def test_events(self, skerry: Cli, name: str, background: Any) -> None:
        watcher = background("events", "--filter", f"container={name}", "--format", "{{.Action}}")
        # Nothing says that it listens, so make events until one comes.
        deadline = time.monotonic() + DEADLINE
        while not select.select([watcher.stdout], [], [], 0.1)[0]:
            assert time.monotonic() < deadline
            skerry("run", "--rm", "--name", name, "busybox", "true")
        assert watcher.stdout.readline().strip() in (b"create", b"start", b"attach")
        past = skerry("events", "--since", "1m", "--until", "0s", "-f", f"container={name}")
        assert re.search(rf"^\d{{4}}-.* container create [0-9a-f]{{64}} \(.*name={name}", past)
        assert " container destroy " in past

    def test_info_version_doctor(self, skerry: Cli, engine: Skerry) -> None:
        assert f"Root Dir: {engine.root}" in skerry("info")
        assert json.loads(skerry("info", "-f", "json"))["OSType"] == "linux"
        assert skerry("version", "-f", "{{.Client.Version}}") == skerry(
            "version", "-f", "{{.Server.Version}}"
        )
        assert re.search(r"^ok +namespaces", skerry("doctor"), re.MULTILINE)
        assert {"name", "status", "detail"} <= set(json.loads(skerry("doctor", "-f", "json"))[0])


class TestFiles:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A folder with everything that has to come over."""
        tree = tmp_path / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "file").write_text("hello")
        (tree / "sub/run").write_text("x" * 100_000)
        (tree / "sub/run").chmod(0o751)
        (tree / "link").symlink_to("file")
        os.link(tree / "file", tree / "hard")
        return tree

    def listing(self, folder: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(path.relative_to(folder)): (
                path.lstat().st_mode,
                os.readlink(path).encode() if path.is_symlink()
                else path.read_bytes() if path.is_file() else b"",
            )
            for path in folder.rglob("*")
        }  # fmt: skip

    def test_there_and_back(self, skerry: Cli, sleeper: str, tree: Path, tmp_path: Path) -> None:
        skerry("cp", str(tree), f"{sleeper}:/new")
        skerry("cp", str(tree), f"{sleeper}:/tmp")
        assert skerry("exec", sleeper, "cat", "/new/link", "/tmp/tree/file") == "hellohello"
        assert skerry("exec", sleeper, "stat", "-c", "%a %u", "/new/sub/run") == "751 0"
        skerry("cp", f"{sleeper}:/new", str(tmp_path / "back"))
        assert self.listing(tmp_path / "back") == self.listing(tree)
        skerry("cp", f"{sleeper}:/tmp/tree/.", str(tmp_path / "content"))
        assert self.listing(tmp_path / "content") == self.listing(tree)
        for root in ("/", "/tmp/.."):  # has no name: what it holds goes right into the folder
            (tmp_path / "root").mkdir(exist_ok=True)
            skerry("cp", f"{sleeper}:{root}", str(tmp_path / "root"))
            assert self.listing(tmp_path / "root/tmp/tree") == self.listing(tree)

    def test_files_links_and_streams(
        self, skerry: Cli, engine: Skerry, sleeper: str, tree: Path, tmp_path: Path
    ) -> None:
        skerry("cp", str(tree / "file"), f"{sleeper}:/renamed")
        assert skerry("exec", sleeper, "cat", "/renamed") == "hello"
        skerry("cp", str(tree), f"{sleeper}:/new")
        skerry("cp", f"{sleeper}:/new/link", str(tmp_path / "l"))
        assert os.readlink(tmp_path / "l") == "file"
        skerry("cp", "-L", f"{sleeper}:/new/link", str(tmp_path / "f"))
        assert (tmp_path / "f").read_text() == "hello"
        done = subprocess.run(
            [str(PROGRAM), "cp", f"{sleeper}:/new/file", "-"],
            env=engine.environment(),
            capture_output=True,
            check=True,
        )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            assert tar.getnames() == ["file"]
        skerry("cp", "-", f"{sleeper}:/root", stdin=done.stdout)
        assert skerry("exec", sleeper, "cat", "/root/file") == "hello"

    @pytest.mark.parametrize(
        ("source", "target", "message"),
        [
            ("CONTAINER:/nosuch", "x", "no path /nosuch"),
            ("nosuch:/etc", "x", "no such container"),
            ("/proc/nosuch", "CONTAINER:/x", "cannot read /proc/nosuch"),
            ("/etc/passwd", "CONTAINER:/nosuch/", "does not exist"),
            ("/etc", "CONTAINER:/etc/passwd", "cannot copy a folder"),
            ("CONTAINER:/etc", "/etc/passwd", "cannot copy a folder"),
            ("a:/x", "b:/y", "not supported"),
            ("/x", "/y", "must be CONTAINER:PATH"),
        ],
    )
    def test_wrong_places(
        self, skerry: Cli, sleeper: str, source: str, target: str, message: str
    ) -> None:
        words = [word.replace("CONTAINER", sleeper) for word in (source, target)]
        assert message in skerry("cp", *words, code=1, error=True)

    def test_diff_and_commit(self, skerry: Cli, sleeper: str) -> None:
        skerry("exec", sleeper, "sh", "-c", "echo 1 > /added; rm /etc/group")
        assert set(skerry("diff", sleeper).splitlines()) >= {"A /added", "C /etc", "D /etc/group"}
        full = skerry(
            "commit", "-m", "why", "-a", "me", "-c", 'CMD ["cat", "/added"]', sleeper, "made:1"
        )
        assert skerry("run", "--rm", "made:1") == "1"
        assert skerry("history", "--format", "{{.Comment}}", "made:1").splitlines()[0] == "why"
        assert f"Deleted: {full}" in skerry("rmi", "made:1")


class TestImages:
    def test_list_tag_remove(self, skerry: Cli) -> None:
        heading, *rows = skerry("images").splitlines()
        assert heading.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
        assert any(row.startswith("busybox ") for row in rows)
        skerry("tag", "busybox", "other:2")
        try:
            ids = skerry("images", "-q", "--no-trunc").splitlines()
            assert len(ids) == len(set(ids))
            assert skerry("images", "--format", "{{.Repository}}:{{.Tag}}", "other") == "other:2"
            assert skerry("image", "exists", "other:2") == ""
        finally:
            assert skerry("rmi", "other:2") == "Untagged: other:2"
        skerry("image", "exists", "other:2", code=1)
        assert "No such image" in skerry("rmi", "other:2", code=1, error=True)
        skerry("rmi", "-f", "other:2")
        assert "busybox" in skerry("image", "ls")

    def test_history(self, skerry: Cli) -> None:
        heading, *steps = skerry("history", "busybox").splitlines()
        assert heading.startswith("IMAGE ")
        assert steps

    def test_load(self, skerry: Cli, engine: Skerry, tmp_path: Path) -> None:
        archive = tmp_path / "image.tar"
        subprocess.run(
            ["skopeo", "copy", "-q", f"oci:{engine.root}:{self.layout_name(engine)}",
             f"docker-archive:{archive}:kept:1"],
            check=True,
            capture_output=True,
        )  # fmt: skip
        full = skerry("image", "inspect", "-f", "{{.Id}}", "busybox")
        assert "Loaded image: kept:1" in skerry("load", "-i", str(archive))
        assert skerry("images", "-q", "--no-trunc", "kept") == full
        assert skerry("rmi", "kept:1") == "Untagged: kept:1"
        assert "Loaded image: kept:1" in skerry("load", stdin=archive.read_bytes())
        skerry("rmi", "kept:1")
        assert "cannot read" in skerry("load", "-i", "/nosuch", code=1, error=True)

    def layout_name(self, engine: Skerry) -> str:
        index = json.loads((engine.root / "index.json").read_text())
        names = [
            each.get("annotations", {}).get("org.opencontainers.image.ref.name", "")
            for each in index["manifests"]
        ]
        return next(str(name) for name in names if "busybox" in name)

    def test_what_is_refused_leaves_no_file(self, skerry: Cli, tmp_path: Path) -> None:
        skerry("save", "-o", str(tmp_path / "x.tar"), "nosuch", code=1)
        assert os.listdir(tmp_path) == []

    def test_bootstrap(self, skerry: Cli) -> None:
        full = skerry("image", "inspect", "-f", "{{.Id}}", "busybox")
        assert skerry("bootstrap", "busybox") == full, "the same inputs give the same image"
        shown = skerry("bootstrap", "--progress", "plain", "busybox", error=True)
        assert "busybox" in shown
        assert "cannot make" in skerry("bootstrap", "nosuch", code=1, error=True)


class TestSpace:
    def test_df(self, skerry: Cli, sleeper: str) -> None:
        shown = skerry("system", "df")
        assert re.search(r"^TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE$", shown, re.MULTILINE)
        assert re.search(r"^Images +\d+ +1 ", shown, re.MULTILINE)
        assert re.search(r"^Total +[\d.]+[kMG]B", shown, re.MULTILINE)
        assert sleeper in skerry("system", "df", "-v")

    def test_prune(self, skerry: Cli, name: str) -> None:
        full = skerry("create", "--name", name, "busybox")
        assert "--force" in skerry("container", "prune", code=1, error=True)
        shown = skerry("container", "prune", "-f")
        assert full in shown
        assert "Total reclaimed space: " in shown
        skerry("tag", "busybox", "keep:1")
        assert "Total reclaimed space: " in skerry("image", "prune", "-f")
        skerry("image", "exists", "keep:1")
        skerry("rmi", "keep:1")
        assert "Total reclaimed space: " in skerry("system", "prune", "-f")
        skerry("image", "exists", "busybox")


class TestEngine:
    def test_starts_on_demand_and_only_once(self, short_tmp: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("SKERRY_")}
        env |= {"SKERRY_ROOT": str(short_tmp / "root"), "SKERRY_RUN_ROOT": str(short_tmp / "run")}
        line = [str(PROGRAM), "info", "-f", "{{.ID}}"]
        first = [
            subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        answers = [each.communicate(timeout=120) for each in first]
        pid = int((short_tmp / "run/engine.pid").read_text())
        try:
            assert {out for out, _ in answers} == {answers[0][0]}, answers
            assert all(each.returncode == 0 for each in first), answers
            assert os.getsid(pid) == pid, "Ctrl-C in the terminal must not reach it"
        finally:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not os.path.exists(f"/proc/{pid}"), "the engine's end")

    def test_other_users_are_told(self, engine: Skerry) -> None:
        env = engine.environment()
        os.chmod(engine.socket, 0o600)
        # The checkout may lie in a folder that only its owner can read: drop the rights late.
        script = (
            "import os, sys; sys.path.insert(1, sys.argv.pop(1)); import skerry.cli.main as main; "
            "import skerry.cli.commands.ps; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
            "sys.exit(main.entry())"
        )
        source = Path(__file__).resolve().parents[2] / "src"
        done = subprocess.run(
            [str(PROGRAM.parent / "python"), "-ISE", "-c", script, str(source), "ps"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "permission denied" in done.stderr or "not yours" in done.stderr
        assert "Traceback" not in done.stderr
