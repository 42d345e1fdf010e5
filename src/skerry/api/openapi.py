"""The API's OpenAPI document (3.1), made from the routes themselves.

Paths and methods are the routes'; a route's summary is its handler's docstring; the parameters of
the query are those that the handler's source reads (`call.text("name")` and its kin); a body's
schema is that of the check it goes through. So the document cannot promise what the code does not
read, and a new route is in it at once.
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from skerry.api import versions
from skerry.api.router import Route
from skerry.engine import validation

Json = dict[str, Any]

_SCHEMAS: dict[str, Json] = {
    "text": {"type": "string"},
    "getall": {"type": "array", "items": {"type": "string"}},
    "flag": {"type": "boolean"},
    "number": {"type": "integer"},
}
"""By the method that reads a parameter."""
_FILTERS: Json = {
    "name": "filters",
    "in": "query",
    "description": 'A JSON object of arrays of strings, `{"label": ["a=b"]}`.',
    "schema": {"type": "string"},
}
_BINARY: Json = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
_ERROR: Json = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}
_CREATE = {
    **validation.schema_of(validation.CONFIG).get("properties", {}),
    "HostConfig": validation.schema_of(validation.HOST),
    "NetworkingConfig": {
        "type": "object",
        "properties": {
            "EndpointsConfig": {"type": "object", "additionalProperties": {"type": "object"}}
        },
    },
}
_COMPOSITE: dict[str, Json] = {"/containers/create": {"type": "object", "properties": _CREATE}}
"""Bodies that go through more than one check."""


def document(routes: Iterable[Route], version: str) -> Json:
    """The whole document. Routes that are tried later do not hide earlier ones."""
    paths: dict[str, Json] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\*\}", r"{\1}", route.path)
        paths.setdefault(path, {}).setdefault(route.method.lower(), operation(route))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "skerry",
            "version": version,
            "description": "Docker's Engine API and skerry's own additions, on a unix socket.",
        },
        "servers": [{"url": f"/v{versions.NEWEST}"}],
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


def operation(route: Route) -> Json:
    """One method of one path."""
    reads = reads_of(route.handle)
    doc = " ".join((inspect.getdoc(route.handle) or "").split())
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    noun = route.handle.__module__.rpartition(".")[2]
    result: Json = {
        "operationId": f"{noun}.{route.handle.__name__} {route.method} {route.path}",
        "tags": [noun],
        "summary": doc or f"{route.method} {route.path}",
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"\{(\w+)(?::\*)?\}", route.path)
            ),
            *reads.parameters(),
        ],
        "responses": {
            "2XX": {"description": "Done"},
            "default": {"description": "Not done", "content": error},
        },
    }
    if route.streams:
        # The answer lasts as long as its client stays.
        result["x-streams"] = True
    if body := _COMPOSITE.get(route.path) or reads.body:
        result["requestBody"] = {"content": {"application/json": {"schema": body}}}
    elif reads.binary:
        result["requestBody"] = {"content": _BINARY}
    return result


class Reads:
    """What a handler takes from its call."""

    def __init__(self) -> None:
        self.query: dict[str, Json] = {}
        self.filters = False
        self.body: Json | None = None
        self.binary = False

    def parameters(self) -> Iterator[Json]:
        """As OpenAPI writes them."""
        if self.filters:
            yield _FILTERS
        for name, schema in self.query.items():
            yield {"name": name, "in": "query", "schema": schema}


@functools.cache
def reads_of(handle: Callable[..., Any]) -> Reads:
    """By the source of a handler and of the functions of its module that it gives its call to."""
    found = Reads()
    _collect(handle, found, set())
    return found


def _collect(function: Callable[..., Any], found: Reads, seen: set[Callable[..., Any]]) -> None:
    if function in seen:
        return
    seen.add(function)
    names = vars(sys.modules[function.__module__])
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if not isinstance(node, ast.Call):
            continue
        method = _method_of_call(node.func)
        if method in _SCHEMAS and node.args and isinstance(node.args[0], ast.Constant):
            found.query.setdefault(str(node.args[0].value), _SCHEMAS[method])
        elif method == "filters":
            found.filters = True
        elif method in ("chunks", "whole"):
            found.binary = True
        elif method == "body":
            found.body = found.body or {"type": "object"}
        elif any(_is_body(argument) for argument in node.args):
            found.body = validation.schema_of(_named(node.func, names)) or {"type": "object"}
        elif any(isinstance(each, ast.Name) and each.id == "call" for each in node.args):
            helper = _named(node.func, names)
            if inspect.isfunction(helper) and helper.__module__.startswith("skerry.api"):
                _collect(helper, found, seen)


def _method_of_call(function: ast.expr) -> str:
    """`text` of `call.text` and of `call.query.getall`; empty for what is no reading."""
    if not isinstance(function, ast.Attribute):
        return ""
    value = function.value
    if isinstance(value, ast.Attribute) and value.attr == "query":
        value = value.value
    return function.attr if isinstance(value, ast.Name) and value.id == "call" else ""


def _is_body(argument: ast.expr) -> bool:
    """`await call.body()`."""
    return (
        isinstance(argument, ast.Await)
        and isinstance(argument.value, ast.Call)
        and _method_of_call(argument.value.func) == "body"
    )


def _named(function: ast.expr, names: dict[str, Any]) -> Any:
    """What `name` or `module.name` is."""
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return getattr(names.get(function.value.id), function.attr, None)
    return None
