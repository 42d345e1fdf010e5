"""Starting QEMU through its keeper, and finding it again."""

import asyncio
import contextlib
import json
import os
import sys
from typing import Any, NamedTuple

import skerry
from skerry.base.errors import SkerryError, SystemFault
from skerry.kernel import processes
from skerry.kernel.descriptors import pidfd_open
from skerry.machine.full import keeper

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from skerry.machine.full.{0} import main; main()"
)
ANSWER_SECONDS = 60.0


class Running(NamedTuple):
    """A QEMU that lives: pid and start time in clock ticks (proc_pid_stat(5))."""

    pid: int
    start: int


class Ended(NamedTuple):
    """How it ended. `code` is None when nobody saw it; `time` in seconds since the epoch; `starved`
    when the kernel killed for lack of memory."""

    code: int | None
    signal: int
    time: float
    starved: bool = False


def interpreter(module: str, *arguments: str) -> list[str]:
    """argv of a lean interpreter that runs `main` of a module of this package."""
    source = os.path.dirname(os.path.dirname(os.path.abspath(skerry.__file__)))
    return [sys.executable, "-ISE", "-c", _BOOT.format(module), source, *arguments]


async def start(plan: keeper.Plan) -> Running:
    """Start a keeper on a plan; returns when QEMU runs (or was adopted)."""
    process = await asyncio.create_subprocess_exec(
        *interpreter("keeper"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.write_eof()
        line = await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS)
        answer = json.loads(line or b"{}")
    except (TimeoutError, ValueError, OSError) as error:
        raise SystemFault(f"the machine's keeper does not answer: {error}") from None
    if "pid" not in answer:
        raise SystemFault(f"cannot start QEMU: {answer.get('error') or 'its keeper died'!s:.2000}")
    return Running(answer["pid"], answer["start"])


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(65536))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def alive(pid: int, start_time: int) -> bool:
    """Whether that very process still runs."""
    found = processes.facts(pid)
    return found is not None and found[1] == start_time and found[0] not in "ZX"


def find(run_dir: str) -> tuple[Running | None, Running | None]:
    """(the QEMU of a run folder if it lives, its keeper if that does)."""
    task = _read(os.path.join(run_dir, keeper.TASK))
    try:
        qemu, kept = Running(*task["qemu"]), Running(*task["keeper"])
    except (KeyError, TypeError):
        return None, None
    return (qemu if alive(*qemu) else None), (kept if alive(*kept) else None)


def ended(run_dir: str) -> Ended | None:
    """The exit record, None when there is none."""
    value = _read(os.path.join(run_dir, keeper.EXIT))
    if "time" not in value:
        return None
    starved = bool(value.get("oom_kills"))
    return Ended(value.get("code"), int(value.get("signal") or 0), float(value["time"]), starved)


async def wait(running: Running) -> None:
    """Until the process has gone; returns at once when it has."""
    try:
        fd = pidfd_open(running.pid)
    except SkerryError:
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    try:
        if not alive(*running):
            return
        loop.add_reader(fd, _once, gone)
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _once(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def kill(running: Running) -> None:
    """SIGKILL, when it is still that process."""
    with contextlib.suppress(ProcessLookupError):
        if alive(*running):
            os.kill(running.pid, 9)
