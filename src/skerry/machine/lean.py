"""Running a `main` of this package in a lean interpreter of its own."""

import asyncio
import contextlib
import json
import os
import sys

import skerry
from skerry.base.errors import SystemFault
from skerry.runtime import wire

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from skerry.machine.{0} import main; main()"
)


def command(module: str, argument: str) -> list[str]:
    """argv of a lean interpreter that runs `skerry.machine.<module>.main` on an argument."""
    source = os.path.dirname(os.path.dirname(os.path.abspath(skerry.__file__)))
    return [sys.executable, "-ISE", "-c", _BOOT.format(module), source, argument]


async def run(module: str, argument: str, *fds: int) -> None:
    """Run `skerry.machine.<module>.main` on an argument, with descriptors that keep their numbers
    and are named after it; raises the error that it reports as JSON on standard output."""
    process = await asyncio.create_subprocess_exec(
        *command(module, argument),
        *(str(fd) for fd in fds),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=fds,
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        if said:
            raise wire.error_from_wire(json.loads(said))
        raise SystemFault(f"the process that runs skerry.machine.{module} died")
