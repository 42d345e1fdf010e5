"""A forked child's own copies of its pages."""

import os

from skerry.kernel.memory import own_pages


def private() -> int:
    """Bytes that this process shares with nobody."""
    with open("/proc/self/smaps_rollup", "rb") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(b"Private_Dirty"))


def test_the_child_has_the_same_bytes_and_shares_no_page() -> None:
    held = os.urandom(2 << 20)
    pid = os.fork()
    if pid == 0:
        try:
            before = private()
            pieces = sum(1 for _ in own_pages())
            grown = private() - before
            # An old kernel copies nothing.
            fine = hash(held) and (not pieces or grown >= len(held) // 1024)
            os._exit(0 if fine else 4)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
