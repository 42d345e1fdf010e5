"""How a warden's process ends: as the guest's program did."""

import os
import signal

import pytest

from skerry.machine import daemon


@pytest.mark.parametrize("number", [1, 9, 15, 32, 33, 34, 64])
def test_it_dies_by_any_signal(number: int) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            daemon.die_as(-number)
        finally:
            os._exit(255)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -number
