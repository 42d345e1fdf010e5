"""The engines under comparison, each started in its own roots and stopped by its own pid.

The tests use the same classes as the benchmarks: what is measured is what is tested.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = REPOSITORY / ".venv/bin/python"
SKERRY = REPOSITORY / ".venv/bin/skerry"
RUNTIME = REPOSITORY / ".venv/bin/skerry-runtime"
DOCKER = shutil.which("docker") or "docker"
BUSYBOX_IMAGE = "busybox:latest"

START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0


class MissingPiece(RuntimeError):
    """A peer, or a part of ours, is not there or does not start; the message says which."""


def short_folder(prefix: str, parent: str = "/tmp") -> Path:
    """A fresh folder with a short path: a unix socket's has to stay under 108 bytes."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def volatile_parent() -> str:
    """Where run-time files of a test go: on a tmpfs, as /run is on an installed system."""
    tmpfs = [line.split()[4] for line in _mountinfo() if " - tmpfs " in line]
    usable = (place for place in ("/run", "/dev/shm") if place in tmpfs)
    return next(usable, "/tmp")


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def answers(path: str) -> bool:
    """Whether something on the unix socket answers `GET /_ping` with 200."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(2)
        try:
            peer.connect(path)
            peer.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in peer.recv(64)
        except OSError:
            return False


def wait_for_socket(path: str, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Poll until the daemon answers; MissingPiece with the end of its log when it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    while not answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise MissingPiece(f"{name} does not answer on {path}; its log ends with:\n{tail}")
        time.sleep(0.02)


class Daemon:
    """A started engine. All that it writes is in `home`, on disk, and `run_home`, in memory;
    `close` stops it and removes both."""

    name = "daemon"

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or short_folder("sk-")
        self.run_home = short_folder("sk-", volatile_parent())
        self.socket = str(self.home / "s")
        self.host = f"unix://{self.socket}"
        self.log = self.home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def folders(self) -> list[Path]:
        """What tells this engine's processes and mounts from another's."""
        return [self.home, self.run_home]

    def command(self) -> list[str]:
        """The daemon's command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment for the daemon and for clients that are to reach it."""
        return dict(os.environ, DOCKER_HOST=self.host, DOCKER_CONFIG=str(self.home / "dockercfg"))

    @property
    def pid(self) -> int:
        """The daemon's main process; MissingPiece when it was not started."""
        if self.process is None:
            raise MissingPiece(f"{self.name} was not started")
        return self.process.pid

    def start(self) -> None:
        """Start (again) and wait until it answers."""
        with self.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment(),
                    start_new_session=True,
                )
            except FileNotFoundError as missing:
                raise MissingPiece(f"{self.name}: {missing}") from missing
        wait_for_socket(self.socket, self.process, self.name, self.log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Signal the main process and wait for its end; SIGKILL when it does not go."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def remove_containers(self) -> None:
        """`docker rm -f` of everything, so that no program outlives the daemon."""
        listed = self.docker("ps", "-aq", check=False)
        ids = listed.stdout.split()
        if ids:
            self.docker("rm", "-f", *ids, check=False, timeout=120)

    def end_leftovers(self) -> None:
        """End by pid what a killed daemon left running; nothing by default."""

    def close(self) -> None:
        """Remove containers, stop, unmount what is left and remove `home`."""
        if self.process is not None and self.process.poll() is None:
            self.remove_containers()
        self.stop()
        self.end_leftovers()
        for folder in self.folders:
            remove_folder(folder)

    def docker(
        self,
        *args: str,
        check: bool = True,
        timeout: float = 180,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker CLI against this daemon, output captured as text."""
        return run([DOCKER, "-H", self.host, *args], self.environment(), check, timeout, stdin)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.add_busybox()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_busybox(self) -> None:
        """Make `busybox:latest` available."""
        raise NotImplementedError


class Skerry(Daemon):
    """Our engine, from the checkout's own environment."""

    name = "skerry"

    def __init__(
        self, home: Path | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        """`settings` is what its engine.json says."""
        super().__init__(home)
        self.root = self.home / "root"
        self.run_root = self.run_home
        if settings:
            self.root.mkdir(0o700)
            (self.root / "engine.json").write_text(json.dumps(settings))

    def command(self) -> list[str]:
        return [
            *(str(PYTHON), "-m", "skerry", "engine"),
            *("--root", str(self.root), "--run-root", str(self.run_root), "--host", self.host),
        ]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "SKERRY_ROOT": str(self.root),
            "SKERRY_RUN_ROOT": str(self.run_root),
            "SKERRY_HOST": self.host,
        }

    def skerry(
        self,
        *args: str,
        check: bool = True,
        timeout: float = 180,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[str]:
        """Run our command line against this engine, output captured as text."""
        return run([str(SKERRY), *args], self.environment(), check, timeout, stdin)

    def add_busybox(self) -> None:
        self.skerry("bootstrap", "busybox")

    def end_leftovers(self) -> None:
        # An engine that ends in good order takes its bridges along; a killed one cannot.
        if (self.run_root / "net/ns").exists() and self._links():
            self.start()
            self.remove_containers()
            self.stop()

    def _links(self) -> bool:
        tag = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        aliases = Path("/sys/class/net").glob("*/ifalias")
        return any(path.read_text().strip() == f"skerry {tag}" for path in aliases)


class Dockerd(Daemon):
    """Debian's dockerd, which starts its own containerd and uses runc."""

    name = "dockerd"
    program = "/usr/sbin/dockerd"

    def __init__(
        self,
        home: Path | None = None,
        extra: Sequence[str] = (),
        busybox: Path | None = None,
    ) -> None:
        """`extra` are further options; `busybox` the tar of a root file system to import."""
        super().__init__(home)
        self.extra = list(extra)
        self.busybox = busybox

    def command(self) -> list[str]:
        config = self.home / "daemon.json"
        config.write_text("{}")
        return [
            self.program,
            *("--config-file", str(config), "--host", self.host),
            *("--data-root", str(self.home / "data"), "--exec-root", str(self.run_home)),
            *("--pidfile", str(self.home / "pid")),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
            *self.extra,
        ]

    def end_leftovers(self) -> None:
        # dockerd stops its containerd on SIGTERM, not when it was killed.
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.run_home / "containerd/containerd.pid").read_text())
            if str(self.run_home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)

    def add_busybox(self) -> None:
        if self.busybox is None:
            raise MissingPiece("dockerd needs a busybox tar to import")
        self.docker("import", "-c", 'CMD ["sh"]', str(self.busybox), BUSYBOX_IMAGE)


def run(
    command: Sequence[str],
    env: dict[str, str],
    check: bool,
    timeout: float,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """Run to the end with output captured; a failure's message holds what was said on stderr."""
    result = subprocess.run(
        list(command), env=env, capture_output=True, timeout=timeout, check=False, input=stdin
    )
    done = subprocess.CompletedProcess(
        list(command),
        result.returncode,
        result.stdout.decode(errors="replace"),
        result.stderr.decode(errors="replace"),
    )
    if check and done.returncode:
        words = " ".join(Path(word).name if word == command[0] else word for word in command)
        raise MissingPiece(f"`{words}` ended with {done.returncode}: {done.stderr.strip()}")
    return done


def mounts_below(folder: Path) -> list[str]:
    """Mount points in our own namespace at or below `folder`, deepest first."""
    found = []
    for line in _mountinfo():
        target = line.split()[4].encode().decode("unicode_escape")
        if target == str(folder) or target.startswith(f"{folder}/"):
            found.append(target)
    return sorted(found, key=len, reverse=True)


def remove_folder(folder: Path) -> None:
    """Unmount what a killed daemon left mounted there, then remove the tree."""
    for target in mounts_below(folder):
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", target], check=False, capture_output=True)
    # Python takes minutes for the layers of a whole session.
    subprocess.run(["rm", "-rf", "--", folder], check=False, capture_output=True)
