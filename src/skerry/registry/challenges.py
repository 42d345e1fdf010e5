"""`WWW-Authenticate` (RFC 9110, section 11.6.1), as hostile servers may write it."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput, LimitExceeded

MAX_HEADER: Final = 16 << 10
MAX_CHALLENGES: Final = 16
MAX_PARAMETERS: Final = 32

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_GAP = re.compile(r"[ \t,]*")
_ESCAPE = re.compile(r"\\(.)")


class Challenge(NamedTuple):
    """One way in: the scheme in lower case, and its parameters with names in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all `WWW-Authenticate` lines, in order.

    InvalidInput when they are malformed, LimitExceeded beyond 16 KiB, 16 challenges or 32
    parameters in one. The first of two parameters with one name counts.
    """
    found: list[Challenge] = []
    length = 0
    for header in headers:
        length += len(header)
        if length > MAX_HEADER:
            raise LimitExceeded(f"WWW-Authenticate: more than {MAX_HEADER} bytes")
        _parse(header, found)
    return found


def _parse(header: str, found: list[Challenge]) -> None:
    current: Challenge | None = None
    place = _skip(header, 0)
    while place < len(header):
        # `name=value` belongs to the challenge before it; anything else opens a new one.
        match = _PARAMETER.match(header, place) if current else None
        if current and match:
            name, plain, quoted = match.groups()
            value = plain if plain is not None else _ESCAPE.sub(r"\1", quoted)
            current.parameters.setdefault(name.lower(), value)
            if len(current.parameters) > MAX_PARAMETERS:
                raise LimitExceeded(f"WWW-Authenticate: more than {MAX_PARAMETERS} parameters")
        else:
            match = _SCHEME.match(header, place)
            if not match:
                raise InvalidInput(f"WWW-Authenticate: malformed: {header[place:]!r:.80}")
            current = Challenge(match.group(1).lower(), {})
            found.append(current)
            if len(found) > MAX_CHALLENGES:
                raise LimitExceeded(f"WWW-Authenticate: more than {MAX_CHALLENGES} challenges")
            after = match.end()
            data = _TOKEN68.match(header, after)
            if data and not _PARAMETER.match(header, after) and not _opens(header, after):
                match = data  # opaque data of schemes we do not speak (Negotiate)
        place = _skip(header, match.end())


def _opens(header: str, place: int) -> bool:
    """Whether a comma was between, so that a scheme's name and not its data comes here."""
    return "," in header[max(0, place - 1) : place] or place == len(header)


def _skip(header: str, place: int) -> int:
    match = _GAP.match(header, place)
    return match.end() if match else place
