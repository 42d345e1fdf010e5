"""From method and path to a route. Paths hold `{name}`, or `{name:*}` where slashes may follow."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from skerry.api.call import Call

Handle = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """`streams`: the answer lives as long as the client does, and ends when it leaves. `reads`: it
    changes nothing, so it may end there too. The others run to their end even when the client has
    gone, which costs a task of their own."""

    method: str
    path: str
    handle: Handle
    streams: bool = False
    reads: bool = False


class Router:
    """Finds the route by the first part of the path, then by pattern, in order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._plain[route.method, route.path] = route
                continue
            head = route.path.split("/")[1]
            self._patterns.setdefault(head, []).append((_pattern(route.path), route))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its parameters."""
        if route := self._plain.get((method, path)):
            return route, {}
        parts = path.split("/", 2)
        for pattern, route in self._patterns.get(parts[1] if len(parts) > 1 else "", ()):
            if route.method == method and (match := pattern.fullmatch(path)):
                return route, match.groupdict()
        return None


def _pattern(path: str) -> re.Pattern[str]:
    text = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return re.compile(re.sub(r"\{(\w+):\*\}", r"(?P<\1>.+)", text))
