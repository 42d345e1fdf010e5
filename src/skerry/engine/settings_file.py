"""What the administrator has written down: `<root>/engine.json`. Each room reads its own keys."""

import json
import os
from typing import Any

from skerry.base.errors import InvalidInput

LIMIT = 1 << 20


def path_in(root: str) -> str:
    """The file of the engine with this root."""
    return os.path.join(root, "engine.json")


def read(path: str) -> dict[str, Any]:
    """The object in a settings file, empty without one. InvalidInput names what is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.loads(file.read(LIMIT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"cannot read the settings in {path}: {reason}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: expected an object")
    return data
