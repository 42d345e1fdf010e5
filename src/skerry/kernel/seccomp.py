"""Seccomp filters: compile an OCI profile once, load its bytes into the calling thread.

Compiling costs milliseconds, loading a tenth of one: whoever starts many containers compiles
beforehand and hands the bytes over. Programs are kept by content in this process, and in a
directory when one is named; names and tables are only imported when something must be compiled.
"""

import ctypes
import json
import os
from collections.abc import Iterable, Mapping

from skerry.base.errors import InvalidInput
from skerry.base.light import Any, Final
from skerry.kernel.syscalls import Call, checked, libc, raw

# linux/seccomp.h, linux/prctl.h
FLAG_NEW_LISTENER = 1 << 3
FLAG_TSYNC = 1 << 0
FLAG_TSYNC_ESRCH = 1 << 4
FLAGS: Final[dict[str, int]] = {
    "SECCOMP_FILTER_FLAG_TSYNC": FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
"""Flags that a profile may name."""
_SET_MODE_FILTER = 1
_PR_SET_NO_NEW_PRIVS = 38
_NR_SECCOMP = {"x86_64": 317, "aarch64": 277}

_INSTRUCTION = 8
_MAX_BYTES = 4096 * _INSTRUCTION
# Part of the name of a cached program: raised whenever equal input gives other bytes.
_FORMAT = "1"

# Asked once: uname(2) waits for whoever is just giving a container its hostname.
_MACHINE = os.uname().machine
_compiled: dict[tuple[str, str], bytes] = {}
# The last few profiles as objects, by id(): writing one as text takes longer than all else here.
# They are held, so that no id is another's meanwhile.
_KNOWN: Final = 8
_known: dict[tuple[int, str], tuple[Mapping[str, Any], bytes]] = {}


class _Program(ctypes.Structure):
    """struct sock_fprog, linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def compile_profile(seccomp: Mapping[str, Any], *, arch: str = "", cache_dir: str = "") -> bytes:
    """The BPF program of an OCI `linux.seccomp` object, for seccomp(2).

    `arch` is a machine as `uname -m` says it, the running one by default. With `cache_dir`, a
    directory that only the caller can write, programs are kept there by the digest of their
    profile. InvalidInput for what the profile has wrong, Unsupported for a machine without table.
    A profile is not changed once it was given here: the same object gives the same program.
    """
    machine = arch or _MACHINE
    known = _known.get((id(seccomp), machine))
    if known is not None:
        return known[1]
    try:
        text = json.dumps(seccomp, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"linux.seccomp is not plain data: {error}") from None
    program = _compiled.get((machine, text))
    if program is None:
        path = _cached_path(cache_dir, machine, text) if cache_dir else ""
        program = _read(path) if path else b""
        if not program:
            from skerry.kernel.seccomp_compiler import compile_policy
            from skerry.kernel.seccomp_policy import parse_policy

            program = compile_policy(parse_policy(seccomp), machine)
            if path:
                _write(path, program)
        _compiled[machine, text] = program
    if len(_known) >= _KNOWN:
        _known.clear()
    _known[id(seccomp), machine] = (seccomp, program)
    return program


def _cached_path(cache_dir: str, machine: str, text: str) -> str:
    import hashlib

    name = hashlib.sha256(f"{_FORMAT}\0{machine}\0{text}".encode()).hexdigest()
    return os.path.join(cache_dir, f"{name}.bpf")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            program = file.read(_MAX_BYTES + 1)
    except OSError:
        return b""
    return program if len(program) <= _MAX_BYTES and len(program) % _INSTRUCTION == 0 else b""


def _write(path: str, program: bytes) -> None:
    """Best effort: a cache that cannot be written costs time, not the container."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
    except OSError:
        return


def flags_of(seccomp: Mapping[str, Any]) -> int:
    """The `flags` for `load` of a profile that compiles, FLAG_NEW_LISTENER when some rule notifies.

    Asked at every start, so it reads only what it needs.
    """
    flags = 0
    for name in seccomp.get("flags") or ():
        if name not in FLAGS:
            raise InvalidInput(f"linux.seccomp: unknown flag {name!r:.60}")
        flags |= FLAGS[name]
    if any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in seccomp.get("syscalls") or ()):
        flags |= FLAG_NEW_LISTENER
    return flags


def load(program: bytes, flags: int = 0) -> int:
    """Put the calling thread, and what it executes, under a filter for good (seccomp(2)).

    Needs CAP_SYS_ADMIN in the thread's user namespace or no_new_privs. With FLAG_NEW_LISTENER the
    result is a descriptor (close-on-exec) that gets the notifications, else -1. KernelFault when
    the kernel refuses, EINVAL for a program that it does not accept.
    """
    function, arguments, action = load_call(program, flags)
    result = checked(function(*arguments), action)
    return result if flags & FLAG_NEW_LISTENER else -1


def load_call(program: bytes, flags: int = 0) -> Call:
    """`load`, prepared; InvalidInput for what cannot be a program."""
    count, rest = divmod(len(program), _INSTRUCTION)
    if rest or not 0 < len(program) <= _MAX_BYTES:
        raise InvalidInput(f"not a seccomp program: {len(program)} bytes")
    if flags & FLAG_NEW_LISTENER and flags & FLAG_TSYNC:
        # Both speak through the return value; the kernel wants to be told which one.
        flags |= FLAG_TSYNC_ESRCH
    argument = ctypes.pointer(_Program(count, program))
    number = _NR_SECCOMP.get(os.uname().machine, -1)
    return raw(number, _SET_MODE_FILTER, flags, argument, action="load the seccomp filter")


def no_new_privileges() -> None:
    """execve no longer grants anything that the caller does not have (PR_SET_NO_NEW_PRIVS)."""
    checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")


def docker_default(capabilities: Iterable[str]) -> dict[str, Any]:
    """Docker's default policy for a container with these capabilities, as an OCI object."""
    from skerry.kernel import seccomp_profile as profile

    return profile.docker_default(capabilities)
