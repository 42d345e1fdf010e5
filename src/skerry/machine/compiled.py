"""The guest's compiled part (guest/serve.c), made by the host's C compiler when a kit is made.

Without a compiler a kit has no such part: its machines boot and wake some two thirds slower, and do
the same. A compiler that is there and fails is an error.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from skerry.base.errors import SystemFault

SOURCE = Path(__file__).with_name("guest") / "serve.c"
COMPILERS = ("gcc", "cc", "clang")
_HINT = (
    "install the packages gcc and libc6-dev (apt-get install gcc libc6-dev); where there is no "
    "compiler at all, machines do without"
)
_OPTIONS = (
    *("-std=c11", "-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-s"),
)
_SECONDS = 60.0


class Compiled(NamedTuple):
    """Two programs of one source."""

    first: bytes
    """The guest's first program, static."""
    library: bytes
    """What the agent loads."""


def compiler() -> str:
    """The path of the host's C compiler, empty for none."""
    return next((path for path in map(shutil.which, COMPILERS) if path), "")


def build(path: str) -> Compiled:
    """Compile with this compiler; SystemFault when it cannot."""
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
        made: list[bytes] = []
        for options in (("-static", "-DFIRST"), ("-shared", "-fPIC")):
            target = Path(folder, f"made{len(made)}")
            _run(path, *_OPTIONS, *options, "-o", str(target), str(SOURCE))
            made.append(target.read_bytes())
    return Compiled(*made)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFault(f"cannot run {command[0]}: {error}", hint=_HINT) from None
    if done.returncode:
        said = done.stderr.strip()[:500]
        raise SystemFault(f"{command[0]} cannot compile {SOURCE}: {said}", hint=_HINT)
