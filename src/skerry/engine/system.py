"""What the engine says of itself and its host: `/version`, `/info`."""

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import skerry
from skerry.base.architectures import go
from skerry.base.settings import Settings
from skerry.engine import facts, host_facts, processes
from skerry.engine.roster import Roster
from skerry.store import Store


def os_release() -> dict[str, str]:
    """os-release(5) as a table."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(65536)
        except OSError:
            continue
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key: value.strip("\"'") for key, _, value in pairs}
    return {}


class System:
    """The service."""

    def __init__(self, settings: Settings, store: Store, roster: Roster, host: facts.Host) -> None:
        self._settings = settings
        self._store = store
        self._roster = roster
        self._host = host
        self._id = ""

    @property
    def id(self) -> str:
        """This engine's own id, made once per root."""
        if not self._id:
            path = os.path.join(self._settings.root, "engine-id")
            try:
                with open(path, encoding="ascii") as file:
                    self._id = file.read(64).strip()
            except OSError:
                self._id = ""
            if not self._id:
                import uuid

                self._id = str(uuid.uuid4())
                with open(f"{path}.new", "w", encoding="ascii") as file:
                    file.write(self._id + "\n")
                os.rename(f"{path}.new", path)
        return self._id

    def version(self) -> dict[str, str]:
        """Plain facts; `arch` in Go's words, as Docker's API has it."""
        return {
            "version": skerry.__version__,
            "python": platform.python_version(),
            "os": "linux",
            "arch": go(self._host.machine),
            "kernel": platform.release(),
        }

    def counts(self) -> Mapping[str, int]:
        """Containers by state."""
        states = [container.state.status for container in self._roster]
        running = states.count("running") + states.count("restarting")
        paused = states.count("paused")
        return {
            "all": len(states),
            "running": running,
            "paused": paused,
            "stopped": len(states) - running - paused,
            "images": len(self._store.images.list()),
        }

    def info(self) -> dict[str, Any]:
        """Plain facts about the host and this engine."""
        release = os_release()
        layout = self._host.layout
        return {
            "id": self.id,
            "name": platform.node(),
            "root": self._settings.root,
            "operating_system": release.get("PRETTY_NAME", "Linux"),
            "os_version": release.get("VERSION_ID", ""),
            "machine": self._host.machine,
            "cpus": os.cpu_count() or 1,
            "memory": processes.memory_total(),
            "cgroup_version": self._host.cgroup_version,
            "limits": host_facts.limits(layout),
            "counts": self.counts(),
            "python": sys.version.split()[0],
        }
