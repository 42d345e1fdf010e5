"""What the kernel says about a process: proc_pid_stat(5)."""


def facts(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in clock ticks since boot) of a process; None when there is none.

    The start time tells a process from a later one with the same pid.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so count from the last one.
    words = data[data.rindex(b")") + 2 :].split()
    return words[0].decode(), int(words[19])
