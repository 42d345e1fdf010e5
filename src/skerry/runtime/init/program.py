"""Find the program and become it. The words of the errors are the ones that Docker looks for."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable

from skerry.base.errors import CommandNotExecutable, CommandNotFound, GuestFault
from skerry.kernel.syscalls import libc

_PASSWD_LIMIT = 1 << 20
# fcntl.h
_AT_FDCWD = -100
_AT_EACCESS = 0x200
_c_access, _c_open, _c_execve = libc.faccessat, libc.open, libc.execve
_O_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Program:
    """A program with its arguments, in C's form already, so that nothing but execve remains."""

    def __init__(self, path: str, args: tuple[str, ...], env: list[str]) -> None:
        self._path = os.fsencode(path)
        self._argv = _vector(args)
        self._envp = _vector(env)

    def take_path(self, path: bytes) -> None:
        """The program's path, when it was not known before."""
        self._path = path

    def execute(self) -> GuestFault:
        """execve(2); returns only when it failed, with the reason.

        The call is made without Python's own wrapper, which allocates: a seccomp filter that
        allows little beside execve may be in force.
        """
        _c_execve(self._path, self._argv, self._envp)
        number = ctypes.get_errno()
        message = f"exec {os.fsdecode(self._path)}: {os.strerror(number).lower()}"
        if number in (errno.ENOENT, errno.ENOTDIR):
            return CommandNotFound(message, hint="the file names an interpreter that is missing")
        return CommandNotExecutable(message)


def _vector(words: tuple[str, ...] | list[str]) -> "ctypes.Array[ctypes.c_char_p]":
    return (ctypes.c_char_p * (len(words) + 1))(*[os.fsencode(word) for word in words], None)


def find(args: tuple[str, ...], env: Iterable[str]) -> str:
    """The path that `args[0]` means, looked up in the PATH of `env`; the caller's root and folder
    are the container's. Raises CommandNotFound or CommandNotExecutable."""
    name = args[0]
    for path in candidates(args, env):
        try:
            _check(path)
        except OSError as error:
            if "/" in name:
                raise _fault(name, error) from None
            continue
        return os.fsdecode(path)
    raise CommandNotFound(f'exec: "{name}": executable file not found in $PATH')


def candidates(args: tuple[str, ...], env: Iterable[str]) -> list[bytes]:
    """Where `find` looks, in its order."""
    name = args[0]
    if "/" in name:
        return [os.fsencode(name)]
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), "")
    return [os.fsencode(os.path.join(folder or ".", name)) for folder in path.split(":")]


def first(paths: list[bytes]) -> bytes | None:
    """The first that can be executed, by system calls alone; `find` says why there is none."""
    for path in paths:
        if _c_access(_AT_FDCWD, path, os.X_OK, _AT_EACCESS) == 0:
            folder = _c_open(path, _O_FOLDER)
            if folder < 0:
                return path
            os.close(folder)
    return None


def _check(path: bytes) -> None:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _fault(name: str, error: OSError) -> GuestFault:
    reason = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return CommandNotFound(f'exec: "{name}": stat {name}: {reason}')
    return CommandNotExecutable(f'exec: "{name}": {reason}')


def has_home(env: tuple[str, ...]) -> bool:
    """Whether HOME need not be looked up."""
    return any(entry.startswith("HOME=") and len(entry) > 5 for entry in env)


def with_home(env: tuple[str, ...], uid: int) -> list[str]:
    """`env`, with HOME from the container's /etc/passwd when it has none."""
    result = list(env)
    if not has_home(env):
        result = [entry for entry in result if not entry.startswith("HOME=")]
        result.append(f"HOME={_home_of(uid)}")
    return result


def _home_of(uid: int) -> str:
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        data = os.read(fd, _PASSWD_LIMIT)
    except OSError:
        return "/"
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in data.split(b"\n"):
        words = line.split(b":")
        if len(words) >= 6 and words[2] == wanted and b"\0" not in words[5]:
            return os.fsdecode(words[5]) or "/"
    return "/"
