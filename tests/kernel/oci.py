"""A runtime's command line for tests: own state root, all containers removed at the end."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import images
from bench.daemons import RUNTIME

Spec = dict[str, Any]
Change = Callable[[Spec], None]
TIMEOUT = 120.0


class Runtime:
    """`skerry-runtime` with its own `--root`. Container ids are unique to this object."""

    def __init__(self, folder: Path, rootfs: Path, program: str = str(RUNTIME)) -> None:
        self.folder = folder
        self.rootfs = rootfs
        self.program = program
        self.root = folder / "state"
        self._made = 0
        self._ids: list[str] = []

    def bundle(self, args: Sequence[str], change: Change | None = None) -> Path:
        """A bundle over the shared, read-only root file system."""
        self._made += 1

        def both(spec: Spec) -> None:
            spec["root"]["readonly"] = True
            if change is not None:
                change(spec)

        return images.make_bundle(self.folder / f"b{self._made}", args, self.rootfs, both)

    def own_rootfs(self) -> Path:
        """A copy of the root file system that a test may change."""
        self._made += 1
        return images.clone_rootfs(self.rootfs, self.folder / f"rootfs{self._made}")

    def new_id(self) -> str:
        """An id nobody else uses; deleted at the end."""
        name = f"oci-{os.getpid()}-{self.folder.name[-24:]}-{len(self._ids)}"
        self._ids.append(name)
        return name

    def call(
        self, *words: str, options: Sequence[str] = (), stdin: bytes = b"", **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, output captured as text."""
        done = subprocess.run(
            [self.program, "--root", str(self.root), *options, *words],
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
            **more,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def run(
        self, args: Sequence[str], change: Change | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """`run` a fresh bundle in the foreground."""
        return self.call("run", "-b", str(self.bundle(args, change)), self.new_id(), **more)

    def shell(
        self, script: str, change: Change | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """`run` a shell script in a container."""
        return self.run(["/bin/sh", "-c", script], change, **more)

    def output(self, script: str, change: Change | None = None) -> str:
        """What a script prints in a container; it has to succeed."""
        done = self.shell(script, change)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def background(
        self, args: Sequence[str], change: Change | None = None, *, start: bool = True
    ) -> str:
        """Create (and start) a container whose streams go to /dev/null or to `log`; its id."""
        name = self.new_id()
        bundle = self.bundle(args, change)
        with (bundle / "log").open("wb") as log:
            done = subprocess.run(
                [self.program, "--root", str(self.root), "create", "-b", str(bundle), name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=TIMEOUT,
                check=False,
            )
        assert done.returncode == 0, (bundle / "log").read_text()
        if start:
            started = self.call("start", name)
            assert started.returncode == 0, started.stderr
        return name

    def log_of(self, name: str) -> str:
        """What a background container has written so far."""
        return Path(self.state(name)["bundle"], "log").read_text(errors="replace")

    def state(self, name: str) -> dict[str, Any]:
        """The parsed state of a container."""
        done = self.call("state", name)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_for(self, name: str, status: str) -> None:
        """Poll until the container has this status."""
        poll(lambda: self.state(name)["status"] == status, f"{name} to be {status}")

    def close(self) -> None:
        """Delete what is left."""
        for name in self._ids:
            if (self.root / name).exists():
                self.call("delete", "--force", name)
        shutil.rmtree(self.root, ignore_errors=True)


def poll(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is true; fails the test after a while."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def namespace(pid: int | str, kind: str) -> str:
    """The name of a process's namespace, as the kernel writes it: `net:[4026531840]`."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a helper process that a test started."""
    process.send_signal(signal.SIGKILL)
    process.wait()
