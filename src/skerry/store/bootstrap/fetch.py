"""Files from a mirror over HTTP: bounded in size and time, with errors that name the address."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final

from skerry.base.errors import InvalidInput, LimitExceeded, NotFound, Unavailable

_TIMEOUT: Final = 60.0
_PIECE: Final = 256 << 10


def fetch(url: str, limit: int) -> bytes:
    """A small file's content."""
    return b"".join(stream(url, limit))


def stream(url: str, limit: int) -> Iterator[bytes]:
    """A file's content in pieces.

    NotFound when the mirror has no such file, Unavailable when it cannot be reached or breaks off,
    LimitExceeded when there are more than `limit` bytes.
    """
    if not url.startswith(("https://", "http://")):
        raise InvalidInput(f"cannot fetch {url!r:.200}: a mirror is an http:// or https:// address")
    total = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "skerry"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            expected = response.headers.get("Content-Length")
            while piece := response.read(_PIECE):
                total += len(piece)
                if total > limit:
                    raise LimitExceeded(f"{url}: more than {limit} bytes")
                yield piece
        if expected is not None and expected.isdigit() and total != int(expected):
            raise Unavailable(f"fetch {url}: {total} of {expected} bytes came")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (403, 404, 410):
                raise NotFound(f"fetch {url}: {error.code} {error.reason}") from None
            raise Unavailable(f"fetch {url}: {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unavailable(
            f"fetch {url}: {reason}", hint="check the network, or name another --mirror"
        ) from None
    except ValueError as error:
        raise InvalidInput(f"fetch {url!r:.200}: {error}") from None
