"""Cache keys: what a step reads, in parts, and which part is another one than last time.

A key is the digest of named parts. The parts of the last run of the same instruction are kept
beside the steps, so that a miss can be told apart: another base, another environment, other files.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from skerry.base.errors import NotFound
from skerry.build.state import fingerprint
from skerry.store import Store

SEEN: Final = "build-seen"
"""Kind of the records of each instruction's last parts."""
MAX_FILES: Final = 2000
"""Files whose digests are kept to name the changed ones."""
_SHOWN: Final = 5


class Key(NamedTuple):
    """Named parts; `files` details the part `files`."""

    parts: dict[str, str]
    files: dict[str, str]
    slot: str
    """What stays the same when the instruction is run again: its stage and its text."""

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return key_digest(self.parts)


def key_digest(parts: Mapping[str, str]) -> str:
    """Of named parts, whatever their order."""
    return fingerprint(*(text for pair in sorted(parts.items()) for text in pair))


_WORDS: Final = {
    "base": "the layers below it changed",
    "step": "the instruction changed",
    "arguments": "a build argument changed",
    "environment": "its environment changed",
    "user": "its user changed",
    "directory": "its working directory changed",
    "mounts": "what it mounts changed",
    "files": "its files changed",
    "network": "its network changed",
}


def why_missed(store: Store, key: Key) -> str:
    """A sentence for people."""
    try:
        before = store.records.get(SEEN, key.slot)
    except NotFound:
        return "it was not run before"
    old: dict[str, str] = before.get("parts") or {}
    changed = [name for name in key.parts if key.parts[name] != old.get(name)]
    if not changed:
        return "its result was pruned"
    words = [_WORDS.get(name, name) for name in changed if name != "files"]
    if "files" in changed:
        words.append(_files(before.get("files") or {}, _named(key.files)))
    return "; ".join(words)


def _files(old: dict[str, str], new: dict[str, str]) -> str:
    if not old or not new:
        return _WORDS["files"]
    names = [
        *(f"{name} is new" for name in new if name not in old),
        *(f"{name} changed" for name in new if name in old and old[name] != new[name]),
        *(f"{name} is gone" for name in old if name not in new),
    ]
    if not names:
        return _WORDS["files"]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _named(files: Mapping[str, str]) -> dict[str, str]:
    """Names as text: a file's may be any bytes."""
    return {
        os.fsencode(name).decode(errors="backslashreplace"): digest
        for name, digest in files.items()
    }


def note(store: Store, key: Key) -> None:
    """Keep the parts for the next explanation."""
    data: dict[str, Any] = {"parts": key.parts, "at": time.time()}
    if len(key.files) <= MAX_FILES:
        data["files"] = _named(key.files)
    store.records.put(SEEN, key.slot, data)
