"""Values as Go's fmt prints them: %v, and printf's verbs."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_WIDTH = 4096
"""A field's width in printf; wider ones would let a template fill the memory."""


class Nil:
    """A nil of Go that has a type: it prints as `text`, is false, and holds nothing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return 0


def show(value: Any) -> str:
    """%v: what {{.}} prints; None is `<no value>`."""
    return "<no value>" if value is None else _inner(value)


def _inner(value: Any) -> str:
    if value is None:
        return "<nil>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


def quoted(text: str) -> str:
    """Go's strconv.Quote, which differs from JSON only where nobody looks."""
    return json.dumps(text, ensure_ascii=False)


def kind(value: Any) -> str:
    """A value's type as Go's messages call it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    names = {int: "int", float: "float64", str: "string", list: "[]interface {}",
             tuple: "[]interface {}", dict: "map[string]interface {}"}  # fmt: skip
    return names.get(type(value), type(value).__name__)


def printf(form: str, *values: Any) -> str:
    """Go's fmt.Sprintf for the verbs v s d q t f e g x X o b c and %%."""
    parts: list[str] = []
    at, used = 0, 0
    while at < len(form):
        percent = form.find("%", at)
        if percent < 0:
            parts.append(form[at:])
            break
        parts.append(form[at:percent])
        at = percent + 1
        flags = ""
        while at < len(form) and form[at] in "+-# 0":
            flags += form[at]
            at += 1
        width, at = _digits(form, at)
        precision = None
        if form[at : at + 1] == ".":
            precision, at = _digits(form, at + 1)
            precision = precision or 0
        verb = form[at : at + 1]
        at += 1
        if verb == "%":
            parts.append("%")
        elif not verb:
            parts.append("%!(NOVERB)")
        elif used >= len(values):
            parts.append(f"%!{verb}(MISSING)")
        else:
            parts.append(_pad(_verb(verb, values[used], flags, precision), width or 0, flags))
            used += 1
    if used < len(values):
        extra = ", ".join(f"{kind(value)}={show(value)}" for value in values[used:])
        parts.append(f"%!(EXTRA {extra})")
    return "".join(parts)


def _digits(form: str, at: int) -> tuple[int | None, int]:
    end = at
    while end < len(form) and form[end].isascii() and form[end].isdigit():
        end += 1
    return (min(int(form[at:end][:9]), MAX_WIDTH) if end > at else None), end


def _pad(text: str, width: int, flags: str) -> str:
    if len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and text.lstrip("+-")[:1].isdigit():
        sign = text[:1] if text[:1] in "+-" else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _verb(verb: str, value: Any, flags: str, precision: int | None) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    plus = "+" if "+" in flags else ""
    if verb == "v":
        return _inner(value)
    if verb == "T":
        return kind(value)
    if verb in "sq" and (isinstance(value, (str, list, tuple, dict))):
        text = _inner(value)
        text = text if precision is None else text[:precision]
        return quoted(text) if verb == "q" else text
    if verb == "t" and isinstance(value, bool):
        return show(value)
    if verb == "d" and number:
        return f"{value:{plus}d}"
    if verb in "xXob" and number:
        return f"{value:{'#' if '#' in flags else ''}{verb}}"
    if verb in "xX" and isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape").hex()
        return text.upper() if verb == "X" else text
    if verb in "cq" and number and 0 <= value < 0x110000:
        return chr(value) if verb == "c" else quoted(chr(value))
    if verb in "feEgG" and isinstance(value, float):
        digits = (
            ""
            if precision is None and verb in "gG"
            else f".{6 if precision is None else precision}"
        )
        if not digits:
            return _float(value)
        return f"{value:{plus}{digits}{verb}}"
    return f"%!{verb}({kind(value)}={show(value)})"
