"""Whether CRIU can checkpoint processes here, found by doing it (criu(8)).

A version of CRIU knows the kernels of its time: on a newer one it may fail to read its own vDSO, so
that it is installed says nothing.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile

SECONDS = 20.0
_ERROR = re.compile(r"Error \([^)]*\): (.*)")


@functools.cache
def probe() -> str:
    """Dump a sleeping process and bring it back: empty when that went well, else why not."""
    program = shutil.which("criu")
    if not program:
        return "criu is not installed"
    with tempfile.TemporaryDirectory(prefix="skerry-criu-") as folder:
        sleeper = subprocess.Popen(
            ["sleep", "60"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        pidfile = f"{folder}/pid"
        try:
            for words in (
                ["check"],
                ["dump", "-t", str(sleeper.pid), "-D", folder],
                ["restore", "-d", "-D", folder, "--pidfile", pidfile],
            ):
                why = _run([program, *words])
                if why:
                    return f"criu {words[0]} fails: {why}"
        finally:
            sleeper.kill()
            sleeper.wait()
            _end(pidfile)
    return ""


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:200]
    if not done.returncode:
        return ""
    found = _ERROR.search(done.stdout + done.stderr)
    return found[1][:200] if found else f"exit code {done.returncode}"


def _end(pidfile: str) -> None:
    """Kill what was restored; it has the sleeper's pid again, in this same instant."""
    try:
        with open(pidfile, encoding="ascii") as file:
            os.kill(int(file.read(20)), 9)
    except (OSError, ValueError):
        return
