"""Words of a Dockerfile: quotes, escapes and variables (Dockerfile reference, "Environment
replacement").

    $name ${name} ${name:-word} ${name-word} ${name:+word} ${name+word} ${name:?word} ${name?word}
    ${name#pattern} ${name##pattern} ${name%pattern} ${name%%pattern} ${name/pattern/new}
    ${name//pattern/new}

Hostile text: nesting is limited in depth, results in size, and patterns are matched without
backtracking.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from skerry.build.language import patterns
from skerry.build.language.faults import DockerfileFault

MAX_DEPTH: Final = 100
MAX_SIZE: Final = 4 << 20
"""Characters of one expanded word: `ENV A=$A$A` doubles with every line."""
_SPECIAL: Final = frozenset("@*#?-$!0123456789")
_MATCHING: Final = "-+?#%"


class Expanded(NamedTuple):
    """The result, and which variables were asked for (`unset` of them had no value)."""

    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]

    @property
    def word(self) -> str:
        """All of it as one word."""
        return self.words[0] if self.words else ""


class Lexer:
    """Expands by one file's rules. `escape` is the escape character.

    `keep_unset` leaves `$name` as it is when there is no such variable; `keep_quotes` and
    `keep_escapes` leave those in the result (the parser looks for here-documents so). With
    `plain_quotes` quotes are characters as others: in the contents of a here-document.
    """

    def __init__(
        self,
        escape: str = "\\",
        *,
        keep_unset: bool = False,
        keep_quotes: bool = False,
        keep_escapes: bool = False,
        plain_quotes: bool = False,
    ) -> None:
        self.escape = escape
        self.plain_quotes = plain_quotes
        self.keep_unset = keep_unset
        self.keep_quotes = keep_quotes
        self.keep_escapes = keep_escapes

    def word(self, text: str, variables: Mapping[str, str]) -> str:
        """One value, not split at spaces. DockerfileFault without a place."""
        return self.expand(text, variables).word

    def words(self, text: str, variables: Mapping[str, str]) -> tuple[str, ...]:
        """Split at unquoted spaces, those of expanded variables too."""
        return self.expand(text, variables, split=True).words

    def expand(self, text: str, variables: Mapping[str, str], *, split: bool = False) -> Expanded:
        """As `word` or `words`, with the variables that were asked for."""
        if not split and not any(char in text for char in ("$", "'", '"', self.escape)):
            return Expanded((text,), frozenset(), frozenset())
        scan = _Scan(self, text, variables)
        whole, words = scan.until("", raw=self.keep_escapes)
        used, unset = frozenset(scan.used), frozenset(scan.unset)
        return Expanded(tuple(words) if split else (whole,), used, unset)


class _Words:
    """Collects words the way a shell splits them: what was quoted is never split."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._part: list[str] = []
        self._open = False

    def plain(self, char: str) -> None:
        if char.isspace():
            self.end()
        else:
            self._part.append(char)
            self._open = True

    def quoted(self, text: str) -> None:
        self._part.append(text)
        self._open = True

    def expanded(self, text: str) -> None:
        for char in text:
            self.plain(char)

    def end(self) -> list[str]:
        if self._open:
            self.done.append("".join(self._part))
            self._part, self._open = [], False
        return self.done


class _Scan:
    """One text being read."""

    def __init__(self, lexer: Lexer, text: str, variables: Mapping[str, str]) -> None:
        self.lexer = lexer
        self.text = text
        self.place = 0
        self.variables = variables
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self._depth = 0
        self._size = 0

    def _peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def _next(self) -> str:
        char = self.text[self.place : self.place + 1]
        self.place += 1
        return char

    def until(self, stop: str, *, raw: bool) -> tuple[str, list[str]]:
        """Up to an unquoted `stop` (which is taken), or the end when `stop` is empty.

        `raw` keeps escape characters: the text is a pattern.
        """
        found: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self.place += 1
                return "".join(found), words.end()
            if self.lexer.plain_quotes and char in "'\"":
                part = self._next()
                words.plain(part)
            elif char == "'":
                part = self._single()
                words.quoted(part)
            elif char == '"':
                part = self._double()
                words.quoted(part)
            elif char == "$":
                part = self._dollar()
                words.expanded(part)
            else:
                part = self._next()
                if part == self.lexer.escape:
                    following = self._next()
                    part = part + following if raw or self.lexer.keep_escapes else following
                    words.quoted(part)
                else:
                    words.plain(part)
            self._grow(part)
            found.append(part)
        if stop:
            raise DockerfileFault(f"syntax error: missing '{stop}'")
        return "".join(found), words.end()

    def _grow(self, part: str) -> None:
        self._size += len(part)
        if self._size > MAX_SIZE:
            raise DockerfileFault(f"expands to more than {MAX_SIZE} characters")

    def _single(self) -> str:
        end = self.text.find("'", self.place + 1)
        if end < 0:
            raise DockerfileFault(
                "unexpected end of statement while looking for matching single-quote"
            )
        found = self.text[self.place + 1 : end]
        self.place = end + 1
        return f"'{found}'" if self.lexer.keep_quotes else found

    def _double(self) -> str:
        self.place += 1
        found: list[str] = []
        while char := self._peek():
            if char == '"':
                self.place += 1
                inner = "".join(found)
                return f'"{inner}"' if self.lexer.keep_quotes else inner
            if char == "$":
                part = self._dollar()
            else:
                part = self._next()
                if part == self.lexer.escape:
                    following = self._next()
                    plain = following in ('"', "$", self.lexer.escape)
                    kept = self.lexer.keep_escapes or not plain
                    part = part + following if kept else following
            self._grow(part)
            found.append(part)
        raise DockerfileFault("unexpected end of statement while looking for matching double-quote")

    def _name(self) -> str:
        start = self.place
        if self._peek() in _SPECIAL:
            self.place += 1
            return self.text[start : self.place]
        while (char := self._peek()) and (char == "_" or (char.isascii() and char.isalnum())):
            self.place += 1
        return self.text[start : self.place]

    def _value(self, name: str) -> str | None:
        self.used.add(name)
        value = self.variables.get(name)
        if value is None:
            self.unset.add(name)
        return value

    def _dollar(self) -> str:
        self.place += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            if value is None:
                return f"${name}" if self.lexer.keep_unset else ""
            return value
        start = self.place - 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise DockerfileFault(f"variables are nested deeper than {MAX_DEPTH}")
        try:
            return self._braces(start)
        finally:
            self._depth -= 1

    def _braces(self, start: int) -> str:
        self.place += 1
        if not self._peek():
            raise DockerfileFault("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise DockerfileFault("syntax error: bad substitution")
        name = self._name()
        char = self._next()
        modifier = char
        if char == "}":
            value = self._value(name)
            if value is None and self.lexer.keep_unset:
                return self.text[start : self.place]
            return value or ""
        if char == ":":
            char = self._next()
            modifier += char
            if char in "#%":
                raise DockerfileFault(f"unsupported modifier ({modifier}) in substitution")
        if char and char in _MATCHING:
            return self._modified(name, char, start, colon=len(modifier) == 2)
        if char == "/" and modifier == "/":
            return self._replaced(name, start)
        if not char:
            raise DockerfileFault("syntax error: missing '}'")
        raise DockerfileFault(f"unsupported modifier ({modifier}) in substitution")

    def _modified(self, name: str, char: str, start: int, *, colon: bool) -> str:
        pattern = char in "#%"
        word, _ = self.until("}", raw=pattern)
        value = self._value(name)
        missing = value is None or (colon and not value)
        if char == "-":
            self.unset.discard(name)
            return word if missing else value or ""
        if char == "+":
            self.unset.discard(name)
            return "" if missing else word
        if char == "?":
            if not missing:
                return value or ""
            why = "is not allowed to be unset" if value is None else "is not allowed to be empty"
            raise DockerfileFault(f"{name}: {word or why}")
        if value is None:
            return self.text[start : self.place] if self.lexer.keep_unset else ""
        longest = word[:1] == char
        made = patterns.Pattern(word[1:] if longest else word, self.lexer.escape)
        cut = made.without_prefix if char == "#" else made.without_suffix
        return cut(value, longest=longest)

    def _replaced(self, name: str, start: int) -> str:
        every = self._peek() == "/"
        if every:
            self.place += 1
        pattern, _ = self.until("/", raw=True)
        replacement, _ = self.until("}", raw=True)
        value = self._value(name)
        if value is None:
            return self.text[start : self.place] if self.lexer.keep_unset else ""
        made = patterns.Pattern(pattern, self.lexer.escape)
        return made.replace(value, replacement.replace(self.lexer.escape, ""), every=every)
