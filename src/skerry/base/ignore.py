"""The rules of .dockerignore (Dockerfile reference, ".dockerignore file"): Go's filepath.Match with
`**`, exceptions by `!`, the last rule that matches counts, and a rule for a directory holds for
what is in it.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.light import Final, NamedTuple

MAX_BYTES: Final = 1 << 20
MAX_PATTERNS: Final = 20_000
MAX_PATTERN: Final = 4096


_STAR: Final = "[^/]*"
_DEEP: Final = "(?:.*/)?"
_ALL: Final = ".*"
_WILD: Final = (_STAR, _DEEP, _ALL)


class Rule(NamedTuple):
    """One pattern. `regex` matches whole paths."""

    pattern: str
    exception: bool
    regex: "re.Pattern[str] | _States"


class Matcher:
    """Rules in order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._exceptions = [each.pattern for each in rules if each.exception]
        self._known: dict[str, tuple[bool, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excluded(self, path: str, is_dir: bool = False) -> bool:
        """Whether a path below the context (no leading slash) is left out."""
        out = False
        matches = self._matches(path)
        for rule, hit in zip(self._rules, matches, strict=True):
            if hit:
                out = not rule.exception
        return out

    def prunable(self, path: str) -> bool:
        """Whether nothing below an excluded directory can come back by an exception."""
        if not self._exceptions:
            return True
        parts = path.split("/")
        return not any(_may_lie_below(pattern.split("/"), parts) for pattern in self._exceptions)

    def _matches(self, path: str) -> tuple[bool, ...]:
        """By rule: whether it matches the path or one of its parents."""
        parent = posixpath.dirname(path)
        above = self._above(parent) if parent else None
        return tuple(
            (above is not None and above[number]) or rule.regex.fullmatch(path) is not None
            for number, rule in enumerate(self._rules)
        )

    def _above(self, directory: str) -> tuple[bool, ...]:
        found = self._known.get(directory)
        if found is None:
            found = self._matches(directory)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[directory] = found
        return found


def _may_lie_below(pattern: list[str], parts: list[str]) -> bool:
    """Whether a pattern could match something in the directory `parts`."""
    for number, part in enumerate(parts):
        if number >= len(pattern):
            return False
        if "**" in pattern[number]:
            return True
        if _translate(pattern[number]).fullmatch(part) is None:
            return False
    return len(pattern) > len(parts)


def read(data: bytes) -> list[str]:
    """The patterns of a file: comments and empty lines left out. LimitExceeded."""
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f".dockerignore has {len(data)} bytes, at most {MAX_BYTES} are read")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    found = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        exception = pattern.startswith("!")
        if exception:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        found.append(f"!{pattern}" if exception else pattern)
    return found


def compile_rules(patterns: Iterable[str]) -> Matcher:
    """A matcher of patterns as `read` gives them, or as an `--exclude` has them. InvalidInput for
    a malformed one."""
    rules = []
    for given in patterns:
        pattern = given.strip()
        if not pattern:
            continue
        exception = pattern.startswith("!")
        bare = pattern[1:] if exception else pattern
        if not bare:
            raise InvalidInput(f"illegal exclusion pattern: {given!r}")
        if len(bare) > MAX_PATTERN:
            raise LimitExceeded(f"a pattern of .dockerignore is longer than {MAX_PATTERN}")
        bare = _clean(bare)
        try:
            rules.append(Rule(bare, exception, _translate(bare)))
        except re.error as error:
            raise InvalidInput(f"syntax error in pattern {given[:80]!r}: {error}") from None
        if len(rules) > MAX_PATTERNS:
            raise LimitExceeded(f"more than {MAX_PATTERNS} patterns in .dockerignore")
    return Matcher(rules)


def _clean(pattern: str) -> str:
    """Go's filepath.Clean: two slashes at the beginning are one."""
    cleaned = posixpath.normpath(pattern)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def _tokens(pattern: str) -> list[str]:
    """The pattern as regular expressions of one character each, and the three wildcards."""
    made: list[str] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            double = False
            while pattern[place : place + 1] == "*":
                double = True
                place += 1
            token = _STAR
            if double:
                if pattern[place : place + 1] == "/":
                    place += 1
                token = _DEEP if place < len(pattern) else _ALL
            if made[-1:] != [token]:
                made.append(token)
        elif char == "?":
            made.append("[^/]")
        elif char == "\\":
            if place >= len(pattern):
                raise InvalidInput(f"syntax error in pattern {pattern[:80]!r}")
            made.append(re.escape(pattern[place]))
            place += 1
        elif char == "[":
            text, place = _class(pattern, place)
            made.append(text)
        else:
            made.append(re.escape(char))
    return made


def _translate(pattern: str) -> "re.Pattern[str] | _States":
    """What matches whole paths, in time that grows with the path only.

    A regular expression where it is safe: between two stars of one name the first fit is as good
    as any (an atomic group says so), and a single `**` is tried once a position. Several of them
    would be tried in every combination; those patterns are followed state by state.
    """
    tokens = _tokens(pattern)
    if tokens.count(_DEEP) > 1:
        return _States(tokens)
    made: list[str] = []
    chunk: list[str] = []
    starred = False
    for token in [*tokens, ""]:
        if token not in _WILD and token != "/" and token:
            chunk.append(token)
            continue
        # Atomic only if another star of the same name follows: it takes what is left.
        text = "".join(chunk)
        if starred:
            text = f"(?>[^/]*?{text})" if token == _STAR else f"[^/]*{text}"
        made.append(text)
        chunk, starred = [], token == _STAR
        if token and not starred:
            made.append(token)
    return re.compile("".join(made), re.DOTALL)


class _States:
    """A pattern followed through all its possibilities at once."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = [
            token if token in _WILD else re.compile(token, re.DOTALL) for token in tokens
        ]

    def fullmatch(self, path: str) -> "_States | None":
        """Itself when the whole path matches."""
        # (token, whether inside its `.*`): a _DEEP is left behind a slash only.
        states = self._closed({(0, False)})
        for char in path:
            following: set[tuple[int, bool]] = set()
            for at, _inside in states:
                if at == len(self._tokens):
                    continue
                token = self._tokens[at]
                if isinstance(token, re.Pattern):
                    if token.fullmatch(char):
                        following.add((at + 1, False))
                elif token == _STAR:
                    if char != "/":
                        following.add((at, False))
                elif token == _ALL:
                    following.add((at, False))
                else:
                    following.add((at, True))
                    if char == "/":
                        following.add((at + 1, False))
            states = self._closed(following)
            if not states:
                return None
        return self if (len(self._tokens), False) in states else None

    def _closed(self, states: set[tuple[int, bool]]) -> set[tuple[int, bool]]:
        result = set(states)
        for at, inside in states:
            while not inside and at < len(self._tokens) and self._tokens[at] in _WILD:
                at += 1
                result.add((at, False))
        return result


def _class(pattern: str, place: int) -> tuple[str, int]:
    """A character class behind its `[`."""
    end = place
    negated = pattern[end : end + 1] == "^"
    if negated:
        end += 1
    ranges: list[str] = []
    while True:
        if end >= len(pattern):
            raise InvalidInput(f"syntax error in pattern {pattern[:80]!r}: missing ]")
        if pattern[end] == "]" and ranges:
            return f"[{'^/' if negated else ''}{''.join(ranges)}]", end + 1
        low, end = _char(pattern, end)
        high = low
        if pattern[end : end + 1] == "-":
            high, end = _char(pattern, end + 1)
        if high < low:
            raise InvalidInput(f"syntax error in pattern {pattern[:80]!r}: bad range")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")


def _char(pattern: str, place: int) -> tuple[str, int]:
    char = pattern[place : place + 1]
    if char == "\\":
        place += 1
        char = pattern[place : place + 1]
    elif char in ("-", "]"):
        char = ""
    if not char:
        raise InvalidInput(f"syntax error in pattern {pattern[:80]!r}")
    return char, place + 1
