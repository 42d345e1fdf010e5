"""Docker's default seccomp policy as data, and Docker's profile format.

The format (`--security-opt seccomp=profile.json`) is an OCI seccomp object plus conditions per
rule: `includes` and `excludes` by capability, architecture and kernel version, and an `archMap`
from the native architecture to those that share its kernel. Resolving them for one container gives
an OCI object.

The default lists what moby's profiles repository holds (libseccomp 2.6, kernel 6.13). It is
stricter than Docker 28 in one point: `socket` has a list of allowed families, where 28 only
denied AF_VSOCK, which a 64-bit first argument got around.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.light import Any, Final
from skerry.kernel.seccomp_policy import parse_policy

MAX_PROFILE_BYTES = 1 << 20

_ALWAYS = (
    "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown "
    "chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime "
    "clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect "
    "copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old "
    "epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit "
    "exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod "
    "fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr "
    "flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate "
    "ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat "
    "getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 "
    "getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority "
    "getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage "
    "getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr "
    "getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl "
    "io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup "
    "io_submit ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown "
    "lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek "
    "lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create "
    "memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect "
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend "
    "mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock "
    "munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause "
    "pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll "
    "ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 "
    "pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv "
    "recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename "
    "renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending "
    "rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam "
    "sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval "
    "sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop "
    "semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 "
    "setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority "
    "setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit "
    "set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr "
    "setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask "
    "sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink "
    "symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete "
    "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create "
    "timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate "
    "truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 "
    "utimes vfork vmsplice wait4 waitid waitpid write writev"
)
_WITH_SYS_ADMIN = (
    "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
    "lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree "
    "perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 "
    "unshare"
)
_WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": _WITH_SYS_ADMIN,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": (
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"
    ),
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
_ON_ARCHITECTURE = {
    ("ppc64le",): "sync_file_range2 swapcontext",
    ("arm", "arm64"): (
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
    ),
    ("amd64", "x32"): "arch_prctl",
    ("amd64", "x32", "x86"): "modify_ldt",
    ("s390", "s390x"): "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ("riscv64",): "riscv_flush_icache",
}
# linux/personality.h: PER_LINUX, PER_LINUX32, UNAME26 with either, and the query.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# Allowed families above AF_ROSE (11), linux/socket.h. Left out: DECnet, Econet, ATM SVCs, IrDA,
# WANPIPE, ISDN, CAIF, AF_ALG (38), and AF_VSOCK (40), which no network namespace confines.
_FAMILIES = (
    *(13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39),
    *(41, 42, 43, 44, 45),
)
# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET, linux/sched.h.
_NAMESPACE_FLAGS = 0x7E020000

_ARCH_MAP = (
    ("X86_64", ("X86", "X32")),
    ("AARCH64", ("ARM",)),
    ("MIPS64", ("MIPS", "MIPS64N32")),
    ("MIPS64N32", ("MIPS", "MIPS64")),
    ("MIPSEL64", ("MIPSEL", "MIPSEL64N32")),
    ("MIPSEL64N32", ("MIPSEL", "MIPSEL64")),
    ("S390X", ("S390",)),
    ("RISCV64", ()),
    ("LOONGARCH64", ()),
)

# `uname -m` to the name that Docker's conditions use and to the OCI one.
_MACHINES: Final[dict[str, tuple[str, str]]] = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
}
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def default_profile() -> dict[str, Any]:
    """The default policy in Docker's profile format, conditions unresolved."""

    def rule(names: str, **more: object) -> dict[str, Any]:
        return {"names": names.split(), "action": "SCMP_ACT_ALLOW", **more}

    def argument(value: int, op: str = "EQ", index: int = 0) -> list[dict[str, Any]]:
        return [{"index": index, "value": value, "op": f"SCMP_CMP_{op}"}]

    admin = {"caps": ["CAP_SYS_ADMIN"]}
    s390 = {"arches": ["s390", "s390x"]}
    namespaces = argument(_NAMESPACE_FLAGS, "MASKED_EQ")
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {
                "architecture": f"SCMP_ARCH_{native}",
                "subArchitectures": [f"SCMP_ARCH_{sub}" for sub in subs],
            }
            for native, subs in _ARCH_MAP
        ],
        "syscalls": [
            rule(_ALWAYS),
            rule("process_vm_readv process_vm_writev ptrace", includes={"minKernel": "4.8"}),
            rule("socket", args=argument(12, "LT")),
            *(rule("socket", args=argument(family)) for family in _FAMILIES),
            *(rule("personality", args=argument(value)) for value in _PERSONALITIES),
            *(rule(n, includes={"arches": [*arches]}) for arches, n in _ON_ARCHITECTURE.items()),
            *(rule(names, includes={"caps": [cap]}) for cap, names in _WITH_CAPABILITY.items()),
            rule("clone", args=namespaces, excludes={**admin, **s390}),
            # clone takes its flags second on s390.
            rule(
                "clone",
                args=argument(_NAMESPACE_FLAGS, "MASKED_EQ", 1),
                includes=s390,
                excludes=admin,
            ),
            {
                # Its flags lie in memory, out of a filter's sight; ENOSYS makes libc use clone.
                **rule("clone3", excludes=admin),
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 38,
            },
        ],
    }


def docker_default(
    capabilities: Iterable[str], *, arch: str = "", kernel: str = ""
) -> dict[str, Any]:
    """The default policy for a container whose bounding set is `capabilities`, as OCI object.

    `arch` and `kernel` are as `uname` says them, the running ones by default.
    """
    return _resolve(default_profile(), capabilities, arch, kernel)


def parse_docker_profile(
    data: bytes, capabilities: Iterable[str], *, arch: str = "", kernel: str = ""
) -> dict[str, Any] | None:
    """A profile of `--security-opt seccomp=…` as an OCI seccomp object that compiles.

    None when it neither has a default action nor rules, which to Docker means unconfined.
    InvalidInput for what is malformed, LimitExceeded above `MAX_PROFILE_BYTES`.
    """
    if len(data) > MAX_PROFILE_BYTES:
        raise LimitExceeded(f"seccomp profile: {len(data)} bytes, at most {MAX_PROFILE_BYTES}")
    try:
        profile = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Decoding seccomp profile failed: {error}") from None
    if not isinstance(profile, dict):
        raise InvalidInput("Decoding seccomp profile failed: not an object")
    return resolve_profile(profile, capabilities, arch=arch, kernel=kernel)


def resolve_profile(
    profile: Mapping[str, Any], capabilities: Iterable[str], *, arch: str = "", kernel: str = ""
) -> dict[str, Any] | None:
    """`parse_docker_profile` for a profile that has been decoded already."""
    if not profile.get("defaultAction") and not profile.get("syscalls"):
        return None
    resolved = _resolve(profile, capabilities, arch, kernel)
    parse_policy(resolved)
    return resolved


def _resolve(
    profile: Mapping[str, Any], capabilities: Iterable[str], arch: str, kernel: str
) -> dict[str, Any]:
    host = os.uname()
    docker_arch, oci_arch = _MACHINES.get(arch or host.machine, ("", ""))
    version = _version(kernel or host.release)
    held = frozenset(capabilities)
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidInput("seccomp profile: use either 'architectures' or 'archMap'")
    passed_on = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
    resolved: dict[str, Any] = {
        key: profile[key] for key in passed_on if profile.get(key) is not None
    }
    resolved["architectures"] = _strings(profile.get("architectures"), "architectures")
    for entry in _objects(profile.get("archMap"), "archMap"):
        if entry.get("architecture") == oci_arch:
            subs = _strings(entry.get("subArchitectures"), "subArchitectures")
            resolved["architectures"] = [oci_arch, *subs]
            break
    resolved["syscalls"] = [
        _rule(entry)
        for entry in _objects(profile.get("syscalls"), "syscalls")
        if _applies(entry, docker_arch, held, version)
    ]
    return resolved


def _rule(entry: Mapping[str, Any]) -> dict[str, Any]:
    name, names = entry.get("name"), _strings(entry.get("names"), "names")
    if name and names:
        raise InvalidInput("seccomp profile: use either 'name' or 'names' in a rule")
    rule = {"names": [name] if name else names, "action": entry.get("action")}
    return rule | {key: entry[key] for key in ("errnoRet", "args") if entry.get(key) is not None}


def _applies(
    entry: Mapping[str, Any], arch: str, held: frozenset[str], version: tuple[int, int]
) -> bool:
    excludes, includes = (_filter(entry, field) for field in ("excludes", "includes"))
    if arch in _strings(excludes.get("arches"), "arches"):
        return False
    if not held.isdisjoint(_strings(excludes.get("caps"), "caps")):
        return False
    if excludes.get("minKernel") and version >= _version(excludes["minKernel"]):
        return False
    arches = _strings(includes.get("arches"), "arches")
    if arches and arch not in arches:
        return False
    if not held.issuperset(_strings(includes.get("caps"), "caps")):
        return False
    return not includes.get("minKernel") or version >= _version(includes["minKernel"])


def _filter(entry: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = entry.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInput(f"seccomp profile: {field} must be an object")
    return value or {}


def _version(text: object) -> tuple[int, int]:
    found = _VERSION.match(text) if isinstance(text, str) else None
    if not found:
        raise InvalidInput(f"seccomp profile: {text!r:.40} is not a kernel version")
    return int(found[1]), int(found[2])


def _strings(value: object, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"seccomp profile: {what} must be a list of strings")
    return value


def _objects(value: object, what: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise InvalidInput(f"seccomp profile: {what} must be a list of objects")
    return value
