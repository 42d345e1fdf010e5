"""`skerry-runtime`: an OCI runtime on the command line, in the place of runc.

The command's name is found by hand and only that command's module is imported. Commands that start
a program in a container first execute the interpreter again from a read-only mount, so that nothing
in the container can ever write to it (`skerry.runtime.interpreter`).
"""

import gc
import os
import sys

# Global options with and without a value.
VALUES = ("root", "log", "log-format", "criu", "rootless")
SWITCHES = ("systemd-cgroup", "debug", "version", "help")

_ENTERS = ("create", "run", "exec")


def entry() -> int:
    """Run the command in sys.argv; the exit code.

    Ends the process at once when all is written: taking the interpreter down costs a millisecond.
    """
    gc.disable()
    if os.geteuid() == 0 and _name(sys.argv[1:]) in _ENTERS:
        _protect_interpreter()
    from skerry.kernel import signals
    from skerry.runtime.dispatch import dispatch

    signals.heed()
    code = dispatch(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    os._exit(code)


def _name(words: list[str]) -> str:
    """The command among the words: the first that is neither an option nor an option's value."""
    skip = False
    for word in words:
        if skip:
            skip = False
        elif not word.startswith("-"):
            return word
        else:
            skip = word.lstrip("-") in VALUES
    return ""


def _protect_interpreter() -> None:
    """Go on from a read-only mount of the interpreter. Does nothing the second time.

    Before anything else is imported, for it all is imported a second time then.
    """
    exe = "/proc/self/exe"
    if os.statvfs(exe).f_flag & os.ST_RDONLY or os.readlink(exe).startswith("/memfd:"):
        return
    from skerry.runtime.interpreter import read_only_interpreter

    fd = read_only_interpreter()
    again = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    # By its real name: looking for a virtual environment around it costs time.
    words = [os.path.realpath(sys.executable), "-ISE", again, *sys.argv[1:]]
    os.execve(f"/proc/self/fd/{fd}", words, os.environ)
