"""Which accelerator runs machines here, and what their processors look like."""

import ctypes
import functools
import mmap
import time

from skerry.kernel import kvm_probe
from skerry.machine.qemu import Accel

_TCG_CPU = "qemu64,+arat,+rdrand"
"""ARAT spares idle guests a timer; RDRAND gives the guest's generator the host's randomness."""
_KVM_CPU = "host,migratable=on"
_RDTSC = bytes.fromhex("0f3148c1e2204809d0c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret."""


@functools.cache
def choose() -> Accel:
    """KVM where it runs guests at speed, else TCG; found out once, in some 0.3 s."""
    if kvm_probe.probe().state == kvm_probe.WORKS:
        return Accel("kvm", _KVM_CPU, 0)
    return Accel("tcg", _TCG_CPU, tsc_khz())


def tsc_khz(seconds: float = 0.02) -> int:
    """The rate of the time stamp counter, which TCG shows its guests."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as page:
        page.write(_RDTSC)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
        first, start = int(read()), time.perf_counter_ns()
        time.sleep(seconds)
        ticks, nanoseconds = int(read()) - first, time.perf_counter_ns() - start
        del read
        libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
    return ticks * 1_000_000 // nanoseconds
