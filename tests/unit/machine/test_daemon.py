"""How a warden's process ends: as the guest's program did."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [9, 15, 32, 33])
def test_it_dies_by_any_signal(number: int) -> None:
    # A process of its own: the C library handles the last two where threads were about.
    script = f"from skerry.machine import daemon; daemon.die_as(-{number})"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -number
