"""System calls that lead out, tried by root in the default container."""

import os
import subprocess
import sys

import pytest
from tests.security.sandbox import Sandbox

pytestmark = pytest.mark.root

# x86-64 numbers; arguments that would be accepted, or fail later than a filter, without one.
CALLS = {
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "open_tree": (428, -100, 0, 1),
    "move_mount": (429, -1, 0, -1, 0, 0),
    "fsopen": (430, 0, 0),
    "mount_setattr": (442, -1, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "unshare NEWUSER": (272, 0x10000000),
    "unshare NEWNS": (272, 0x20000),
    "clone NEWUSER": (56, 0x10000011, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 1, 0),
    "keyctl": (250, 0, -3, 0),
    "add_key": (248, 0, 0, 0, 0, -3),
    "request_key": (249, 0, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, -1, 0, 0),
    "delete_module": (176, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "syslog": (103, 3, 0, 0),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0),
    "settimeofday": (164, 0, 0),
    "iopl": (172, 3),
    "ioperm": (173, 0, 1, 1),
    "quotactl": (179, 0, 0, 0, 0),
    "acct": (163, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "pidfd_getfd": (438, -1, 0, 0),
    "process_madvise": (440, -1, 0, 0, 0, 0),
    "fanotify_init": (300, 0, 0),
    "lookup_dcookie": (212, 0, 0, 0),
    "vhangup": (153,),
    "sethostname": (170, 0, 0),
    "personality READ_IMPLIES_EXEC": (135, 0x400000),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_calls_that_lead_out_are_denied(sandbox: Sandbox) -> None:
    script = f"""
    calls = {CALLS!r}
    found = {{}}
    for name, (number, *args) in calls.items():
        found[name] = call(number, *[a & (1 << 64) - 1 for a in args])
    found["clone3"] = call(435, 0, 0)
    found["newer than known"] = call(700)
    tell(found)
    """
    found = sandbox.probe(script)
    assert found.pop("clone3") == "ENOSYS"
    assert found.pop("newer than known") == "ENOSYS"
    assert set(found.values()) == {"EPERM"}, {k: v for k, v in found.items() if v != "EPERM"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="runs i386 code")
def test_the_32_bit_door_is_watched_too(sandbox: Sandbox, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The same calls through int 0x80 have other numbers: unshare is 310, keyctl 288."""
    script = """
    import mmap
    # mov eax, nr; mov ebx, arg; int 0x80; ret
    def call32(number, arg):
        code = (b"\\x53\\xb8" + number.to_bytes(4, "little") + b"\\xbb" + arg.to_bytes(4, "little")
                + b"\\xcd\\x80\\x5b\\xc3")
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if call32(20, 0) != os.getpid():
        tell(None)
    else:
        tell([call32(310, 0x10000000), call32(288, 0), call32(357, 0), call32(336, 0)])
    """
    found = sandbox.probe(script)
    if found is None:
        pytest.skip("this kernel runs no 32-bit calls")
    assert found == [-1, -1, -1, -1]


def test_x32_calls_are_filtered(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        "tell([call(0x40000000 + 272, 0x10000000), call(0x40000000 + 250, 0, 0, 0)])"
    )
    assert set(found) <= {"EPERM", "ENOSYS"}


def test_sockets_that_cross_the_border_are_denied(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        """
        import socket
        tell({
            "vsock": attempt(lambda: socket.socket(40, 1)),
            "vsock behind 64 bits": call(41, 40 | 1 << 32, 1, 0),
            "alg": attempt(lambda: socket.socket(38, 5)),
            "inet": attempt(lambda: socket.socket(2, 1)),
            "unix": attempt(lambda: socket.socket(1, 1)),
            "packet": attempt(lambda: socket.socket(17, 3)),
        })
        """
    )
    assert found["inet"] == found["unix"] == found["packet"] == "OK"
    assert {found["vsock"], found["vsock behind 64 bits"], found["alg"]} == {"EPERM"}


def test_processes_of_the_host_are_out_of_reach(sandbox: Sandbox) -> None:
    """Neither signals nor memory: their pids do not exist inside."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        found = sandbox.probe(
            f"""
            pids = [{victim.pid}, {os.getpid()}]
            space = ctypes.create_string_buffer(8)
            vector = (ctypes.c_ulong * 2)(ctypes.addressof(space), 8)
            found = []
            for pid in pids:
                found.append(attempt(lambda: os.kill(pid, 9)))
                found.append(call(101, 16, pid, 0, 0))
                found.append(call(310, pid, vector, 1, vector, 1, 0))
            found.append(attempt(lambda: os.kill(-1, 9)))
            tell(found)
            """
        )
        assert set(found[:-1]) <= {"ESRCH", "EPERM"}
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_parents_are_outside_the_pid_namespace(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        """
        tell({"parent": os.getppid(), "group": os.getpgid(0), "session": os.getsid(0),
              "ptrace 0": call(101, 16, 0, 0, 0)})
        """
    )
    assert found["parent"] == 0
    assert found["ptrace 0"] in ("ESRCH", "EPERM")


def test_with_sys_ptrace_only_the_own_processes_are_there(sandbox: Sandbox) -> None:
    found = sandbox.probe(
        "tell([call(101, 16, pid, 0, 0) for pid in range(2, 400)])", host={"CapAdd": ["SYS_PTRACE"]}
    )
    assert set(found) == {"ESRCH"}
