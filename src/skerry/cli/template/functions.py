"""The functions of templates: Go's own, and those that Docker's command line adds."""

from __future__ import annotations

import html
import json as json_

from skerry.cli.template.printing import Nil, kind, printf, quoted, show
from skerry.sdk.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class CallError(Exception):
    """What a function says about its arguments; the evaluator adds the place."""


def truth(value: Any) -> bool:
    """Go's truth: not zero, not empty, not nil."""
    return bool(value)


def json(value: Any) -> str:
    """Compact, keys in the order they came, nothing but the necessary escaped."""
    fields = getattr(value, "fields", value)
    return json_.dumps(fields, separators=(",", ":"), ensure_ascii=False, default=lambda nil: None)


def index(value: Any, *keys: Any) -> Any:
    """value[key][key]…; a missing key of a map is nil, one of a list an error."""
    for key in keys:
        if isinstance(value, dict):
            # Of a map of texts, such as labels, Go gives the empty text for what is not there.
            texts = all(isinstance(each, str) for each in value.values())
            value = value.get(key, "" if texts else None)
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int) or isinstance(key, bool):
                raise CallError(f"cannot index slice/array with type {kind(key)}")
            if not 0 <= key < len(value):
                raise CallError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        elif value is None:
            raise CallError("index of untyped nil")
        else:
            raise CallError(f"can't index item of type {kind(value)}")
    return value


def slice_(value: Any, *bounds: Any) -> Any:
    """value[from:to] of a string or a list."""
    if not isinstance(value, (list, tuple, str)):
        raise CallError(f"can't slice item of type {kind(value)}")
    if len(bounds) > 2 or any(not isinstance(bound, int) for bound in bounds):
        raise CallError("slice takes one or two whole numbers")
    low, high = [*bounds, *(0, len(value))[len(bounds) :]][:2]
    if not 0 <= low <= high <= len(value):
        raise CallError(f"slice bounds out of range: {low}:{high}")
    return value[low:high]


def length(value: Any) -> int:
    """Items of a list or map, bytes of a string."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, (list, tuple, dict, Nil)):
        return len(value)
    raise CallError(f"len of type {kind(value)}")


def equal(first: Any, *others: Any) -> bool:
    """Whether the first equals any of the others."""
    if not others:
        raise CallError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return one is two
    if isinstance(one, (list, tuple, dict)) or isinstance(two, (list, tuple, dict)):
        raise CallError("non-comparable type for comparison")
    _comparable(one, two)
    return bool(one == two)


def _comparable(one: Any, two: Any) -> None:
    text = isinstance(one, str), isinstance(two, str)
    logical = isinstance(one, bool), isinstance(two, bool)
    if text[0] != text[1] or logical[0] != logical[1]:
        raise CallError(f"incompatible types for comparison: {kind(one)} and {kind(two)}")


def less(one: Any, two: Any) -> bool:
    """one < two for numbers and strings."""
    ordered = (int, float, str)
    if not isinstance(one, ordered) or not isinstance(two, ordered) or isinstance(one, bool):
        raise CallError(f"invalid type for comparison: {kind(one)} and {kind(two)}")
    _comparable(one, two)
    return bool(one < two)  # type: ignore[operator]


def print_(*values: Any) -> str:
    """Go's fmt.Sprint: spaces between operands when neither is a string."""
    parts: list[str] = []
    for at, value in enumerate(values):
        if at and not isinstance(value, str) and not isinstance(values[at - 1], str):
            parts.append(" ")
        parts.append(show(value))
    return "".join(parts)


def println(*values: Any) -> str:
    """Spaces between all, a line break at the end."""
    return " ".join(show(value) for value in values) + "\n"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise CallError(f"wrong type for value; expected string; got {kind(value)}")
    return value


def join(items: Any, separator: Any = "") -> str:
    """The items' text with the separator between."""
    if not isinstance(items, (list, tuple)):
        if not items:
            return ""
        raise CallError(f"wrong type for value; expected []string; got {kind(items)}")
    return _text(separator).join(show(item) for item in items)


def split(text: Any, separator: Any) -> list[str]:
    """The parts between separators."""
    words, cut = _text(text), _text(separator)
    return words.split(cut) if cut else list(words)


def title(text: Any) -> str:
    """The First Letter Of Each Word in capitals."""
    result, start = [], True
    for letter in _text(text):
        result.append(letter.upper() if start else letter)
        start = not (letter.isalnum() or letter in "_'")
    return "".join(result)


def pad(text: Any, before: Any, after: Any) -> str:
    """Spaces around a text that is not empty."""
    words = _text(text)
    limit = 4096
    if not isinstance(before, int) or not isinstance(after, int) or max(before, after) > limit:
        raise CallError("pad takes two whole numbers")
    return " " * before + words + " " * after if words else words


def truncate(text: Any, width: Any) -> str:
    """The first characters."""
    if not isinstance(width, int) or width < 0:
        raise CallError("truncate takes a whole number")
    return _text(text)[:width]


def _not(value: Any) -> bool:
    return not truth(value)


FUNCTIONS: dict[str, Callable[..., Any] | None] = {
    # These two do not evaluate more arguments than they need; the evaluator has them.
    "and": None,
    "or": None,
    "not": _not,
    "eq": equal,
    "ne": lambda one, two: not equal(one, two),
    "lt": less,
    "le": lambda one, two: not less(two, one),
    "gt": lambda one, two: less(two, one),
    "ge": lambda one, two: not less(one, two),
    "len": length,
    "index": index,
    "slice": slice_,
    "print": print_,
    "println": println,
    "printf": lambda form, *values: printf(_text(form), *values),
    "html": lambda *values: html.escape(print_(*values)),
    "urlquery": lambda *values: quote(print_(*values)).replace("%20", "+"),
    "js": lambda *values: quoted(print_(*values))[1:-1],
    "json": json,
    "join": join,
    "split": split,
    "upper": lambda text: _text(text).upper(),
    "lower": lambda text: _text(text).lower(),
    "title": title,
    "pad": pad,
    "truncate": truncate,
}

HEADER_FUNCTIONS = ("json", "join", "split", "upper", "lower", "title", "truncate")
"""In a table's heading these give their first argument back, so that headings stay as they are."""
