"""What the kernel says about processes and memory: proc_pid_stat(5), proc_meminfo(5)."""

_PF_EXITING = 0x4  # linux/sched.h
_PF_FORKNOEXEC = 0x40


def facts(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in clock ticks since boot) of a process; None when there is none.

    The start time tells a process from a later one with the same pid.
    """
    words = _stat(pid)
    return (words[0].decode(), int(words[19])) if words else None


def ending(pid: int) -> bool:
    """Whether a process ends or has ended. The first of a pid namespace does before all that it
    takes along."""
    words = _stat(pid)
    return not words or bool(int(words[6]) & _PF_EXITING)


def never_executed(pid: int) -> bool:
    """Whether a process is, or ended as, a fork that has executed no program."""
    words = _stat(pid)
    return bool(words) and bool(int(words[6]) & _PF_FORKNOEXEC)


def _stat(pid: int) -> list[bytes]:
    """The words of /proc/<pid>/stat from the state on; none when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The name in parentheses may hold anything, so count from the last one.
    return data[data.rindex(b")") + 2 :].split()


def own_memory(pid: int) -> int:
    """Bytes that a process shares with no file and no other process but a fork; 0 without one."""
    return _kilobytes(f"/proc/{pid}/status", b"RssAnon:")


def meminfo(name: str) -> int:
    """Bytes of the host's memory by a name of /proc/meminfo; 0 without one."""
    return _kilobytes("/proc/meminfo", name.encode() + b":")


def _kilobytes(path: str, name: bytes) -> int:
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    return 0
