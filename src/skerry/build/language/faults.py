"""What is wrong with a Dockerfile: the place, the source around it, what may have been meant."""

import difflib
from collections.abc import Iterable, Sequence

from skerry.base.errors import InvalidInput
from skerry.build.language.position import Span

_SHOWN = 2
_WIDTH = 160


class DockerfileFault(InvalidInput):
    """The Dockerfile cannot be meant so. `span` is the place, when one is known.

    The message begins with Docker's `dockerfile parse error on line N`; `excerpt` holds the source
    around the place.
    """

    def __init__(self, reason: str, span: Span | None = None, *, hint: str = "") -> None:
        where = ""
        if span is not None:
            last = f"-{span.end_line}" if span.end_line > span.line else ""
            where = f"dockerfile parse error on line {span.line}{last}: "
        super().__init__(where + reason, hint=hint)
        self.reason = reason
        self.span = span
        self.excerpt = ""

    def within(self, source: Sequence[str], name: str = "Dockerfile") -> "DockerfileFault":
        """Itself, with the lines around its place, the guilty column marked."""
        if self.span is not None and not self.excerpt:
            self.excerpt = excerpt(source, self.span, name)
            self.hint = f"{self.excerpt}\n{self.hint}" if self.hint else self.excerpt
        return self


def excerpt(source: Sequence[str], span: Span, name: str = "Dockerfile") -> str:
    """The lines around a place: guilty ones marked with `>>>`, the column with `^`.

    Control characters of the source are shown as `?`: they could drive the reader's terminal.
    """
    first = max(1, span.line - _SHOWN)
    last = min(len(source), max(span.line, min(span.end_line, span.line + 2 * _SHOWN)) + _SHOWN)
    shown = [f"{name}:{span.line}:{span.column}", "-" * 20]
    for number in range(first, last + 1):
        text = source[number - 1].rstrip("\r\n").expandtabs(1)[:_WIDTH]
        clean = "".join(char if char.isprintable() else "?" for char in text)
        mark = ">>>" if span.line <= number <= span.end_line else "   "
        shown.append(f"{number:4} | {mark} {clean}".rstrip())
        if number == span.line and (span.column > 1 or span.end_column):
            width = max(1, (span.end_column or span.column + 1) - span.column)
            if span.column <= _WIDTH:
                shown.append(" " * (4 + 3 + 4 + span.column - 1) + "^" * min(width, _WIDTH))
    shown.append("-" * 20)
    return "\n".join(shown)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` when a known word is near, else nothing."""
    near = difflib.get_close_matches(word[:64], list(known), 1, 0.6)
    return f" (did you mean {near[0]}?)" if near else ""
