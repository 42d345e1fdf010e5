"""`skerry vm` as the tests type it, and what is looked at behind its back."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.daemons import Skerry


class Machines:
    """`skerry vm` against one engine."""

    def __init__(self, engine: Skerry) -> None:
        self.engine = engine

    def __call__(self, *words: str, check: bool = True) -> str:
        done = self.engine.skerry("vm", *words, check=check)
        return done.stdout + ("" if check else done.stderr)

    def status(self, name: str) -> str:
        return self("inspect", name, "-f", "{{.status}}").strip()

    def folder(self, name: str) -> Path:
        """Where the machine is kept."""
        return Path(self("inspect", name, "-f", "{{.folder}}").strip())

    def pid(self, name: str) -> int:
        return int(self("inspect", name, "-f", "{{.pid}}"))

    def said(self, name: str) -> str:
        return self("logs", name)

    def hears(self, name: str, pattern: str, seconds: float = 240) -> str:
        """Wait until the guest has written this to its serial line."""
        found = until(lambda: re.search(pattern, self.said(name)), seconds)
        return str(found.group())

    def types(self, name: str, text: str) -> None:
        """Type on the serial line."""
        self.engine.skerry(
            "vm", "console", name, "--scrollback", "0", stdin=text.encode() + b"\x1d"
        )

    def log_in(self, name: str) -> None:
        self.hears(name, r"tiny login: $")
        self.types(name, "root\n")
        self.hears(name, r"/root # ")

    def runs(self, name: str, command: str, seconds: float = 150) -> str:
        """What a command writes, typed on the serial line of a guest that is logged in."""
        mark = os.urandom(4).hex()
        self.types(name, f"{command}; echo {mark[:4]}''{mark[4:]}\n")
        self.hears(name, mark, seconds)
        text = self.said(name).replace("\r", "")
        return text[: text.rindex(mark)].rpartition(f"{mark[4:]}\n")[2]


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Poll until the condition gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def first_bytes(vm: Machines, name: str, disk: int) -> bytes:
    """What a machine that is off has at the beginning of a disk."""
    layer = vm("inspect", name, "-f", f"{{{{(index .hardware.disks {disk}).layer}}}}").strip()
    folder, _, file = layer.partition("/")
    path = vm.engine.root / "vms" / folder / "disks" / f"{file}.qcow2"
    target = vm.engine.home / "first"
    subprocess.run(
        [*("qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=4", "count=1"),
         f"if={path}", f"of={target}"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return target.read_bytes()[:4]


def check_disks(vm: Machines) -> None:
    """Every disk of every machine is whole."""
    for path in (vm.engine.root / "vms").glob("*/disks/*.qcow2"):
        done = subprocess.run(
            ["qemu-img", "check", "-q", "-U", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
