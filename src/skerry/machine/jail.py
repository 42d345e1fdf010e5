"""QEMU's wall, as data: its user and its system calls.

The filter is a list of what is forbidden: what leads to other processes, to the kernel's
configuration, or to new privileges. QEMU adds its own (`-sandbox`), after which it cannot execute
programs either.
"""

import functools
import hashlib

from skerry.kernel import seccomp

_FIRST_USER, _USERS = 0x70000000, 0x0F000000
"""A range that no distribution gives to anybody; below 2**31, which some tools take for signed."""
_FORBIDDEN = (
    "acct add_key bpf chroot clock_adjtime clock_settime delete_module finit_module fsconfig "
    "fsmount fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register "
    "io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount "
    "mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree "
    "perf_event_open personality pivot_root process_madvise process_vm_readv process_vm_writev "
    "ptrace quotactl reboot request_key sethostname setdomainname set_mempolicy setns settimeofday "
    "socket swapoff swapon sysfs syslog umount2 unshare userfaultfd uselib ustat vhangup vmsplice"
)
_EPERM = 1


def user_for(id_: str) -> int:
    """A user that no other machine is likely to have; user and group are the same number."""
    digest = hashlib.sha256(id_.encode()).digest()
    return _FIRST_USER + int.from_bytes(digest[:4], "big") % _USERS


@functools.cache
def seccomp_program(*, sockets: bool = False) -> bytes:
    """The filter, compiled. With `sockets` the program may make some."""
    return seccomp.compile_profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {
                    "names": [
                        name for name in _FORBIDDEN.split() if not (sockets and name == "socket")
                    ],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": _EPERM,
                }
            ],
        }
    )
