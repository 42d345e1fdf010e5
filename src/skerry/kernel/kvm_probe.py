"""Does KVM run guests here, or does it only open? Asked by running one.

Theory. A host inside another virtual machine may show a /dev/kvm that makes machines and even
reaches long mode while it emulates every single instruction, about a microsecond each; an ordinary
kernel then never boots. Capabilities do not tell. So a tiny guest goes the way of every kernel
(real mode, protected mode, long mode with paging), says that it has arrived, and counts down in a
loop that takes a processor a millisecond and an emulator half a second. A timer ends it before.

The guest runs in a process of its own, a fresh interpreter: a probe that hangs or aborts in the
kernel harms nobody, and the caller's memory is never part of a machine.

Interface: Documentation/virt/kvm/api.rst, linux/kvm.h.
"""

import ctypes
import errno
import mmap
import os
import signal
import struct
import sys
import time

from skerry.base.light import NamedTuple
from skerry.kernel.descriptors import read_within
from skerry.kernel.syscalls import libc

WORKS = "works"
EMULATES = "emulates"
BROKEN = "broken"
FORBIDDEN = "forbidden"
ABSENT = "absent"
UNKNOWN = "unknown"

DEVICE = "/dev/kvm"
LIMIT_SECONDS = 0.15
"""Within this, in processor time, the guest has to finish; a working KVM takes 1 to 5 ms, also when
it is nested. Processor time, so that a busy host is not taken for an emulator."""
_PATIENCE_SECONDS = 10.0
"""For the whole probe, the start of an interpreter on a busy host included; then the child is
killed. Only a guest that hangs without using its processor needs it."""
_TURNS = 300_000
"""Of a loop of two instructions."""


class Kvm(NamedTuple):
    """What came of it. Times are seconds since the first instruction, 0.0 when not reached."""

    state: str
    """WORKS, EMULATES (opens, but cannot run an ordinary guest), BROKEN, FORBIDDEN, ABSENT or
    UNKNOWN (a processor that the probe has no guest for)."""
    detail: str
    long_mode: float = 0.0
    finished: float = 0.0


# linux/kvm.h
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_GET_VCPU_MMAP_SIZE = 0xAE04
_KVM_GET_SUPPORTED_CPUID = 0xC008AE05
_KVM_CREATE_VCPU = 0xAE41
_KVM_SET_USER_MEMORY_REGION = 0x4020AE46
_KVM_SET_TSS_ADDR = 0xAE47
_KVM_RUN = 0xAE80
_KVM_SET_REGS = 0x4090AE82
_KVM_GET_SREGS = 0x8138AE83
_KVM_SET_SREGS = 0x4138AE84
_KVM_SET_CPUID2 = 0x4008AE90
_KVM_EXIT_IO = 2
_API_VERSION = 12
_REGS_SIZE, _SREGS_SIZE = 0x90, 0x138
_CPUID_ENTRIES, _CPUID_ENTRY_SIZE = 256, 40
_EXIT_REASON_OFFSET = 8
_IO_DATA_OFFSET = 40
_TSS_ADDRESS = 0xFFFBD000

# The guest's memory: 2 MiB, mapped one to one by a single large page.
_MEMORY = 2 << 20
_GDT_POINTER, _GDT = 0x4F0, 0x500
_PML4, _PDPT, _PD = 0x1000, 0x2000, 0x3000
_CODE = 0x8000
_ARRIVED, _DONE = 1, 2


def guest_memory() -> dict[int, bytes]:
    """What lies where in the guest's memory when it starts at _CODE in real mode."""
    real = (
        b"\xfa"  # cli
        + b"\x0f\x01\x16"
        + struct.pack("<H", _GDT_POINTER)  # lgdt [_GDT_POINTER]
        + b"\x0f\x20\xc0"  # mov eax, cr0
        + b"\x66\x83\xc8\x01"  # or eax, PE
        + b"\x0f\x22\xc0"  # mov cr0, eax
    )
    protected_at = _CODE + len(real) + 8
    real += b"\x66\xea" + struct.pack("<IH", protected_at, 0x08)  # jmp dword 0x08:protected
    protected = (
        b"\x66\xb8\x10\x00"  # mov ax, 0x10
        b"\x8e\xd8\x8e\xc0\x8e\xd0"  # mov ds, ax; mov es, ax; mov ss, ax
        b"\x0f\x20\xe0"  # mov eax, cr4
        b"\x83\xc8\x20"  # or eax, PAE
        b"\x0f\x22\xe0"  # mov cr4, eax
        + b"\xb8"
        + struct.pack("<I", _PML4)  # mov eax, _PML4
        + b"\x0f\x22\xd8"  # mov cr3, eax
        b"\xb9\x80\x00\x00\xc0"  # mov ecx, EFER
        b"\x0f\x32"  # rdmsr
        b"\x0d\x00\x01\x00\x00"  # or eax, LME
        b"\x0f\x30"  # wrmsr
        b"\x0f\x20\xc0"  # mov eax, cr0
        b"\x0d\x00\x00\x00\x80"  # or eax, PG
        b"\x0f\x22\xc0"  # mov cr0, eax
    )
    long_at = protected_at + len(protected) + 7
    protected += b"\xea" + struct.pack("<IH", long_at, 0x18)  # jmp 0x18:long
    long_mode = (
        b"\x66\xba\xf8\x03"  # mov dx, 0x3f8
        + bytes((0xB0, _ARRIVED))  # mov al, _ARRIVED
        + b"\xee"  # out dx, al
        + b"\xb9"
        + struct.pack("<I", _TURNS)  # mov ecx, _TURNS
        + b"\xff\xc9"  # again: dec ecx
        + b"\x75\xfc"  # jnz again
        + bytes((0xB0, _DONE))  # mov al, _DONE
        + b"\xee"  # out dx, al
        + b"\xf4"  # hlt
    )
    # Descriptors: none, 32-bit code, data, 64-bit code, each over all memory.
    gdt = struct.pack("<4Q", 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00AF9A000000FFFF)
    present_writable, large = 0x3, 0x80
    return {
        _GDT_POINTER: struct.pack("<HI", len(gdt) - 1, _GDT),
        _GDT: gdt,
        _PML4: struct.pack("<Q", _PDPT | present_writable),
        _PDPT: struct.pack("<Q", _PD | present_writable),
        _PD: struct.pack("<Q", present_writable | large),
        _CODE: real + protected + long_mode,
    }


def probe(device: str = DEVICE) -> Kvm:
    """Run the guest in a process of its own; takes 50 to 300 ms on a calm host."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Kvm(ABSENT, f"{device} does not exist")
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):
            return Kvm(ABSENT, f"{device} has no driver behind it")
        return Kvm(FORBIDDEN, f"cannot open {device}: {error.strerror}")
    if os.uname().machine != "x86_64":
        return Kvm(UNKNOWN, f"{device} opens; the probe has no guest for {os.uname().machine}")
    return judge(*_run_child(device))


def judge(said: str, status: int) -> Kvm:
    """The result from what the child said, a line a step, and its wait status."""
    times: dict[str, float] = {}
    for line in said.splitlines():
        step, _, value = line.partition(" ")
        if step == "error":
            return Kvm(BROKEN, f"cannot make a machine: {value}", times.get("arrived", 0.0))
        try:
            times[step] = float(value)
        except ValueError:
            return Kvm(BROKEN, f"the probe said {line!r:.100}")
    arrived, finished = times.get("arrived", 0.0), times.get("finished", 0.0)
    if finished:
        return Kvm(WORKS, f"ran a guest in {finished * 1000:.1f} ms", arrived, finished)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL):
        detail = f"opens, but cannot run an ordinary guest: {_TURNS * 2:,} instructions "
        detail += f"do not end within {LIMIT_SECONDS} s (it emulates every one)"
        return Kvm(EMULATES if arrived else BROKEN, detail, arrived)
    return Kvm(BROKEN, f"the guest stopped (wait status {status:#x})", arrived)


def _run_child(device: str) -> tuple[str, int]:
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path.insert(0, {source!r}); "
        f"from skerry.kernel.kvm_probe import child; child({device!r})"
    )
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-ISE", "-c", code],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        said = read_within(read_end, _PATIENCE_SECONDS)
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
        return said.decode("ascii", "replace"), os.waitpid(pid, 0)[1]
    finally:
        os.close(read_end)


def child(device: str) -> None:
    """The body of the probe's process: says `arrived SECONDS` and `finished SECONDS`, or `error`.

    The timer's signal keeps its default action, which ends the process even inside KVM_RUN.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        vcpu, shared, _memory = _machine(device)
        begun = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
        for step, wanted in (("arrived", _ARRIVED), ("finished", _DONE)):
            _ioctl(vcpu, _KVM_RUN, 0, "run the guest")
            (reason,) = struct.unpack_from("<I", shared, _EXIT_REASON_OFFSET)
            if reason != _KVM_EXIT_IO:
                _say(f"error the guest left with KVM_EXIT reason {reason} before it had {step}")
                return
            (where,) = struct.unpack_from("<Q", shared, _IO_DATA_OFFSET)
            if shared[where] != wanted:
                _say(f"error the guest said {shared[where]}, not {wanted}")
                return
            _say(f"{step} {time.perf_counter() - begun:.6f}")
    except OSError as error:
        _say(f"error {error.strerror}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _ioctl(fd: int, request: int, argument: object, action: str) -> int:
    value = ctypes.c_long(argument) if isinstance(argument, int) else argument
    result: int = libc.ioctl(fd, ctypes.c_ulong(request), value)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{action}: {os.strerror(code)}")
    return result


def _machine(device: str) -> tuple[int, mmap.mmap, mmap.mmap]:
    """A virtual processor about to run the guest, the page it shares with us, its memory."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    version = _ioctl(kvm, _KVM_GET_API_VERSION, 0, "ask for the version")
    if version != _API_VERSION:
        raise OSError(errno.EPROTO, f"KVM speaks version {version}, not {_API_VERSION}")
    machine = _ioctl(kvm, _KVM_CREATE_VM, 0, "make a machine")
    # Processors without "unrestricted guest" run real mode in a task of this segment.
    _ioctl(machine, _KVM_SET_TSS_ADDR, _TSS_ADDRESS, "place the task segment")
    memory = mmap.mmap(-1, _MEMORY)
    for place, content in guest_memory().items():
        memory[place : place + len(content)] = content
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("<IIQQQ", 0, 0, 0, _MEMORY, address)
    _ioctl(machine, _KVM_SET_USER_MEMORY_REGION, region, "give the machine memory")
    vcpu = _ioctl(machine, _KVM_CREATE_VCPU, 0, "make a processor")
    size = _ioctl(kvm, _KVM_GET_VCPU_MMAP_SIZE, 0, "ask for the size of the shared page")
    shared = mmap.mmap(vcpu, size)
    # A processor that does not announce long mode refuses to enter it.
    features = ctypes.create_string_buffer(8 + _CPUID_ENTRIES * _CPUID_ENTRY_SIZE)
    struct.pack_into("<I", features, 0, _CPUID_ENTRIES)
    _ioctl(kvm, _KVM_GET_SUPPORTED_CPUID, features, "ask for processor features")
    _ioctl(vcpu, _KVM_SET_CPUID2, features, "set processor features")
    segments = ctypes.create_string_buffer(_SREGS_SIZE)
    _ioctl(vcpu, _KVM_GET_SREGS, segments, "read the segments")
    # struct kvm_segment begins with base (64 bits), limit (32), selector (16); cs comes first.
    struct.pack_into("<Q", segments, 0, 0)
    struct.pack_into("<H", segments, 12, 0)
    _ioctl(vcpu, _KVM_SET_SREGS, segments, "set the code segment")
    registers = struct.pack("<18Q", *([0] * 16), _CODE, 0x2)
    _ioctl(vcpu, _KVM_SET_REGS, registers, "set the registers")
    return vcpu, shared, memory
