"""What of an exec outlives the engine: a small file beside its keeper's.

`exec.json` says what was asked for; the keeper's `task.json` and `exit.json` in the same folder say
what became of it. The folder goes when nobody may ask about the exec any more, or with the
container's.
"""

import json
import logging
import os
import shutil
from typing import Any, NamedTuple

NAME = "exec.json"
VERSION = 1
_LIMIT = 4 << 20

log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """One exec as it was written down. `code` is set when it could not even be started."""

    id: str
    wanted: dict[str, Any]
    code: int | None
    folder: str


def save(folder: str, id: str, wanted: dict[str, Any], code: int | None = None) -> None:
    """Write it in one step. A full disk loses the file, not the exec."""
    path = os.path.join(folder, NAME)
    text = json.dumps({"version": VERSION, "id": id, "wanted": wanted, "code": code})
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(f"{path}.new", path)
    except OSError as error:
        log.warning("cannot write %s: %s", path, error.strerror)


def read_all(folder: str) -> list[Saved]:
    """Every exec below a container's folder; what holds none is removed."""
    found = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    for name in names:
        path = os.path.join(folder, name)
        if saved := _read(path):
            found.append(saved)
        elif os.path.exists(os.path.join(path, "exit.json")):
            shutil.rmtree(path, ignore_errors=True)
    return found


def _read(folder: str) -> Saved | None:
    try:
        with open(os.path.join(folder, NAME), "rb") as file:
            value = json.loads(file.read(_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        return None
    id, wanted, code = value.get("id"), value.get("wanted"), value.get("code")
    if not isinstance(id, str) or not isinstance(wanted, dict):
        return None
    return Saved(id, wanted, code if isinstance(code, int) else None, folder)
