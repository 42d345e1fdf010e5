"""From tokens to a tree.

Nodes are tuples whose first item names them and whose second is the offset in the text:

    ("text", at, string)                      ("action", at, pipe)
    ("if" | "with", at, pipe, then, other)    ("range", at, pipe, body, other)
    ("break", at) ("continue", at)
    pipe:    ("pipe", at, declared names, is assignment, commands)
    command: ("command", at, operands)
    operand: ("dot", at) ("nil", at) ("constant", at, value) ("function", at, name)
             ("variable", at, name) ("pipe", …) ("chain", at, operand, names)
"""

from __future__ import annotations

from skerry.cli.template.errors import TemplateError
from skerry.cli.template.functions import FUNCTIONS
from skerry.cli.template.lexer import (
    CLOSE,
    FIELD,
    NAME,
    NUMBER,
    OPEN,
    PUNCTUATION,
    STRING,
    TEXT,
    VARIABLE,
    Token,
    tokens,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]

MAX_DEPTH = 50
"""Nested blocks and parentheses."""
_END = Token(CLOSE, "end of template", 0)


def parse_nodes(text: str) -> tuple[str, list[Node]]:
    """(text, nodes) of a template; TemplateError with the place of what is wrong."""
    parser = _Parser(text)
    nodes, end = parser.block(0)
    if end:
        raise TemplateError(f"unexpected {{{{{end}}}}}", text, parser.previous.offset)
    return text, nodes


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = list(tokens(text))
        self._at = 0
        self._loops = 0
        self._variables = ["$"]
        self.previous = _END

    def _peek(self, ahead: int = 0) -> Token:
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else _END

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        self.previous = token
        return token

    def _error(self, why: str, token: Token | None = None) -> TemplateError:
        token = token or self._peek()
        offset = len(self.text) if token is _END else token.offset
        return TemplateError(why, self.text, offset)

    def _expect_close(self, where: str) -> None:
        token = self._next()
        if token.kind != CLOSE or token is _END:
            raise self._error(f"unexpected {token.value!r} in {where}", token)

    def block(self, depth: int) -> tuple[list[Node], str]:
        """Nodes up to {{end}} or {{else}} (whose word is returned, the else still to be closed)."""
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH}")
        nodes: list[Node] = []
        scope = len(self._variables)
        while self._at < len(self._tokens):
            token = self._next()
            if token.kind == TEXT:
                nodes.append(("text", token.offset, token.value))
                continue
            word = self._peek()
            if word.is_("end"):
                self._next()
                self._expect_close("end")
                del self._variables[scope:]
                return nodes, "end"
            if word.is_("else"):
                self._next()
                del self._variables[scope:]
                return nodes, "else"
            nodes.append(self._action(word, depth))
        del self._variables[scope:]
        return nodes, ""

    def _action(self, word: Token, depth: int) -> Node:
        if word.kind == NAME and word.value in ("if", "with", "range"):
            self._next()
            return self._control(word, depth)
        if word.kind == NAME and word.value in ("break", "continue"):
            self._next()
            if not self._loops:
                raise self._error(f"{{{{{word.value}}}}} outside {{{{range}}}}", word)
            self._expect_close(word.value)
            return (word.value, word.offset)
        if word.kind == NAME and word.value in ("define", "template", "block"):
            raise self._error(f"{{{{{word.value}}}}} is not supported", word)
        pipe = self._pipe(depth, "action")
        self._expect_close("action")
        return ("action", word.offset, pipe)

    def _control(self, word: Token, depth: int) -> Node:
        kind = word.value
        scope = len(self._variables)
        pipe = self._pipe(depth, kind)
        self._expect_close(kind)
        self._loops += kind == "range"
        body, end = self.block(depth + 1)
        self._loops -= kind == "range"
        other: list[Node] = []
        if end == "else":
            follow = self._peek()
            if kind != "range" and follow.is_(kind):
                self._next()
                other = [self._control(follow, depth + 1)]
                end = "end"
            else:
                self._expect_close("else")
                other, end = self.block(depth + 1)
                if end == "else":
                    raise self._error("expected {{end}}; found {{else}}", self.previous)
        if end != "end":
            raise self._error(f"unclosed {{{{{kind}}}}}", word)
        del self._variables[scope:]
        return (kind, word.offset, pipe, body, other)

    def _pipe(self, depth: int, where: str) -> Node:
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH}")
        start = self._peek()
        names, assigns = self._declaration(where)
        commands: list[Node] = []
        while True:
            operands = self._command(depth)
            if not operands:
                raise self._error(f"missing value for {where}")
            if commands and operands[0][0] in ("constant", "nil", "dot"):
                raise self._error("non executable command in pipeline")
            commands.append(("command", operands[0][1], operands))
            if not self._peek().is_("|"):
                break
            self._next()
        # Visible from here on, not inside the pipeline that gives the value.
        if not assigns:
            self._variables += names
        return ("pipe", start.offset, names, assigns, commands)

    def _declaration(self, where: str) -> tuple[list[str], bool]:
        first, second = self._peek(), self._peek(1)
        if first.kind != VARIABLE:
            return [], False
        if second.is_(":=") or second.is_("="):
            self._next()
            self._next()
            if second.is_("="):
                self._known(first)
            return [first.value], second.is_("=")
        third, fourth = self._peek(2), self._peek(3)
        if where == "range" and second.is_(",") and third.kind == VARIABLE and fourth.is_(":="):
            self._at += 4
            return [first.value, third.value], False
        return [], False

    def _known(self, token: Token) -> None:
        if token.value not in self._variables:
            raise self._error(f"undefined variable {token.value!r}", token)

    def _command(self, depth: int) -> list[Node]:
        operands: list[Node] = []
        while (operand := self._operand(depth)) is not None:
            operands.append(operand)
            token = self._peek()
            if (
                not token.spaced
                and token.kind not in (CLOSE,)
                and not (token.kind == PUNCTUATION and token.value in "|)")
            ):
                raise self._error(f"unexpected {token.value!r} in operand")
        return operands

    def _operand(self, depth: int) -> Node | None:
        token = self._peek()
        node: Node
        if token.kind == NUMBER:
            node = ("constant", token.offset, self._number(token))
        elif token.kind == STRING:
            node = ("constant", token.offset, token.value)
        elif token.kind == NAME:
            node = self._name(token)
        elif token.kind == VARIABLE:
            self._known(token)
            node = ("variable", token.offset, token.value)
        elif token.kind == FIELD:
            return ("chain", token.offset, ("dot", token.offset), self._chain())
        elif token.is_("."):
            node = ("dot", token.offset)
        elif token.is_("("):
            self._next()
            node = self._pipe(depth + 1, "parenthesized pipeline")
            if not self._peek().is_(")"):
                raise self._error("unclosed left paren", token)
        elif token.kind == CLOSE or token.is_("|") or token.is_(")"):
            return None
        else:
            raise self._error(f"unexpected {token.value!r} in operand")
        self._next()
        following = self._peek()
        if following.kind == FIELD and not following.spaced:
            if node[0] in ("constant", "nil", "dot"):
                raise self._error(f"unexpected .{following.value} after {token.value!r}")
            return ("chain", token.offset, node, self._chain())
        return node

    def _chain(self) -> list[str]:
        names = [self._next().value]
        while self._peek().kind == FIELD and not self._peek().spaced:
            names.append(self._next().value)
        return names

    def _name(self, token: Token) -> Node:
        if token.value in ("true", "false"):
            return ("constant", token.offset, token.value == "true")
        if token.value == "nil":
            return ("nil", token.offset)
        if token.value not in FUNCTIONS:
            raise self._error(f'function "{token.value}" not defined', token)
        return ("function", token.offset, token.value)

    def _number(self, token: Token) -> int | float:
        word = token.value
        if len(word) > 64:
            raise self._error("bad number syntax", token)
        try:
            return int(word, 0)
        except ValueError:
            pass
        try:
            return float(word)
        except ValueError:
            raise self._error(f"bad number syntax: {word!r}", token) from None


__all__ = ["OPEN", "parse_nodes"]
