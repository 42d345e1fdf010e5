"""Apply a parsed template to a value."""

from __future__ import annotations

from skerry.cli.template.errors import TemplateError
from skerry.cli.template.functions import FUNCTIONS, HEADER_FUNCTIONS, CallError, truth
from skerry.cli.template.printing import Nil, kind, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from skerry.cli.template.parser import Node

MAX_OUTPUT = 64 * 1024 * 1024
"""Characters that one value may become."""
_NOTHING: Any = object()
_TEXTS = frozenset("Annotations Attributes DriverOpts Labels Options Sysctls".split())
"""Fields of Docker's types that are maps of texts: what one lacks is the empty text."""


class Row:
    """A line of a table: named fields, and methods that take arguments (`.Label "k"`)."""

    def __init__(
        self, fields: dict[str, Any], methods: dict[str, Callable[..., Any]] | None = None
    ) -> None:
        self.fields = fields
        self.methods = methods or {}

    def __str__(self) -> str:
        return "{" + " ".join(show(value) for value in self.fields.values()) + "}"


class Typed(dict[str, "Any"]):
    """An object of a type with further fields, which JSON leaves out."""

    def __init__(self, fields: Any, more: dict[str, Any]) -> None:
        super().__init__(fields)
        self.more = more


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A template, ready for any number of values."""

    def __init__(self, parsed: tuple[str, list[Node]]) -> None:
        self.text, self.nodes = parsed

    def render(self, value: Any, *, heading: bool = False) -> str:
        """The text for `value`; in a heading some functions leave their argument alone."""
        evaluation = _Evaluation(self.text, heading)
        evaluation.variables.append(("$", value))
        try:
            evaluation.walk(self.nodes, value)
        except RecursionError:
            raise TemplateError("nested too deeply", self.text, 0) from None
        return "".join(evaluation.parts)


class _Evaluation:
    def __init__(self, text: str, heading: bool) -> None:
        self.text = text
        self.heading = heading
        self.parts: list[str] = []
        self.variables: list[tuple[str, Any]] = []
        self._length = 0

    def error(self, why: str, node: Node) -> TemplateError:
        return TemplateError(why, self.text, node[1])

    def emit(self, text: str, node: Node) -> None:
        self._length += len(text)
        if self._length > MAX_OUTPUT:
            raise self.error(f"the result is over {MAX_OUTPUT} characters long", node)
        self.parts.append(text)

    def walk(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            what = node[0]
            if what == "text":
                self.emit(node[2], node)
            elif what == "action":
                value = self.pipe(node[2], dot)
                if not node[2][2]:
                    self.emit(show(value), node)
            elif what in ("if", "with"):
                self._branch(node, dot)
            elif what == "range":
                self._range(node, dot)
            elif what == "break":
                raise _Break
            else:
                raise _Continue

    def _branch(self, node: Node, dot: Any) -> None:
        scope = len(self.variables)
        value = self.pipe(node[2], dot)
        if truth(value):
            self.walk(node[3], value if node[0] == "with" else dot)
        else:
            self.walk(node[4], dot)
        del self.variables[scope:]

    def _range(self, node: Node, dot: Any) -> None:
        scope = len(self.variables)
        names = node[2][2]
        value = self.pipe(node[2], dot, declare=False)
        ran = False
        try:
            for key, item in self._items(value, node):
                ran = True
                del self.variables[scope:]
                if len(names) == 1:
                    self.variables.append((names[0], item))
                elif names:
                    self.variables += [(names[0], key), (names[1], item)]
                try:
                    self.walk(node[3], item)
                except _Continue:
                    continue
        except _Break:
            pass
        del self.variables[scope:]
        if not ran:
            self.walk(node[4], dot)

    def _items(self, value: Any, node: Node) -> Iterator[tuple[Any, Any]]:
        if value is None or isinstance(value, Nil):
            return iter(())
        if isinstance(value, dict):
            return iter(sorted(value.items()))
        if isinstance(value, (list, tuple)):
            return iter(enumerate(value))
        raise self.error(f"range can't iterate over {show(value):.60}", node)

    def pipe(self, node: Node, dot: Any, *, declare: bool = True) -> Any:
        """The value of a pipeline; its variables are set as well."""
        value: Any = _NOTHING
        for command in node[4]:
            value = self._command(command, dot, value)
        if declare:
            for name in node[2]:
                if node[3]:
                    self._assign(name, value)
                else:
                    self.variables.append((name, value))
        return value

    def _assign(self, name: str, value: Any) -> None:
        for at in range(len(self.variables) - 1, -1, -1):
            if self.variables[at][0] == name:
                self.variables[at] = (name, value)
                return

    def _command(self, node: Node, dot: Any, final: Any) -> Any:
        first, rest = node[2][0], node[2][1:]
        if first[0] == "function":
            return self._call(first, rest, dot, final)
        arguments = [self._operand(operand, dot) for operand in rest]
        if final is not _NOTHING:
            arguments.append(final)
        return self._operand(first, dot, arguments)

    def _call(self, first: Node, rest: list[Node], dot: Any, final: Any) -> Any:
        name = first[2]
        if name in ("and", "or"):
            return self._logic(first, rest, dot, final)
        arguments = [self._operand(operand, dot) for operand in rest]
        if final is not _NOTHING:
            arguments.append(final)
        if self.heading and name in HEADER_FUNCTIONS and arguments:
            return arguments[0]
        function = FUNCTIONS[name]
        assert function is not None
        try:
            return function(*arguments)
        except CallError as error:
            raise self.error(f"error calling {name}: {error}", first) from None
        except TypeError:
            raise self.error(
                f"wrong number or kind of args for {name}: got {len(arguments)}", first
            ) from None
        except (ValueError, OverflowError) as error:
            raise self.error(f"error calling {name}: {error}", first) from None

    def _logic(self, first: Node, rest: list[Node], dot: Any, final: Any) -> Any:
        if not rest and final is _NOTHING:
            raise self.error(f"wrong number of args for {first[2]}: want at least 1 got 0", first)
        stop_at = first[2] == "or"
        value: Any = None
        for operand in rest:
            value = self._operand(operand, dot)
            if truth(value) is stop_at:
                return value
        return value if final is _NOTHING else final

    def _operand(self, node: Node, dot: Any, arguments: list[Any] | None = None) -> Any:
        what = node[0]
        if what == "chain":
            return self._chain(node, dot, arguments or [])
        if arguments:
            raise self.error("can't give argument to non-function", node)
        if what == "dot":
            return dot
        if what == "constant":
            return node[2]
        if what == "variable":
            return next(value for name, value in reversed(self.variables) if name == node[2])
        if what == "pipe":
            return self.pipe(node, dot)
        if what == "function":
            return self._call(node, [], dot, _NOTHING)
        if arguments is not None:
            raise self.error("nil is not a command", node)
        return None

    def _chain(self, node: Node, dot: Any, arguments: list[Any]) -> Any:
        value = self._operand(node[2], dot)
        names = node[3]
        for at, name in enumerate(names):
            last = at == len(names) - 1
            if at and names[at - 1] in _TEXTS and isinstance(value, dict) and name not in value:
                return ""
            value = self._field(value, name, node, arguments if last else [])
        return value

    def _field(self, value: Any, name: str, node: Node, arguments: list[Any]) -> Any:
        if isinstance(value, Row):
            if name in value.methods:
                try:
                    return value.methods[name](*arguments)
                except TypeError:
                    raise self.error(f"wrong number of args for {name}", node) from None
            value = value.fields
        if arguments:
            raise self.error(f"{name} is not a method but has arguments", node)
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if isinstance(value, Typed) and name in value.more:
                return value.more[name]
            raise self.error(f'no field or key "{name}"', node)
        if value is None or isinstance(value, Nil):
            raise self.error(f"nil data; no entry for key {name!r}", node)
        raise self.error(f"can't evaluate field {name} in type {kind(value)}", node)
