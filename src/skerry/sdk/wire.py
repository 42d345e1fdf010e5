"""JSON by CPython's own C scanner, without the `json` package around it.

`import json` brings `re` and `enum` along: 5 ms, half of what a whole command line may take. The
scanner and the encoder underneath need neither. Where the C parts are missing, `json` serves.
"""

from __future__ import annotations

from skerry.base.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH_HINT = "nested too deeply"
_SPACE = " \t\r\n"


class _Strict:
    """The attributes that the C scanner reads from a json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner asks for a plain attribute


try:
    from _json import encode_basestring, make_encoder, make_scanner
except ImportError:  # another interpreter than CPython
    import json

    def _scan(text: str, start: int) -> tuple[Any, int]:
        return json.JSONDecoder().raw_decode(text, start)

    def _encode(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
else:
    _scan = make_scanner(_Strict)  # type: ignore[assignment,arg-type]

    def _encode(value: Any) -> str:
        encoder = make_encoder({}, _refuse, encode_basestring, None, ":", ",", False, False, True)
        return "".join(encoder(value, 0))


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def loads(data: bytes | bytearray | str) -> Any:
    """The value of one JSON text; InvalidInput when it is anything else."""
    try:
        text = data if isinstance(data, str) else data.decode()
        start, end = 0, len(text)
        while start < end and text[start] in _SPACE:
            start += 1
        value, stop = _scan(text, start)
        if text[stop:].strip(_SPACE):
            raise ValueError("more text after the value")
    except (StopIteration, ValueError, RecursionError) as error:
        why = MAX_DEPTH_HINT if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(
            f"the engine's answer is not JSON: {why}: {bytes(data[:80])!r}"
            if not isinstance(data, str)
            else f"not JSON: {why}: {data[:80]!r}"
        ) from None
    return value


def dumps(value: Any) -> str:
    """`value` as compact JSON; characters outside ASCII stay as they are."""
    return _encode(value)


def pretty(value: Any, *, indent: int = 4) -> str:
    """`value` as JSON for people."""
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False)
