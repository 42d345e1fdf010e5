"""Containers for escape attempts: the engine's default configuration, run by our OCI runtime.

The specification comes from the engine's own planning code, so what is attacked here is what
`skerry run` makes. `SKERRY_TEST_RUNTIME` names another runtime, to compare with.
"""

import contextlib
import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bench.daemons import RUNTIME

from skerry.engine import resources, security
from skerry.engine import spec as engine_spec
from skerry.engine.record import Record
from skerry.engine.users import User
from skerry.kernel import capabilities, seccomp

Spec = dict[str, Any]
Change = Callable[[Spec], None]

PRELUDE = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *args):
    ctypes.set_errno(0)
    words = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *words)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "OK"

def attempt(action):
    try:
        action()
        return "OK"
    except OSError as error:
        return errno.errorcode[error.errno]

def host_can_be_written(fd):
    # Trying tells nothing while somebody executes the file: ETXTBSY comes before EROFS.
    import fcntl
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return False
    try:
        return not fcntl.fcntl(fd, 1034) & 8  # F_GET_SEALS, F_SEAL_WRITE
    except OSError:
        return True

def tell(value):
    print(json.dumps(value))
"""


class Outcome(NamedTuple):
    """How a container ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What a Python probe told, decoded."""
        assert self.code == 0, f"exit code {self.code}: {self.out}{self.err}"
        return json.loads(self.out)


def default_spec(args: list[str], rootfs: Path, host: dict[str, Any] | None = None) -> Spec:
    """What the engine plans for `run` with these HostConfig options and a private network."""
    host = dict(host or {})
    privileged = bool(host.get("Privileged"))
    known = {name: capabilities.CAPABILITIES[name] for name in capabilities.known_to_kernel()}
    caps = security.capabilities(
        host.get("CapAdd") or (), host.get("CapDrop") or (), known, privileged=privileged
    )
    nodes, rules = resources.devices(host, privileged=privileged)
    facts = engine_spec.Facts(
        user=User(0, 0, (), "/root"),
        hostname="victim",
        files={},
        namespaces=engine_spec.Namespaces(),
        capabilities=caps,
        seccomp=None if privileged else seccomp.docker_default(caps),
        nodes=nodes,
        device_rules=rules,
        cgroup_path="",
        root=str(rootfs),
    )
    record = Record("0" * 64, "victim", "busybox", "", 0, {"Cmd": args}, host)
    return engine_spec.build(record, facts)


class Sandbox:
    """Makes bundles in a folder and runs them; takes everything down at the end."""

    def __init__(self, folder: Path, rootfs: Path) -> None:
        self.folder = folder
        self.rootfs = rootfs
        self.program = os.environ.get("SKERRY_TEST_RUNTIME", str(RUNTIME))
        self.state = folder / "state"
        self._made: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def runtime(self, *args: str, timeout: float = 60, **more: Any) -> Outcome:
        done = subprocess.run(
            [self.program, "--root", str(self.state), *args],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            **more,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def bundle(
        self, args: list[str], change: Change | None = None, host: dict[str, Any] | None = None
    ) -> tuple[str, Path]:
        """A new container id and its bundle."""
        name = f"skerry-security-{os.getpid()}-{self.folder.name[-8:]}-{len(self._made)}"
        folder = self.folder / name
        folder.mkdir()
        spec = default_spec(args, self.rootfs, host)
        spec["linux"]["cgroupsPath"] = f"/skerry-security-{os.getpid()}/{name}"
        if change:
            change(spec)
        (folder / "config.json").write_text(json.dumps(spec))
        self._made.append(name)
        return name, folder

    def run(
        self,
        args: list[str],
        change: Change | None = None,
        host: dict[str, Any] | None = None,
        **more: Any,
    ) -> Outcome:
        """Run a container to its end."""
        name, folder = self.bundle(args, change, host)
        return self.runtime("run", "--bundle", str(folder), name, **more)

    def shell(self, script: str, change: Change | None = None, **more: Any) -> Outcome:
        return self.run(["/bin/sh", "-c", script], change, **more)

    def probe(self, script: str, change: Change | None = None, **more: Any) -> Any:
        """Run a Python probe with the host's interpreter, mounted read-only; what it told."""

        def with_python(spec: Spec) -> None:
            mount_python(spec)
            if change:
                change(spec)

        return self.run(python(script), with_python, **more).data

    def start(
        self,
        args: list[str],
        change: Change | None = None,
        host: dict[str, Any] | None = None,
    ) -> str:
        """Start a container that stays; its id once it runs."""
        name, folder = self.bundle(args, change, host)
        process = subprocess.Popen(
            [self.program, "--root", str(self.state), "run", "--bundle", str(folder), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        deadline = time.monotonic() + 120
        while self.status(name) != "running":
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.communicate()[0]
                pytest.fail(f"{name} did not start: {said}")
            time.sleep(0.02)
        return name

    def status(self, name: str) -> str:
        state = self.runtime("state", name)
        return json.loads(state.out)["status"] if state.code == 0 else ""

    def pid(self, name: str) -> int:
        return int(json.loads(self.runtime("state", name).out)["pid"])

    def exec(self, name: str, args: list[str], *options: str, **more: Any) -> Outcome:
        return self.runtime("exec", *options, name, *args, **more)

    def close(self) -> None:
        for name in self._made:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.runtime("delete", "--force", name, timeout=120)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        for group in Path("/sys/fs/cgroup").glob(f"*/skerry-security-{os.getpid()}"):
            with contextlib.suppress(OSError):
                group.rmdir()


def python(script: str) -> list[str]:
    """The command line of a Python probe; PRELUDE's names are there."""
    return ["/usr/bin/python3", "-I", "-S", "-c", PRELUDE + textwrap.dedent(script)]


def mount_python(spec: Spec) -> None:
    """Bind the host's /usr read-only, so that probes have an interpreter and its libraries."""
    spec["mounts"].append(
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    )
