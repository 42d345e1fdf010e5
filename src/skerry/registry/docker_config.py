"""Docker's `config.json`: read with limits, changed atomically, unknown keys kept.

Format: docker/cli `config/configfile`. Two writers at once take turns by a lock on the folder, so
neither loses the other's login; a reader sees the old file or the new one.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from skerry.base.errors import InvalidInput

MAX_FILE: Final = 4 << 20


def read(path: str) -> dict[str, Any]:
    """The file's object; {} when there is no file or an empty one; else InvalidInput."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    return parse(data, path)


def parse(data: bytes, path: str = "config.json") -> dict[str, Any]:
    """An object whose auths, credHelpers and credsStore have the right types; else InvalidInput."""
    if len(data) > MAX_FILE:
        raise InvalidInput(f"{path}: larger than {MAX_FILE} bytes")
    if not data.strip():
        return {}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path}: not a JSON object")
    for key, kind in (("auths", dict), ("credHelpers", dict), ("credsStore", str)):
        if document.get(key) is not None and not isinstance(document[key], kind):
            raise InvalidInput(f"{path}: {key} has the wrong type")
    return document


def change(path: str, edit: Callable[[dict[str, Any]], bool]) -> bool:
    """Read, `edit` in place, write when it returned True; what it returned.

    The file is the user's alone (0600). A symbolic link stays one: its target is replaced.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with _locked(folder):
            document = read(path)
            changed = edit(document)
            if changed:
                _write(path, json.dumps(document, indent="\t").encode() + b"\n")
            return changed
    except OSError as error:
        raise InvalidInput(f"cannot change {path}: {error.strerror}") from None


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes) -> None:
    draft = f"{path}.{os.getpid()}.tmp"
    # One left by a killed writer with our pid is overwritten, never followed.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
