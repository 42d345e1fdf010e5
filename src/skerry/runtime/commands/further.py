"""`exec`: a further process in a running container."""

import os

from skerry.base.errors import Conflict, InvalidInput
from skerry.base.oci_runtime import Process
from skerry.kernel import cgroups
from skerry.runtime import bundle, launch, state
from skerry.runtime.arguments import LIST, SWITCH, VALUE, Parsed, parse
from skerry.runtime.commands.start import (
    check_descriptors,
    connect_console,
    inherited_listeners,
    preserved,
    write_pid_file,
)
from skerry.runtime.context import Context
from skerry.runtime.process_plan import plan_process

_TABLE = {
    "console-socket": VALUE,
    "cwd": VALUE,
    "env": LIST,
    "tty": SWITCH,
    "user": VALUE,
    "additional-gids": LIST,
    "process": VALUE,
    "detach": SWITCH,
    "pid-file": VALUE,
    "process-label": VALUE,
    "apparmor": VALUE,
    "no-new-privs": SWITCH,
    "cap": LIST,
    "preserve-fds": VALUE,
    "cgroup": LIST,
    "ignore-paused": SWITCH,
}
_SHORT = {
    "e": "env",
    "t": "tty",
    "u": "user",
    "g": "additional-gids",
    "p": "process",
    "d": "detach",
    "c": "cap",
}
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def execute(context: Context, words: list[str]) -> int:
    """Run a process in a container; in the foreground its exit code."""
    given = parse(words, _TABLE, _SHORT, command_follows=True)
    if not given.words:
        raise InvalidInput(
            "needs a container", hint="usage: skerry-runtime exec [options] ID COMMAND"
        )
    name, *command = given.words
    record = state.load(context.root, name)
    now_is = state.status(context.root, record)
    if now_is == "stopped":
        raise Conflict("cannot exec in a stopped container")
    if now_is == "paused" and "ignore-paused" not in given.switches:
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    spec = state.load_spec(context.root, name)
    process = _process(given, command, spec.get("process", {}))
    extra = preserved(given) + inherited_listeners()
    check_descriptors(extra)
    made = plan_process(process, spec, preserve_fds=extra, seccomp_cache=context.seccomp_cache())
    detached = "detach" in given.switches
    socket = given.value("console-socket")
    if made.terminal and detached and not socket:
        raise InvalidInput(
            "cannot allocate tty if runtime will detach without setting console socket"
        )
    if socket and not made.terminal:
        raise InvalidInput("cannot use console socket if runtime will not allocate tty")
    console, master_end = connect_console(socket), None
    if made.terminal and not socket:
        from skerry.runtime.foreground import console_pair

        console, master_end = console_pair()
    layout = cgroups.detect()
    created = launch.exec_into(
        record.pid,
        made,
        0,
        1,
        2,
        cgroup_path=_sub_cgroup(record.cgroup, given.lists.get("cgroup", [])),
        console=console,
        layout=layout,
        name=name,
        start_time=record.start_time,
    )
    if console >= 0:
        os.close(console)
    write_pid_file(given.value("pid-file"), created.pid)
    if detached:
        return 0
    from skerry.runtime.foreground import follow

    return follow(created.pid, master_end)


def _process(given: Parsed, command: list[str], first: Process) -> Process:
    """From --process, or from the container's own process with the options applied."""
    if given.value("process"):
        try:
            with open(given.value("process"), "rb") as file:
                return bundle.parse_process(file.read(bundle.MAX_BYTES + 1))
        except OSError as error:
            raise InvalidInput(f"cannot read {given.value('process')}: {error.strerror}") from None
    if not command:
        raise InvalidInput("process args cannot be empty")
    process: Process = {**first, "args": command, "terminal": "tty" in given.switches}
    process.pop("consoleSize", None)
    if given.value("cwd"):
        process["cwd"] = given.value("cwd")
    process["env"] = [*process.get("env", ()), *given.lists.get("env", ())]
    if given.value("user"):
        uid, colon, gid = given.value("user").partition(":")
        process["user"] = {**process.get("user", {}), "uid": _id(uid)}
        if colon:
            process["user"]["gid"] = _id(gid)
    if given.lists.get("additional-gids"):
        groups = [_id(text) for text in given.lists["additional-gids"]]
        user = process.get("user", {})
        process["user"] = {**user, "additionalGids": [*user.get("additionalGids", ()), *groups]}
    if given.value("process-label"):
        process["selinuxLabel"] = given.value("process-label")
    if given.value("apparmor"):
        process["apparmorProfile"] = given.value("apparmor")
    if "no-new-privs" in given.switches:
        process["noNewPrivileges"] = True
    added = [part for text in given.lists.get("cap", ()) for part in text.split(",") if part]
    if added:
        held = dict(process.get("capabilities", {}))
        for kind in _SETS:
            if kind not in ("inheritable", "ambient") or held.get(kind):
                held[kind] = [*(held.get(kind) or ()), *added]  # type: ignore[misc]
        process["capabilities"] = held  # type: ignore[typeddict-item]
    bundle.check_process(process)
    return process


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < (1 << 32) - 1):
        raise InvalidInput(f"not a numeric id: {text!r:.60}", hint="--user takes UID[:GID]")
    return int(text)


def _sub_cgroup(path: str, below: list[str]) -> str:
    """The group itself, or one below it that exists; one for all controllers."""
    if not below:
        return path
    sub = below[-1].rpartition(":")[2]
    if ".." in sub.split("/"):
        raise InvalidInput(f"cgroup {sub!r:.100} is not below the container's")
    return f"{path}/{sub.strip('/')}".rstrip("/")
