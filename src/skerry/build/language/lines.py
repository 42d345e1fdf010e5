"""From bytes to logical lines: directives, comments, continuation lines, here-documents.

The order matters and is BuildKit's: a byte order mark goes first; directives count only before
anything else; a comment inside a continued line vanishes, an empty one is passed over with a
remark; here-documents are looked for in ADD, COPY and RUN (also behind ONBUILD) and only outside
the JSON form.
"""

import re
from typing import Final, NamedTuple

from skerry.base.errors import LimitExceeded
from skerry.build.language.arrays import json_list
from skerry.build.language.faults import DockerfileFault
from skerry.build.language.instructions import Check, HereDocument, Remark
from skerry.build.language.lexer import Lexer
from skerry.build.language.position import Span

MAX_BYTES: Final = 16 << 20
MAX_LINES: Final = 500_000
MAX_LOGICAL: Final = 1 << 20
"""Characters of one instruction, here-documents apart."""

_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(\S.*?)[ \t]*")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)", re.DOTALL)
_HEREDOC_WORDS = frozenset(("ADD", "COPY", "RUN"))
_ONBUILD = re.compile(r"ONBUILD\s+", re.IGNORECASE)


class Line(NamedTuple):
    """One logical line. `starts` maps an offset in `text` to its physical line, for columns."""

    text: str
    span: Span
    comments: tuple[str, ...] = ()
    documents: tuple[HereDocument, ...] = ()
    starts: tuple[tuple[int, int, int], ...] = ()
    """(offset in `text`, physical line, column there) of every joined piece."""

    def place(self, offset: int, length: int = 0) -> Span:
        """Where a part of the text stands in the file."""
        found = (0, self.span.line, 1)
        for start in self.starts:
            if start[0] > offset:
                break
            found = start
        column = found[2] + offset - found[0]
        return Span(found[1], found[1], column, column + length if length else 0)


class Text(NamedTuple):
    """A file in logical lines."""

    logical: tuple[Line, ...]
    physical: tuple[str, ...]
    escape: str
    syntax: str
    check: Check
    remarks: tuple[Remark, ...]


def read(data: bytes) -> Text:
    """The logical lines. DockerfileFault, LimitExceeded."""
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"the Dockerfile has {len(data)} bytes, at most {MAX_BYTES} are read")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    physical = tuple(line.removesuffix("\r") for line in text.split("\n"))
    if physical[-1] == "":
        physical = physical[:-1]
    if len(physical) > MAX_LINES:
        raise LimitExceeded(f"the Dockerfile has {len(physical)} lines, at most {MAX_LINES}")
    directives = _directives(physical)
    try:
        return _Reader(physical, directives).read()
    except DockerfileFault as fault:
        raise fault.within(physical) from None


def _directives(physical: tuple[str, ...]) -> dict[str, str]:
    """`# syntax=`, `# escape=`, `# check=`, before anything else in the file."""
    found: dict[str, str] = {}
    for number, line in enumerate(physical, 1):
        # A shebang may stand above them.
        if number == 1 and line.startswith("#!"):
            continue
        match = _DIRECTIVE.fullmatch(line.strip(" \t"))
        name = match[1].lower() if match else ""
        if match is None or name not in ("syntax", "escape", "check"):
            break
        if name in found:
            raise DockerfileFault(
                f"only one {name} parser directive can be used", Span(number, number)
            ).within(physical)
        found[name] = match[2]
        if name == "escape" and match[2] not in ("\\", "`"):
            raise DockerfileFault(
                f"invalid escape token '{match[2]}' does not match ` or \\", Span(number, number)
            ).within(physical)
    return found


def _check(value: str) -> Check:
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    skip_all = error = False
    for part in value.split(";"):
        key, _, given = part.strip().partition("=")
        if key.lower() == "skip":
            skip = _names(given)
            skip_all = "all" in skip
        elif key.lower() == "experimental":
            experimental = _names(given)
        elif key.lower() == "error":
            error = given.strip().lower() in ("true", "1", "t")
        else:
            raise DockerfileFault(f"invalid check option {key!r}", Span(1, 1))
    return Check(skip, error, skip_all, experimental)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


class _Reader:
    """Goes over the physical lines once."""

    def __init__(self, physical: tuple[str, ...], directives: dict[str, str]) -> None:
        self._lines = physical
        self._directives = directives
        self._escape = directives.get("escape", "\\")
        escape = re.escape(self._escape)
        self._continued = re.compile(rf"(?:(?<!{escape})|^){escape}[ \t]*$")
        self._at = 0
        self._remarks: list[Remark] = []

    def read(self) -> Text:
        logical = []
        comments: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at].lstrip(" \t\v\f")
            if line.startswith("#"):
                comments.append(line[1:].strip())
                self._at += 1
                continue
            if not line.strip():
                comments = []
                self._at += 1
                continue
            made = self._logical(tuple(comments))
            comments = []
            if made.text.strip():
                logical.append(_as_text(self._with_documents(made)))
        if not logical:
            raise DockerfileFault("file with no instructions", Span(1, 1))
        return Text(
            tuple(logical),
            self._lines,
            self._escape,
            self._directives.get("syntax", ""),
            _check(self._directives["check"]) if "check" in self._directives else Check(),
            tuple(self._remarks),
        )

    def _logical(self, comments: tuple[str, ...]) -> Line:
        first = self._at
        raw = self._lines[self._at]
        text = raw.lstrip(" \t\v\f")
        starts = [(0, first + 1, len(raw) - len(text) + 1)]
        self._at += 1
        text, goes_on = self._cut(text)
        parts, length = [text], len(text)
        empty = 0
        while goes_on and self._at < len(self._lines):
            piece = self._lines[self._at]
            self._at += 1
            if piece.lstrip().startswith("#"):
                continue
            if not piece.strip():
                empty = empty or self._at
                continue
            piece, goes_on = self._cut(piece)
            starts.append((length, self._at, 1))
            parts.append(piece)
            length += len(piece)
            if length > MAX_LOGICAL:
                raise DockerfileFault(
                    f"an instruction is longer than {MAX_LOGICAL} characters",
                    Span(first + 1, self._at),
                )
        span = Span(first + 1, self._at, starts[0][2])
        if length > MAX_LOGICAL:
            raise DockerfileFault(f"an instruction is longer than {MAX_LOGICAL} characters", span)
        if empty:
            where = Span(first + 1, self._at)
            self._remarks.append(Remark("NoEmptyContinuation", "", where))
        joined = "".join(parts)
        return Line(joined.rstrip(), span, comments, (), tuple(starts))

    def _cut(self, line: str) -> tuple[str, bool]:
        match = self._continued.search(line)
        return (line[: match.start()], True) if match else (line, False)

    def _with_documents(self, line: Line) -> Line:
        if "<<" not in line.text:
            return line
        text = _ONBUILD.sub("", line.text, count=1) if _ONBUILD.match(line.text) else line.text
        word, _, rest = text.partition(" ")
        if word.upper() not in _HEREDOC_WORDS or json_list(rest.lstrip()) is not None:
            return line
        found = here_documents(line.text, self._escape)
        if not found:
            return line
        read = [each._replace(content=self._content(each, line)) for each in found]
        span = Span(line.span.line, self._at, line.span.column)
        return line._replace(documents=tuple(read), span=span)

    def _content(self, document: HereDocument, line: Line) -> str:
        taken: list[str] = []
        while self._at < len(self._lines):
            text = self._lines[self._at]
            self._at += 1
            if document.chomp:
                text = text.lstrip("\t")
            if text == document.name:
                return "".join(taken)
            taken.append(text + "\n")
        raise DockerfileFault("unterminated heredoc", line.span)


def _as_text(line: Line) -> Line:
    """Itself. Comments may be of any bytes; what goes into an image's configuration is text."""
    for text in (line.text, *(each.content for each in line.documents)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = line.place(error.start, 1) if text is line.text else line.span
            raise DockerfileFault(
                f"not UTF-8: byte 0x{ord(text[error.start]) - 0xDC00:02x}",
                place,
                hint="save the Dockerfile as UTF-8",
            ) from None
    return line


def here_documents(text: str, escape: str = "\\") -> list[HereDocument]:
    """The `<<NAME` words of a line, without their contents."""
    keep = Lexer(escape, keep_unset=True, keep_quotes=True, keep_escapes=True)
    try:
        words = keep.words(text, {})
    except DockerfileFault:
        # Quotes of a shell's own: no here-document can be told apart.
        return []
    found = []
    for word in words:
        document = here_document(word, escape)
        if document is not None:
            found.append(document)
    return found


def here_document(word: str, escape: str = "\\") -> HereDocument | None:
    """A word as the head of a here-document, or None."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    bare = Lexer(escape, keep_unset=True)
    keep = Lexer(escape, keep_unset=True, keep_quotes=True, keep_escapes=True)
    try:
        names = bare.words(match[3], {})
        raw = keep.words(match[3], {})
    except DockerfileFault:
        return None
    if len(names) != 1 or len(raw) != 1 or not names[0]:
        return None
    descriptor = int(match[1][:9]) if match[1] else 0
    return HereDocument(names[0], "", names[0] == raw[0], bool(match[2]), descriptor)
