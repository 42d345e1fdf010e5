"""What stands behind an instruction's word: flags, words, lists, pairs. Pure."""

import json
import re
from typing import Final, NamedTuple

from skerry.build.language.faults import DockerfileFault, suggestion
from skerry.build.language.instructions import Flag
from skerry.build.language.lines import Line
from skerry.build.language.position import Span

MAX_WORDS: Final = 100_000


class Word(NamedTuple):
    """A word as written, quotes kept, and where it begins in the logical line."""

    text: str
    offset: int


class Rest(NamedTuple):
    """What is left of a logical line behind its keyword and flags."""

    line: Line
    offset: int
    text: str
    flags: tuple[Flag, ...]


def split(line: Line, escape: str) -> tuple[str, Rest]:
    """The keyword and what is behind it; flags apart."""
    match = re.match(r"\s*(\S+)\s*", line.text)
    assert match is not None
    keyword = match[1]
    text = line.text[match.end() :]
    flags, taken = _flags(line, text, match.end(), escape)
    left = text[taken:]
    stripped = left.lstrip()
    offset = match.end() + taken + len(left) - len(stripped)
    return keyword, Rest(line, offset, stripped.rstrip(), flags)


def _flags(line: Line, text: str, base: int, escape: str) -> tuple[tuple[Flag, ...], int]:
    """The leading `--name[=value]` words; how much of the text they take."""
    found: list[Flag] = []
    place = 0
    while True:
        start = place + len(text[place:]) - len(text[place:].lstrip())
        if not text.startswith("--", start):
            return tuple(found), place
        value, end = _flag_word(text, start, escape)
        if value == "--":
            return tuple(found), end
        name, equals, given = value[2:].partition("=")
        span = line.place(base + start, end - start)
        found.append(Flag(name, given, span, not equals))
        place = end


def _flag_word(text: str, start: int, escape: str) -> tuple[str, int]:
    made = []
    quote = ""
    place = start
    while place < len(text):
        char = text[place]
        if char == escape and place + 1 < len(text):
            made.append(text[place + 1])
            place += 2
            continue
        if quote:
            if char == quote:
                quote = ""
            else:
                made.append(char)
        elif char in "'\"":
            quote = char
        elif char.isspace():
            break
        else:
            made.append(char)
        place += 1
    return "".join(made), place


def words(rest: Rest, escape: str) -> list[Word]:
    """Split at unquoted spaces; quotes and escapes stay, for the expansion takes them away."""
    text = rest.text
    found: list[Word] = []
    start = -1
    quote = ""
    place = 0
    while place < len(text):
        char = text[place]
        if start < 0:
            if char.isspace():
                place += 1
                continue
            start = place
        if char == escape and quote != "'":
            place += 2
            continue
        if quote:
            if char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char.isspace():
            found.append(Word(text[start:place], rest.offset + start))
            start = -1
        place += 1
    if start >= 0:
        found.append(Word(text[start:], rest.offset + start))
    if len(found) > MAX_WORDS:
        raise DockerfileFault(f"more than {MAX_WORDS} words", rest.line.span)
    return found


def plain_words(rest: Rest) -> list[Word]:
    """Split at any space."""
    found = [
        Word(match[0], rest.offset + match.start()) for match in re.finditer(r"\S+", rest.text)
    ]
    if len(found) > MAX_WORDS:
        raise DockerfileFault(f"more than {MAX_WORDS} words", rest.line.span)
    return found


def pairs(rest: Rest, escape: str, keyword: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    """`name=value …`, or the old `name value`; whether it was the old one."""
    found = words(rest, escape)
    if not found:
        return (), False
    if "=" not in found[0].text:
        parts = rest.text.split(None, 1)
        if len(parts) < 2:
            raise DockerfileFault(f"{keyword} must have two arguments", rest.line.span)
        return ((parts[0], parts[1]),), True
    made = []
    for word in found:
        name, equals, value = word.text.partition("=")
        if not equals:
            raise DockerfileFault(
                f"Syntax error - can't find = in {_quoted(word.text)}. "
                "Must be of the form: name=value",
                rest.line.place(word.offset, len(word.text)),
            )
        if not name:
            raise DockerfileFault(
                f"{keyword} names can not be blank", rest.line.place(word.offset, len(word.text))
            )
        made.append((name, value))
    return tuple(made), False


class FlagSet:
    """The flags of one instruction, asked for by name; `close` refuses the others."""

    def __init__(self, rest: Rest, keyword: str, known: frozenset[str]) -> None:
        self._keyword = keyword
        self._values: dict[str, list[Flag]] = {}
        for flag in rest.flags:
            if flag.name not in known:
                near = suggestion(flag.name, known)
                raise DockerfileFault(
                    f"unknown flag: --{flag.name}{near.replace('mean ', 'mean --')}",
                    flag.span,
                    hint=_known_flags(keyword, known),
                )
            self._values.setdefault(flag.name, []).append(flag)

    def one(self, name: str) -> str:
        """The value; empty when the flag is not there."""
        flags = self._values.get(name, [])
        if not flags:
            return ""
        if len(flags) > 1:
            raise DockerfileFault(f"duplicate flag specified: {name}", flags[1].span)
        if flags[0].bare:
            raise DockerfileFault(f"missing a value on flag: {name}", flags[0].span)
        return flags[0].value

    def many(self, name: str) -> tuple[str, ...]:
        """All values."""
        for flag in self._values.get(name, []):
            if flag.bare:
                raise DockerfileFault(f"missing a value on flag: {name}", flag.span)
        return tuple(flag.value for flag in self._values.get(name, []))

    def switch(self, name: str) -> bool | None:
        """On, off, or None when it is not there."""
        flags = self._values.get(name, [])
        if not flags:
            return None
        if len(flags) > 1:
            raise DockerfileFault(f"duplicate flag specified: {name}", flags[1].span)
        if flags[0].bare:
            return True
        value = flags[0].value.lower()
        if value not in ("true", "false"):
            raise DockerfileFault(
                f"expecting boolean value for flag {name}, not: {flags[0].value}", flags[0].span
            )
        return value == "true"

    def place(self, name: str) -> Span:
        """Where the flag stands first."""
        return self._values[name][0].span


def _known_flags(keyword: str, known: frozenset[str]) -> str:
    if not known:
        return f"{keyword} takes no flags"
    return f"{keyword} takes " + " ".join(f"--{name}" for name in sorted(known))


def _quoted(text: str) -> str:
    return json.dumps(text[:80], ensure_ascii=False)
