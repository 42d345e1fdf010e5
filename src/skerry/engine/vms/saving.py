"""A machine's memory and devices as a file."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from skerry.base.errors import Conflict, SkerryError
from skerry.engine.vms.record import Machine
from skerry.machine.full import disks
from skerry.machine.full.monitor import Monitor

LOAD_SECONDS = 600.0
"""For a state to be written or read."""


def check_savable(record: Machine) -> None:
    """Conflict when a device keeps QEMU from saving the machine's state."""
    hardware = record.hardware
    culprit = ""
    if hardware.shares:
        culprit = f"the shared folder {hardware.shares[0].tag}"
    elif any(disk.bus == "nvme" for disk in hardware.disks):
        culprit = "an NVMe disk"
    elif hardware.tpm:
        culprit = "a TPM"
    if culprit:
        raise Conflict(
            f"machine {record.name} cannot be saved while it has {culprit}",
            hint="its disks alone can: skerry vm snapshot create --disk-only",
        )


async def write_state(
    monitor: Monitor, path: str, before: Callable[[], Any] | None = None
) -> float:
    """Memory and devices into a fresh file; returns the seconds for which the guest stood still.

    With `before` the guest runs while its memory is written; it is awaited when the guest has
    stopped for the rest, while its disks can still be changed. Conflict when a device cannot be
    saved. QEMU is left in `postmigrate` or, after an error, as it was.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    stopped = time.monotonic()
    try:
        await monitor.execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": "pause-before-switchover", "state": before is not None}],
        )
        await monitor.execute("migrate-set-parameters", max_bandwidth=1 << 42, downtime_limit=300)
        await monitor.send_fd("state", fd)
        await monitor.execute("migrate", uri="fd:state")
        patience = time.monotonic() + 20
        while True:
            found = await monitor.execute("query-migrate")
            status = found.get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                reason = found.get("error-desc", "QEMU does not say why")
                if disks.is_full(path):
                    reason = "no space left on device"
                raise Conflict(f"the machine's state cannot be saved: {reason}")
            if status == "pre-switchover" and before is not None:
                stopped = time.monotonic()
                await before()
                before = None
                await monitor.execute("migrate-continue", state="pre-switchover")
            elif time.monotonic() > patience:
                # It writes to its memory faster than the disk takes it.
                await monitor.execute("stop")
                patience += LOAD_SECONDS
            await asyncio.sleep(0.005)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(SkerryError):
            await monitor.execute("migrate_cancel")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)
    return time.monotonic() - stopped
