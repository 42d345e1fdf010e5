"""Files of settings, policies and keys: read whole, within bounds."""

from skerry.base.errors import InvalidInput


def read_small(path: str, limit: int) -> bytes | None:
    """A small file, None when there is none; InvalidInput when it cannot be read or is too long."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise InvalidInput(f"{path}: larger than {limit} bytes")
    return data
