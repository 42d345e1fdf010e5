"""Foreign clients against our engine, and against dockerd to prove the tests themselves.

`SKERRY_COMPAT_PEER=dockerd` runs the same tests against Debian's dockerd: what fails there is a
wrong expectation, not an incompatibility of ours.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import footprint
from bench.daemons import DOCKER, Daemon, Skerry

DEADLINE = 120.0


@pytest.fixture(scope="session")
def daemon(request: pytest.FixtureRequest) -> Daemon:
    """The engine under test."""
    peer = os.environ.get("SKERRY_COMPAT_PEER", "engine")
    found: Daemon = request.getfixturevalue(peer)
    return found


@pytest.fixture(scope="module")
def leaves_nothing(daemon: Daemon) -> Iterator[None]:
    """Fails the module when its containers leave mounts, cgroups, processes or files."""
    run_roots = [daemon.run_root] if isinstance(daemon, Skerry) else []
    daemon.remove_containers()
    # The engine starts its spawner, its bridge and the network helper with the first container
    # that needs them and keeps them.
    daemon.docker("run", "--rm", *footprint.FIRST, "busybox", "true")
    before = footprint.take(daemon.folders, run_roots)
    yield
    daemon.remove_containers()
    left = footprint.settle(before, daemon.folders, run_roots)
    if isinstance(daemon, Skerry):
        assert not left, "left behind:\n" + "\n".join(left)


class Docker:
    """The docker CLI against the engine under test."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def __call__(self, *args: str, code: int = 0, stdin: bytes = b"") -> str:
        """`docker("ps", "-q")`: stdout, stripped; the exit code has to be `code`."""
        done = self._daemon.docker(*args, check=False, stdin=stdin)
        assert done.returncode == code, f"docker {' '.join(args)}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def field(self, name: str, template: str) -> str:
        """`docker inspect --format`."""
        return self("inspect", "--format", template, name)

    def inspect(self, name: str) -> dict[str, Any]:
        """`docker inspect`, decoded."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found


@pytest.fixture
def docker(daemon: Daemon) -> Docker:
    """The docker CLI, called like a function."""
    return Docker(daemon)


@pytest.fixture
def complaint(daemon: Daemon) -> Callable[..., tuple[int, str]]:
    """`complaint("rm", "none")`: exit code and stderr of a docker command that fails."""

    def call(*args: str) -> tuple[int, str]:
        done = daemon.docker(*args, check=False)
        return done.returncode, done.stderr

    return call


@pytest.fixture
def name(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container name for this test; the container is removed afterwards."""
    unique = f"t-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    yield unique
    daemon.docker("rm", "-f", unique, check=False)


@pytest.fixture
def until(daemon: Daemon) -> Callable[..., None]:
    """`until(condition)`: poll until it is true; AssertionError with `what` at the deadline."""

    def wait(condition: Callable[[], object], what: str = "the condition") -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true"
            time.sleep(0.05)

    return wait


@pytest.fixture
def listening(docker: Docker, until: Callable[..., None]) -> Callable[[str], None]:
    """`listening(name)`: wait until a `sleeper` that was just started heeds signals.

    The kernel drops them for a PID 1 that has not yet said that it wants them; docker-init says so
    before it forks.
    """

    def wait(name: str) -> None:
        until(lambda: len(docker("top", name).splitlines()) == 3, "docker-init's child")

    return wait


@pytest.fixture
def sleeper(docker: Docker, name: str, listening: Callable[[str], None]) -> str:
    """The name of a running container that does nothing and ends at once on SIGTERM."""
    docker("run", "-d", "--network", "none", "--init", "--name", name, "busybox", "sleep", "1000")
    listening(name)
    return name


class Terminal:
    """A docker command on a pseudo-terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.seen = b""
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.execve(command[0], command, env)

    def send(self, data: bytes) -> None:
        """Type."""
        os.write(self._master, data)

    def expect(self, mark: bytes) -> bytes:
        """Read until `mark` shows; all output since the last call, up to and with it."""
        deadline = time.monotonic() + DEADLINE
        while mark not in self.seen:
            assert self._fill(deadline), f"{mark!r} did not show: {self.seen[-500:]!r}"
        before, self.seen = self.seen.split(mark, 1)
        return before + mark

    def resize(self, rows: int, columns: int) -> None:
        """Change the window; the kernel tells the command by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + DEADLINE
        while self._fill(deadline):
            pass
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, "the command does not end"
            time.sleep(0.02)

    def close(self) -> None:
        """End the command if it still runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._master)

    def _fill(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # EIO: the other end of the terminal is closed
            data = b""
        self.seen += data
        return bool(data)


@pytest.fixture
def terminal(daemon: Daemon) -> Iterator[Callable[..., Terminal]]:
    """Factory: `terminal("run", "-it", "busybox")` starts the docker CLI on a terminal."""
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        env = daemon.environment() | {"TERM": "dumb"}
        opened.append(Terminal([DOCKER, "-H", daemon.host, *args], env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def background(daemon: Daemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Factory: a docker command that goes on while the test does; pipes on stdin and stdout."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [DOCKER, "-H", daemon.host, *args]
        started.append(subprocess.Popen(command, env=daemon.environment(), **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def agent(short_tmp: Path) -> Iterator[str]:
    """The socket of an SSH agent that holds one key."""
    place = str(short_tmp / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL) as running:
        try:
            deadline = time.monotonic() + DEADLINE
            while not os.path.exists(place):
                assert time.monotonic() < deadline, "ssh-agent does not listen"
                time.sleep(0.02)
            key = str(short_tmp / "key")
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            own = os.environ | {"SSH_AUTH_SOCK": place}
            subprocess.run(["ssh-add", "-q", key], check=True, env=own)
            yield place
        finally:
            running.terminate()
