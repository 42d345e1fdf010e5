"""What is left when a keeper was killed: finding it, ending it, writing down the end.

Everything here blocks for as long as killed processes take to go; the driver calls it in a thread.
All of it is idempotent.
"""

import errno
import os
import select
import shutil
import signal
import time
from contextlib import suppress
from typing import Any

import msgspec

from skerry.base.errors import KernelFault, SkerryError, SystemFault
from skerry.base.isolation import Exit, Started
from skerry.kernel.cgroups import Cgroup, Layout, detect
from skerry.kernel.descriptors import pidfd_open
from skerry.runtime import rundir

_PATIENCE = 10.0
_POLL = 0.002


class _Linux(msgspec.Struct):
    cgroups_path: str = msgspec.field(name="cgroupsPath", default="")


class _Bundle(msgspec.Struct):
    linux: _Linux = msgspec.field(default_factory=_Linux)


_BUNDLE = msgspec.json.Decoder(_Bundle)
"""Of config.json no more than where the cgroup is."""


def facts_of(run_dir: str, state_dir: str, config: str) -> dict[str, Any]:
    """What `task.json` says, else what the bundle says; perhaps nothing."""
    with suppress(SkerryError):
        if task := rundir.read_json(run_dir, rundir.TASK):
            return task
    with suppress(OSError, msgspec.MsgspecError):
        with open(os.path.join(state_dir, config), "rb") as file:
            path = _BUNDLE.decode(file.read()).linux.cgroups_path
        if path.startswith("/"):
            return {"cgroup": path}
    return {}


def is_anything_left(run_dir: str, facts: dict[str, Any], layout: Layout) -> bool:
    """Whether a keeper lives or the cgroup still exists."""
    return rundir.keeper_of(run_dir) is not None or Cgroup(facts["cgroup"], layout).exists()


def kill_keeper(run_dir: str) -> None:
    """Kill the keeper that holds the lock, and wait until nobody holds it any more."""
    deadline = time.monotonic() + _PATIENCE
    while (keeper := rundir.keeper_of(run_dir)) is not None:
        _kill(keeper, deadline)
        if time.monotonic() > deadline:
            raise SystemFault(f"keeper {keeper.pid} of {run_dir} does not die")
        time.sleep(_POLL)


def end(run_dir: str, facts: dict[str, Any]) -> None:
    """Kill the keeper, then the program and, for a container, everything in its cgroup."""
    kill_keeper(run_dir)
    with suppress(SkerryError):
        task = rundir.read_json(run_dir, rundir.TASK)
        if task is not None:
            program = Started(int(task["pid"]), int(task["start_time"]))
            _kill(program, time.monotonic() + _PATIENCE)
    if facts.get("cgroup"):
        group = Cgroup(str(facts["cgroup"]), detect())
        if group.exists():
            group.kill_all()
            group.remove()
    rundir.remove(run_dir, rundir.SOCKET, rundir.TASK)


def settle(run_dir: str, facts: dict[str, Any], reason: str) -> Exit:
    """How a program ended whose keeper has gone; ends it first if the keeper had not seen it end.

    The record is written, so that the answer stays the same.
    """
    recorded = None
    with suppress(SkerryError):
        recorded = rundir.read_exit(run_dir)
    if recorded is not None:
        return recorded
    end(run_dir, facts)
    lost = Exit(128 + signal.SIGKILL, False, time.time(), reason)
    with suppress(SkerryError):
        rundir.write_exit(run_dir, lost, signal.SIGKILL)
    return lost


def look(run_dir: str, cgroup: str, reason: str) -> Exit | None:
    """As `settle`, for a task without a keeper; None when it never started."""
    task = None
    with suppress(SkerryError):
        task = rundir.read_json(run_dir, rundir.TASK)
    if task is not None:
        return settle(run_dir, task, reason)
    with suppress(SkerryError):
        if recorded := rundir.read_exit(run_dir):
            return recorded
    end(run_dir, {"cgroup": cgroup})
    return None


def send_signal(started: Started, number: int, *, group: bool = False) -> bool:
    """Signal exactly this process, never a later one with its pid; False when it has gone.

    With `group` its process group hears it too: init(1) and execs lead a session of their own.
    """
    try:
        pidfd = pidfd_open(started.pid)
    except KernelFault:
        return False
    heard = False
    try:
        if rundir.start_time(started.pid) != started.start_time:
            return False
        if group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(started.pid, number)
                heard = True
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return heard  # With its group, and its keeper has reaped it since.
    except OSError as error:
        raise KernelFault(f"sending signal {number} to {started.pid}", error.errno or 0) from None
    finally:
        os.close(pidfd)
    return True


def _kill(process: Started, deadline: float) -> None:
    with suppress(KernelFault):
        pidfd = pidfd_open(process.pid)
        try:
            # The pid may have been reused before it was opened; not after.
            if rundir.start_time(process.pid) == process.start_time:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _wait(pidfd, deadline)
        finally:
            os.close(pidfd)


def _wait(pidfd: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)


def write_file(directory: str, name: str, data: bytes) -> None:
    """Replace a file atomically; KernelFault."""
    path = os.path.join(directory, name)
    try:
        with open(f"{path}.new", "wb") as file:
            file.write(data)
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise KernelFault(f"writing {path}", error.errno or 0) from None


def remove_files(run_dir: str, state_dir: str, *names: str) -> None:
    """Remove the run directory, and these files of the driver from the state directory."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            shutil.rmtree(run_dir)
            break
        except FileNotFoundError:
            if not os.path.lexists(run_dir):
                break
        except OSError as error:
            # A keeper of an exec may be writing its record there at this moment.
            if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise KernelFault(f"removing {run_dir}", error.errno or 0) from None
    for name in names:
        rundir.remove(state_dir, name, f"{name}.new")
