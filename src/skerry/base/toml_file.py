"""Small settings files: what is wrong in one is told with its path and key. Not lean."""

import tomllib

from skerry.base.errors import InvalidInput
from skerry.base.light import Any, Final
from skerry.base.small_file import read_small

MAX_FILE: Final = 1 << 20


def read(path: str) -> dict[str, Any] | None:
    """The file's content, None when there is no such file; InvalidInput names `path`."""
    data = read_small(path, MAX_FILE)
    return None if data is None else parse(data, path)


def parse(data: bytes, path: str) -> dict[str, Any]:
    """The same of a file's bytes."""
    if len(data) > MAX_FILE:
        raise InvalidInput(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: {error}") from None


def only(table: dict[str, Any], known: set[str], path: str, where: str) -> None:
    """InvalidInput for a key that is not known."""
    for key in table:
        if key not in known:
            raise InvalidInput(
                f"{path}: {where + '.' if where else ''}{key}: unknown setting",
                hint=f"known here: {', '.join(sorted(known))}",
            )


def table(value: object, path: str, where: str) -> dict[str, Any]:
    """InvalidInput unless it is a table."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {where}: has to be a table")
    return value
