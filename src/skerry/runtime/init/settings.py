"""What is set through the kernel's files and names: host name, sysctls, OOM score, uid 0."""

import os

from skerry.base.errors import KernelFault
from skerry.base.light import TYPE_CHECKING
from skerry.kernel import mounts
from skerry.kernel.syscalls import checked, libc

if TYPE_CHECKING:
    from skerry.runtime.steps import Plan


def become_root() -> None:
    """Uid and gid 0 of the user namespace, whatever the caller's ids look like in there."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise KernelFault(
            "become root of the user namespace",
            error.errno or 0,
            hint="the id maps must map uid 0 and gid 0 of the container",
        ) from None


def names(plan: "Plan") -> None:
    """Host name and domain name, of the UTS namespace the caller is in."""
    if plan.hostname:
        name = os.fsencode(plan.hostname)
        checked(libc.sethostname(name, len(name)), f"set the host name to {plan.hostname}")
    if plan.domainname:
        name = os.fsencode(plan.domainname)
        checked(libc.setdomainname(name, len(name)), f"set the domain name to {plan.domainname}")


def private_proc() -> int:
    """A procfs that is attached nowhere: no mount of the image can stand in its way."""
    tree = mounts.detached("proc")
    try:
        return os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(tree)


def sysctl(proc_fd: int, path: str, value: str) -> None:
    """Write one setting below /proc/sys, through `private_proc`'s descriptor."""
    try:
        fd = os.open(f"sys/{path}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFault(f"set sysctl {path} to {value!r:.200}", error.errno or 0) from None


def own_oom_score() -> int | None:
    """The caller's oom_score_adj, which a child inherits; None when it cannot be read."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 16))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None


def oom_score(score: int) -> None:
    """Set the caller's oom_score_adj, -1000 to 1000, through the host's /proc."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(score).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFault(
            f"set oom_score_adj to {score}",
            error.errno or 0,
            hint="lowering it needs CAP_SYS_RESOURCE",
        ) from None
