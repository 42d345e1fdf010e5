"""`state`, `kill`, `delete`, `pause` and `resume`."""

import json
import os
import signal

from skerry.base.errors import Conflict, InvalidInput, KernelFault, NotFound
from skerry.base.oci_runtime import OCI_VERSION, State
from skerry.kernel import cgroups, processes
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.namespaces import CLONE_NEWPID
from skerry.runtime import launch, plan, state
from skerry.runtime.arguments import SWITCH, exactly, parse
from skerry.runtime.context import Context
from skerry.runtime.steps import Hook

_GONE_SECONDS = 10.0


def show_state(context: Context, words: list[str]) -> int:
    """Print the state of a container as JSON."""
    (name,) = exactly(parse(words, {}).words, 1, "skerry-runtime state ID")
    record = state.load(context.root, name)
    known = state.oci_state(context.root, record)
    shown: dict[str, object] = {
        "ociVersion": known["ociVersion"],
        "id": record.id,
        "pid": known["pid"],
        "status": known["status"],
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        shown["annotations"] = record.annotations
    shown["owner"] = "" if record.owner == 0 else str(record.owner)
    os.write(1, (json.dumps(shown, indent=2) + "\n").encode())
    return 0


def kill(context: Context, words: list[str]) -> int:
    """Send a signal to the init, or with --all to every process."""
    given = parse(words, {"all": SWITCH}, {"a": "all"})
    if not 1 <= len(given.words) <= 2:
        raise InvalidInput("needs a container and at most a signal")
    number = signal_number(given.words[1] if len(given.words) == 2 else "TERM")
    record = state.load(context.root, given.words[0])
    everyone = "all" in given.switches
    now_is = state.status(context.root, record)
    if now_is == "stopped" and not everyone:
        raise Conflict("container not running")
    group = Cgroup(record.cgroup, cgroups.detect()) if record.cgroup else None
    own_pids = record.new_namespaces & CLONE_NEWPID
    if group and (everyone or (number == signal.SIGKILL and not own_pids)):
        group.signal_all(number)
        return 0
    pidfd = _own_init(record)
    if pidfd < 0:
        raise Conflict("container not running")
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise Conflict("container not running") from None
    except OSError as error:
        raise KernelFault(f"send signal {number} to {record.pid}", error.errno or 0) from None
    finally:
        os.close(pidfd)
    if group and number == signal.SIGKILL and now_is == "paused":
        # A frozen process dies only when it is thawed.
        group.thaw()
    return 0


def signal_number(text: str) -> int:
    """`KILL`, `SIGKILL` or `9` as a number; InvalidInput for what is no signal."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if 0 < number < signal.NSIG:
            return number
        raise InvalidInput(f"unknown signal {text!r:.60}")
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name, "", ""
    for mark in "+-":
        if mark in name:
            base, sign, offset = name.partition(mark)
    found = getattr(signal, f"SIG{base}", None)
    if not isinstance(found, signal.Signals) or (sign and not offset.isdigit()):
        raise InvalidInput(f"unknown signal {text!r:.60}")
    return int(found) + (int(f"{sign}{offset}") if sign else 0)


def delete(context: Context, words: list[str]) -> int:
    """Remove what is left of a stopped container; with --force kill it before."""
    given = parse(words, {"force": SWITCH}, {"f": "force"})
    (name,) = exactly(given.words, 1, "skerry-runtime delete [--force] ID")
    force = "force" in given.switches
    try:
        record = state.load(context.root, name)
    except NotFound:
        if not force:
            raise
        state.remove(context.root, name)
        return 0
    now_is = state.status(context.root, record)
    if now_is not in ("stopped", "created") and not force:
        raise Conflict(f"cannot delete container {name} that is not stopped: {now_is}")
    destroy(context, record, cgroups.detect())
    return 0


def destroy(context: Context, record: state.Record, layout: Layout) -> None:
    """Remove a container of an earlier call, as `end`."""
    end(context, record, layout, _poststop_hooks(context, record))


def end(
    context: Context,
    record: state.Record,
    layout: Layout,
    poststop: tuple[Hook, ...],
    *,
    with_cgroup: bool = True,
) -> None:
    """Kill every process, remove the cgroup, run the poststop hooks, forget the container.

    The record goes last, so that this can be repeated when it is interrupted.
    """
    kill_init(record)
    if record.cgroup and with_cgroup:
        group = Cgroup(record.cgroup, layout)
        group.kill_all()
        group.remove()
    ended: State = {
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "status": "stopped",
        "bundle": record.bundle,
        "annotations": record.annotations,
    }
    for warning in launch.run_late_hooks("poststop", poststop, ended):
        context.warn(warning)
    state.remove(context.root, record.id)


def _poststop_hooks(context: Context, record: state.Record) -> tuple[Hook, ...]:
    try:
        spec = state.load_spec(context.root, record.id)
    except InvalidInput:
        return ()
    return dict(plan.plan_hooks(spec)).get("poststop", ())


def _own_init(record: state.Record) -> int:
    """A pidfd of the init, -1 when it has gone; the pid alone may be another process's by now."""
    from skerry.kernel.descriptors import pidfd_open

    if not record.pid:
        return -1
    try:
        pidfd = pidfd_open(record.pid)
    except KernelFault:
        return -1
    facts = processes.facts(record.pid)
    if facts is None or facts[1] != record.start_time or facts[0] in "ZX":
        os.close(pidfd)
        return -1
    return pidfd


def kill_init(record: state.Record) -> None:
    """Kill the init, if it is still the one of the record, and wait until it has gone."""
    pidfd = _own_init(record)
    if pidfd < 0:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if record.cgroup:
            Cgroup(record.cgroup, cgroups.detect()).thaw()
        import select

        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_GONE_SECONDS * 1000):
            raise Conflict(f"cannot kill the init of {record.id}: {record.pid} still runs")
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def pause(context: Context, words: list[str]) -> int:
    """Freeze every process of a container."""
    (name,) = exactly(parse(words, {}).words, 1, "skerry-runtime pause ID")
    record = state.load(context.root, name)
    now_is = state.status(context.root, record)
    if now_is not in ("running", "created"):
        raise Conflict(f"container not running or created: {now_is}")
    state.group_of(record).freeze()
    return 0


def resume(context: Context, words: list[str]) -> int:
    """Thaw every process of a container."""
    (name,) = exactly(parse(words, {}).words, 1, "skerry-runtime resume ID")
    record = state.load(context.root, name)
    if state.status(context.root, record) != "paused":
        raise Conflict("container not paused")
    state.group_of(record).thaw()
    return 0
