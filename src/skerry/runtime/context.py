"""What the global options of `skerry-runtime` say, for every command; where errors are written."""

import json
import os

from skerry.base.light import NamedTuple
from skerry.runtime.state import now


class Context(NamedTuple):
    """The global options."""

    root: str
    """Folder of the containers' state."""
    log: str
    """File that errors are appended to as well; empty for none."""
    log_format: str
    """`text` or `json`."""
    debug: bool
    systemd_cgroup: bool
    rootless: bool

    def seccomp_cache(self) -> str:
        """Folder of compiled filters."""
        return os.path.join(self.root, ".seccomp")

    def report(self, level: str, message: str) -> None:
        """Append a line to the log file, in the form that podman and containerd read."""
        if not self.log:
            return
        if self.log_format == "json":
            line = json.dumps({"level": level, "msg": message, "time": now()})
        else:
            line = f'time="{now()}" level={level} msg={json.dumps(message)}'
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            os.write(2, f"skerry-runtime: cannot write {self.log}: {error.strerror}\n".encode())
            return
        try:
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def warn(self, message: str) -> None:
        """A warning: on standard error and in the log file."""
        self.report("warning", message)
        os.write(2, f"skerry-runtime: warning: {message}\n".encode())


def default_root() -> str:
    """/run/skerry-runtime, or below XDG_RUNTIME_DIR for others than root."""
    if os.geteuid() == 0:
        return "/run/skerry-runtime"
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return os.path.join(base, "skerry-runtime")
