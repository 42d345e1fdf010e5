"""The host's refusals (disk full, read-only, broken) as errors that name what was tried."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from skerry.base.errors import SystemFault


@contextmanager
def told(action: str) -> Iterator[None]:
    """SystemFault with `action` in place of an OSError inside the block."""
    try:
        yield
    except OSError as error:
        raise SystemFault(f"{action}: {os.strerror(error.errno or 0)}") from None
