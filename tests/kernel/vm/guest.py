"""Boot a guest whose only control groups are version 2, run tests in it, bring the results back.

QEMU emulates the processor (TCG), so this works on any host. The kernel's console is the first
serial port, the results come over the second.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.kernel.vm import initramfs, linux

QEMU = "qemu-system-x86_64"
MODULES = ("overlay", "loop", "bfq", "kvm-amd", "veth")
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 cgroup_no_v1=all cryptomgr.notests "
    "mitigations=off random.trust_cpu=on"
)


class Result(NamedTuple):
    """One test in the guest."""

    test: str
    outcome: str
    """`passed`, `failed` or `skipped`."""
    text: str
    """The traceback, or the reason of a skip."""
    seconds: float


class Run(NamedTuple):
    """All of them."""

    results: list[Result]
    finished: bool
    """False when the guest died or ran out of time; then `console` tells."""
    console: str


def run(tests: Sequence[str], folder: Path, *, timeout: float = 700.0) -> Run:
    """Run test files (paths in the repository) in a fresh guest. RuntimeError when the kernel or
    QEMU cannot be had; `folder` is for the guest's files."""
    kernel = linux.fetch()
    initrd, console, report = folder / "initramfs", folder / "console", folder / "report"
    initramfs.write(initrd, kernel.module_files(MODULES), tests)
    command = [
        *(QEMU, "-machine", "pc", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024"),
        *("-cpu", "qemu64,+svm,+npt,+arat,+rdrand"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-serial", f"file:{console}", "-serial", f"file:{report}"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd), "-append", _COMMAND_LINE),
    ]
    try:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise RuntimeError(f"{QEMU} is missing: apt-get install qemu-system-x86") from None
    try:
        _, said = machine.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        said = b"out of time"
    finally:
        machine.kill()
        machine.wait()
    initrd.unlink()
    return _parse(_text(report), _text(console) + said.decode("utf-8", "replace"))


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _parse(report: str, console: str) -> Run:
    results, finished = [], False
    for line in report.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if "finished" in found:
            finished = True
        else:
            results.append(Result(**found))
    return Run(results, finished, console[-8000:])


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        outcome = run(sys.argv[1:], Path(scratch))
    for result in outcome.results:
        sys.stdout.write(f"{result.outcome:8} {result.seconds:6.2f} {result.test}\n{result.text}\n")
    sys.stdout.write(outcome.console)
