"""From a template's text to tokens: literal text, and the words inside {{ }}."""

from __future__ import annotations

from skerry.cli.template.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

TEXT, OPEN, CLOSE, FIELD, VARIABLE, NAME, NUMBER, STRING, PUNCTUATION = (
    "text", "open", "close", "field", "variable", "name", "number", "string", "punctuation",
)  # fmt: skip
MAX_TEMPLATE = 64 * 1024
"""Characters of a template."""
_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b",
            "f": "\f", "v": "\v"}  # fmt: skip
_HEX = {"x": 2, "u": 4, "U": 8}


class Token:
    """One word and where it begins. A FIELD's value has no dot; a VARIABLE's keeps its `$`."""

    __slots__ = ("kind", "offset", "spaced", "value")

    def __init__(self, kind: str, value: str, offset: int, *, spaced: bool = False) -> None:
        self.kind = kind
        self.value = value
        self.offset = offset
        self.spaced = spaced
        """White space stands before it: `.A .B` is two operands, `.A.B` one."""

    def is_(self, value: str) -> bool:
        """Whether it is this punctuation or name."""
        return self.kind in (PUNCTUATION, NAME) and self.value == value


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a template. TemplateError for what cannot be one."""
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"longer than {MAX_TEMPLATE} characters", "", 0)
    at, trim = 0, False
    while at < len(text):
        start = text.find("{{", at)
        literal = text[at:] if start < 0 else text[at:start]
        if trim:
            literal = literal.lstrip(_SPACE)
        if start < 0:
            if literal:
                yield Token(TEXT, literal, at)
            return
        inner = start + 2
        if text[inner : inner + 1] == "-" and text[inner + 1 : inner + 2] in tuple(_SPACE):
            literal = literal.rstrip(_SPACE)
            inner += 1
        if literal:
            yield Token(TEXT, literal, at)
        at, trim = yield from _action(text, start, inner)


def _action(text: str, start: int, at: int) -> Generator[Token, None, tuple[int, bool]]:
    """The tokens of one {{…}}; returns where it ends and whether it trims what follows."""
    stripped = at
    while text[stripped : stripped + 1] in tuple(_SPACE):
        stripped += 1
    if text.startswith("/*", stripped):
        end = text.find("*/", stripped + 2)
        if end < 0:
            raise TemplateError("unclosed comment", text, start)
        at = end + 2
        trim = text.startswith(" -", at)
        at += 2 if trim else 0
        if not text.startswith("}}", at):
            raise TemplateError("comment ends before closing delimiter", text, start)
        return at + 2, trim
    yield Token(OPEN, "{{", start)
    spaced = False
    while True:
        if at >= len(text):
            raise TemplateError("unclosed action", text, start)
        if text.startswith("}}", at):
            yield Token(CLOSE, "}}", at)
            return at + 2, False
        if text[at] in _SPACE:
            if text.startswith("-}}", at + 1):
                yield Token(CLOSE, "}}", at)
                return at + 4, True
            at += 1
            spaced = True
            continue
        token, at = _word(text, at, spaced=spaced)
        yield token
        spaced = False


def _word(text: str, at: int, *, spaced: bool) -> tuple[Token, int]:
    start, letter = at, text[at]
    if letter in '"`':
        value, at = _string(text, at)
        return Token(STRING, value, start, spaced=spaced), at
    if letter == "'":
        value, at = _quoted(text, at, "'")
        if len(value) != 1:
            raise TemplateError("a character constant holds one character", text, start)
        return Token(NUMBER, str(ord(value)), start, spaced=spaced), at
    if letter == "." and _is_letter(text[at + 1 : at + 2]):
        end = _name_end(text, at + 1)
        return Token(FIELD, text[at + 1 : end], start, spaced=spaced), end
    if letter == "$":
        end = _name_end(text, at + 1)
        return Token(VARIABLE, text[at:end], start, spaced=spaced), end
    if _is_letter(letter):
        end = _name_end(text, at)
        return Token(NAME, text[at:end], start, spaced=spaced), end
    if letter.isdecimal() or (letter in "+-." and text[at + 1 : at + 2].isdecimal()):
        end = at + 1
        while end < len(text) and (
            text[end].isalnum()
            or text[end] in "._"
            or (text[end] in "+-" and text[end - 1] in "eE")
        ):
            end += 1
        return Token(NUMBER, text[at:end], start, spaced=spaced), end
    if text.startswith(":=", at):
        return Token(PUNCTUATION, ":=", start, spaced=spaced), at + 2
    if letter in "().|,=":
        return Token(PUNCTUATION, letter, start, spaced=spaced), at + 1
    raise TemplateError(f"unexpected {letter!r} in action", text, at)


def _is_letter(letter: str) -> bool:
    return letter == "_" or letter.isalpha()


def _name_end(text: str, at: int) -> int:
    while at < len(text) and (text[at] == "_" or text[at].isalnum()):
        at += 1
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at] == "`":
        end = text.find("`", at + 1)
        if end < 0:
            raise TemplateError("unterminated raw quoted string", text, at)
        return text[at + 1 : end], end + 1
    return _quoted(text, at, '"')


def _quoted(text: str, start: int, quote: str) -> tuple[str, int]:
    parts: list[str] = []
    at = start + 1
    while True:
        letter = text[at : at + 1]
        if letter in ("", "\n"):
            raise TemplateError("unterminated quoted string", text, start)
        at += 1
        if letter == quote:
            return "".join(parts), at
        if letter == "\\":
            letter, at = _escape(text, at)
        parts.append(letter)


def _escape(text: str, at: int) -> tuple[str, int]:
    letter = text[at : at + 1]
    if letter in _HEX:
        digits = text[at + 1 : at + 1 + _HEX[letter]]
        try:
            if len(digits) != _HEX[letter] or not digits.isalnum():
                raise ValueError
            return chr(int(digits, 16)), at + 1 + len(digits)
        except (ValueError, OverflowError):
            raise TemplateError("malformed escape in string", text, at) from None
    if letter not in _ESCAPES or not letter:
        raise TemplateError("unknown escape in string", text, at)
    return _ESCAPES[letter], at + 1
