"""The device filter of a cgroup v2 group: OCI rules as an eBPF program, loaded and attached.

Cgroup v2 has no devices controller; a program of type BPF_PROG_TYPE_CGROUP_DEVICE is asked instead
at each open and mknod of a device node, with the node's type and numbers and the accesses wanted
(Documentation/admin-guide/cgroup-v2.rst, "Device controller"; struct bpf_cgroup_dev_ctx).

Meaning of the rules: for each access wanted, the last rule that covers device and access decides;
without any it is denied; all accesses wanted must be allowed. The program walks the rules from the
last and crosses off what they allow.

Attaching: BPF_F_ALLOW_MULTI lets groups below add programs, which then must all agree, so a
container can only narrow its own filter. An update replaces the program in one step, or attaches
the new one before it detaches the old: never is there a moment without a filter.
"""

import ctypes
import json
import os
import struct
from collections.abc import Iterable, Mapping

from skerry.base.errors import KernelFault, Unsupported
from skerry.base.light import Any, Final
from skerry.kernel.cgroups_devices import ANY, DeviceRule, parse_rule
from skerry.kernel.syscalls import syscall

# linux/bpf.h
_NR_BPF: Final = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_F_ALLOW_MULTI, _F_REPLACE = 1 << 1, 1 << 2
_KINDS = {"b": 1, "c": 2}
_ACCESSES = {"m": 1, "r": 2, "w": 4}
# BPF_F_ALLOW_MULTI takes up to 64 programs a group (BPF_CGROUP_MAX_PROGS).
_MAX_PROGRAMS = 64

# Instruction codes: class | operation | source, linux/bpf_common.h and linux/bpf.h.
_LOAD_WORD = 0x61  # BPF_LDX | BPF_W | BPF_MEM
_MOVE_NUMBER = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_MOVE_REGISTER = 0xBC  # BPF_ALU | BPF_MOV | BPF_X
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_IF_NOT = 0x56  # BPF_JMP32 | BPF_JNE | BPF_K
_JUMP_IF = 0x16  # BPF_JMP32 | BPF_JEQ | BPF_K
_JUMP_IF_BITS = 0x46  # BPF_JMP32 | BPF_JSET | BPF_K
_EXIT = 0x95  # BPF_JMP | BPF_EXIT

_RESULT, _CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR = range(6)


def _instruction(
    code: int, to: int = 0, number: int = 0, *, source: int = 0, skip: int = 0
) -> bytes:
    return struct.pack("=BBhI", code, source << 4 | to, skip, number & 0xFFFFFFFF)


_ALLOW = _instruction(_MOVE_NUMBER, _RESULT, 1) + _instruction(_EXIT)
_DENY = _instruction(_MOVE_NUMBER, _RESULT, 0) + _instruction(_EXIT)
_SIZE = 8
_kept: dict[str, int] = {}


def compile_device_filter(rules: Iterable[Mapping[str, Any]]) -> bytes:
    """The eBPF program of OCI `linux.resources.devices`, in order; InvalidInput on a bad rule."""
    parts = [
        _instruction(_LOAD_WORD, _KIND, source=_CONTEXT, skip=0),
        _instruction(_MOVE_REGISTER, _WANTED, source=_KIND),
        _instruction(_SHIFT_RIGHT, _WANTED, 16),
        _instruction(_AND, _KIND, 0xFFFF),
        _instruction(_LOAD_WORD, _MAJOR, source=_CONTEXT, skip=4),
        _instruction(_LOAD_WORD, _MINOR, source=_CONTEXT, skip=8),
    ]
    for rule in reversed([parse_rule(rule) for rule in rules]):
        parts.append(_rule(rule))
        if rule.kind == "a":
            # It decides on everything; the verifier refuses code that is never reached.
            break
    else:
        parts += [_instruction(_JUMP_IF_NOT, _WANTED, 0, skip=2), _ALLOW, _DENY]
    return b"".join(parts)


def _rule(rule: DeviceRule) -> bytes:
    if rule.kind == "a":
        return _ALLOW if rule.allow else _DENY
    access = sum(_ACCESSES[letter] for letter in rule.access)
    if rule.allow:
        body = _instruction(_AND, _WANTED, ~access)
        body += _instruction(_JUMP_IF_NOT, _WANTED, 0, skip=2) + _ALLOW
    else:
        body = _instruction(_JUMP_IF_BITS, _WANTED, access, skip=1)
        body += _instruction(_JUMP, skip=2) + _DENY
    for register, number in (
        (_MINOR, rule.minor),
        (_MAJOR, rule.major),
        (_KIND, _KINDS[rule.kind]),
    ):
        if number != ANY:
            body = _instruction(_JUMP_IF_NOT, register, number, skip=len(body) // _SIZE) + body
    return body


def attach_device_filter(cgroup_fd: int, rules: Iterable[Mapping[str, Any]]) -> None:
    """Make `rules` the device filter of the open cgroup v2 directory, in place of an earlier one.

    Needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN; KernelFault when the kernel refuses.
    """
    program = load_device_filter(rules)
    try:
        attach_program(cgroup_fd, program)
    finally:
        os.close(program)


def attach_program(cgroup_fd: int, program: int) -> None:
    """Make a loaded program the group's device filter; see `attach_device_filter`."""
    earlier = attached_programs(cgroup_fd)
    if len(earlier) == 1:
        old = _program_by_id(earlier[0])
        try:
            _attach(cgroup_fd, program, replace=old)
        finally:
            os.close(old)
        return
    _attach(cgroup_fd, program)
    for number in earlier:
        _detach(cgroup_fd, number)


def keep_filter(text: str) -> None:
    """Load the program of rules (JSON) now, and keep it for `kept_filter`."""
    if text not in _kept:
        _kept[text] = load_device_filter(json.loads(text))


def kept_filter(text: str) -> int:
    """The program that is kept for these very rules, -1 for none; not the caller's to close."""
    return _kept.get(text, -1)


def load_device_filter(rules: Iterable[Mapping[str, Any]]) -> int:
    """A descriptor of the loaded program; the kernel's verifier has accepted it."""
    code = compile_device_filter(rules)
    instructions = ctypes.create_string_buffer(code, len(code))
    license_name = ctypes.create_string_buffer(b"Apache-2.0")
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags,
    # prog_name
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _PROG_TYPE_CGROUP_DEVICE,
        len(code) // _SIZE,
        ctypes.addressof(instructions),
        ctypes.addressof(license_name),
        *(0, 0, 0, 0, 0),
        b"skerry_devices",
    )
    return _bpf(_PROG_LOAD, attributes, "load the device filter")[0]


def attached_programs(cgroup_fd: int) -> list[int]:
    """Ids of the device programs attached to this group itself, in the order they run."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQI", cgroup_fd, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MAX_PROGRAMS
    )
    _, answer = _bpf(_PROG_QUERY, attributes, "list the device filters of a cgroup")
    (count,) = struct.unpack_from("=I", answer, 24)
    return list(ids[:count])


def _program_by_id(number: int) -> int:
    return _bpf(_PROG_GET_FD_BY_ID, struct.pack("=I", number), f"open BPF program {number}")[0]


def _attach(cgroup_fd: int, program: int, *, replace: int = 0) -> None:
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replace else 0)
    attributes = struct.pack("=IIIII", cgroup_fd, program, _CGROUP_DEVICE, flags, replace)
    _bpf(_PROG_ATTACH, attributes, "attach the device filter to a cgroup")


def _detach(cgroup_fd: int, number: int) -> None:
    program = _program_by_id(number)
    try:
        attributes = struct.pack("=IIIII", cgroup_fd, program, _CGROUP_DEVICE, 0, 0)
        _bpf(_PROG_DETACH, attributes, f"detach BPF program {number} from a cgroup")
    finally:
        os.close(program)


def _bpf(command: int, attributes: bytes, action: str) -> tuple[int, bytes]:
    """bpf(2): its result and the attributes as the kernel left them."""
    number = _NR_BPF.get(os.uname().machine)
    if number is None:
        raise Unsupported(f"{action}: bpf(2) has no known number on {os.uname().machine}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    for _ in range(5):
        try:
            return syscall(number, command, buffer, len(attributes), action=action), buffer.raw
        except KernelFault as fault:
            # The verifier gives up with EAGAIN when a signal comes.
            if fault.errno != 11 or command != _PROG_LOAD:
                raise
            last = fault
    raise last
