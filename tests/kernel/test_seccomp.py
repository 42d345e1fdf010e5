"""Filters in the running kernel: loaded in a child, tried with real calls."""

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from skerry.base.errors import InvalidInput, KernelFault
from skerry.kernel import capabilities, seccomp

pytestmark = pytest.mark.root

libc = ctypes.CDLL(None, use_errno=True)
KEYCTL, BPF, CLONE3, NEWEST = 250, 321, 435, 1000


def call(number: int, *args: int) -> int:
    """errno of a raw system call, 0 when it went well."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0


def in_child(profile: dict[str, Any], body: Callable[[], list[int]], flags: int = 0) -> list[int]:
    """What `body` returns under the filter; a signal's number, negative, when it was killed."""
    program = seccomp.compile_profile(profile)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seccomp.no_new_privileges()
            seccomp.load(program, flags)
            os.write(write_end, " ".join(map(str, body())).encode())
            os._exit(0)
        except BaseException as error:
            os.write(write_end, repr(error).encode())
            os._exit(1)
    os.close(write_end)
    with open(read_end, "rb") as file:
        text = file.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return [-os.WTERMSIG(status)]
    assert os.waitstatus_to_exitcode(status) == 0, text
    return [int(word) for word in text.split()]


DEFAULT = seccomp.docker_default(capabilities.DOCKER_DEFAULT)


def test_the_default_policy_in_force() -> None:
    def body() -> list[int]:
        try:
            socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
            family = 0
        except OSError as error:
            family = error.errno or 0
        return [
            libc.unshare(0x10000000) and ctypes.get_errno(),
            call(KEYCTL, 0, 0, 0),
            call(BPF, 0, 0, 0),
            call(CLONE3, 0, 0),
            call(NEWEST),
            family,
            call(39),
            call(135, 0xFFFFFFFF),
            call(135, 0x40000),
        ]

    eperm, enosys = errno.EPERM, errno.ENOSYS
    assert in_child(DEFAULT, body) == [eperm, eperm, eperm, enosys, enosys, eperm, 0, 0, eperm]


def test_actions() -> None:
    def rule(action: str, **more: Any) -> dict[str, Any]:
        names = {"names": ["getppid"], "action": action, **more}
        return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [names]}

    assert in_child(rule("SCMP_ACT_ERRNO", errnoRet=95), lambda: [call(110)]) == [95]
    assert in_child(rule("SCMP_ACT_LOG"), lambda: [call(110)]) == [0]
    for action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        assert in_child(rule(action), lambda: [call(110)]) == [-signal.SIGSYS]
    # Without a tracer SECCOMP_RET_TRACE answers ENOSYS.
    assert in_child(rule("SCMP_ACT_TRACE"), lambda: [call(110)]) == [errno.ENOSYS]


@pytest.mark.parametrize("flag", ["LOG", "SPEC_ALLOW", "TSYNC"])
def test_flags_are_taken(flag: str) -> None:
    profile = {**DEFAULT, "flags": [f"SECCOMP_FILTER_FLAG_{flag}"]}
    flags = seccomp.flags_of(profile)
    assert flags == seccomp.FLAGS[f"SECCOMP_FILTER_FLAG_{flag}"]
    assert in_child(profile, lambda: [call(KEYCTL, 0, 0, 0)], flags) == [errno.EPERM]


def test_a_listener_is_returned() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}],
    }
    flags = seccomp.flags_of(profile)
    assert flags == seccomp.FLAG_NEW_LISTENER
    program = seccomp.compile_profile(profile)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        seccomp.no_new_privileges()
        listener = seccomp.load(program, flags)
        name = os.readlink(f"/proc/self/fd/{listener}")
        os.write(write_end, f"{name} {os.get_inheritable(listener)}".encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with open(read_end, "rb") as file:
        assert file.read() == b"anon_inode:seccomp notify False"


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(InvalidInput):
        seccomp.load(b"")
    with pytest.raises(InvalidInput):
        seccomp.load(b"1234567")
    with pytest.raises(KernelFault) as caught:
        seccomp.load(b"\xff" * 8)
    assert caught.value.errno == errno.EINVAL
