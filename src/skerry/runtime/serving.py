"""The parent's side of the talk with a child that is becoming a container."""

import _socket
import os

from skerry.base.errors import KernelFault, SystemFault
from skerry.base.light import Any
from skerry.base.oci_runtime import OCI_VERSION
from skerry.kernel import namespaces, processes
from skerry.kernel.descriptors import send_fds
from skerry.kernel.syscalls import syscall
from skerry.runtime.init import hooks
from skerry.runtime.init.handover import Status, error_from
from skerry.runtime.late_hooks import state_of
from skerry.runtime.steps import Plan, ProcessPlan

_NR_PIDFD_GETFD = 438
_AIM = {"created": "the container was made", "": "its program was executed"}


def serve(
    pid: int,
    pidfd: int,
    plan: Plan | None,
    sock: _socket.socket,
    *,
    last: str,
    process: ProcessPlan | None = None,
) -> None:
    """Answer the child until it says `last` or the pair closes."""
    status = Status(sock)
    while True:
        message = status.hear()
        if message is None:
            if last or processes.never_executed(pid):
                # Killed: an execve changes what is said of a process before it closes the pair.
                who = "the container's init" if plan else "the process"
                raise SystemFault(
                    f"{who} ended before {_AIM[last]}",
                    hint="it may have been killed, perhaps for memory",
                )
            return
        word = message[0]
        if word == last:
            return
        if word == "failed":
            raise error_from(message[1:])
        answer: Any = None
        if word == "ids" and plan:
            namespaces.write_id_maps(pid, plan.uid_map, plan.gid_map)
        elif word == "offsets" and plan:
            _offsets(pid, plan)
        elif word == "hooks" and plan:
            answer = dict(state_of(plan, pid, "creating"))
            for kind in ("prestart", "createRuntime"):
                hooks.run_all(kind, plan.hooks_of(kind), answer)
        elif word == "listener":
            _send_listener(pid, pidfd, plan, process, message[1])
        else:
            raise SystemFault(f"unexpected message from the container's init: {word!r:.60}")
        status.tell(answer)


def _offsets(pid: int, plan: Plan) -> None:
    if plan.time_offsets:
        rows = (f"{namespaces.CLOCKS[c]} {s} {ns}\n" for c, s, ns in plan.time_offsets)
        namespaces.write_file(f"/proc/{pid}/timens_offsets", "".join(rows))
    if plan.process and plan.process.oom_score_adj is not None:
        namespaces.write_file(f"/proc/{pid}/oom_score_adj", str(plan.process.oom_score_adj))


def _send_listener(
    pid: int, pidfd: int, plan: Plan | None, process: ProcessPlan | None, number: int
) -> None:
    """Fetch the seccomp listener and send it to the agent (config-linux.md, "The Container Process
    State")."""
    import json

    process = process or (plan.process if plan else None)
    if process is None or not process.seccomp_listener:
        raise SystemFault("the seccomp profile notifies, but names no listenerPath")
    listener = syscall(_NR_PIDFD_GETFD, pidfd, number, 0, action="fetch the seccomp listener")
    state = {
        "ociVersion": OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": process.seccomp_metadata,
        "state": state_of(plan, pid, "creating") if plan else {"pid": pid},
    }
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(process.seccomp_listener)
        send_fds(sock, json.dumps(state).encode(), [listener])
    except OSError as error:
        raise KernelFault(
            f"send the seccomp listener to {process.seccomp_listener}", error.errno or 0
        ) from None
    finally:
        sock.close()
        os.close(listener)
