"""Nasty words in every place of every request: an answer, and never `internal error`."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from skerry.api.router import Route
from skerry.api.server import all_routes

NASTY = [
    "",
    "0",
    "-1",
    "²",
    "9" * 200,
    "..",
    "../../etc/passwd",
    "/",
    "%00",
    "a\nb",
    "\ud7ff😀",
    "{",
    '{"a":1}',
    '{"label":{"x":true},"until":["²"],"name":["("]}',
    '{"status":["running"],"exited":["x"]}',
    "sha256:" + "0" * 64,
    "x" * 300,
]
QUERY = """all filters limit size name t signal condition h w ps_args path repo tag fromImage v
    since until container changes platform noprune type link force""".split()
BODIES: list[Any] = [
    {},
    {"Image": NASTY, "Cmd": 5},
    {"HostConfig": {"Binds": NASTY}},
    {"Image": "busybox", "HostConfig": {"Binds": ["/a:²"], "Ulimits": [{"Name": "²"}]}},
    {"Image": "busybox", "HostConfig": {"LogConfig": {"Config": {"max-file": "²"}}}},
    {"Image": "busybox", "HostConfig": {"LogConfig": {"Config": {"max-size": "9e999"}}}},
    {"Image": "busybox", "StopSignal": "RTMIN+²", "NetworkingConfig": {"EndpointsConfig": 5}},
    {"Name": "²", "Labels": {"a": None}, "Cmd": ["x"], "RestartPolicy": {"Name": []}},
]
ROUTES = [route for route in all_routes() if not route.streams]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_no_words_bring_it_down(
    http: aiohttp.ClientSession, create: Callable[..., Any], route: Route
) -> None:
    made = await create("there")
    # The beginning of an id names a container, and this one has no files to work on.
    words = ["nobody" if word and made.id.startswith(word) else word for word in NASTY]
    words = words if "{" in route.path else ["", "there"]
    for number, word in enumerate([*words, "there"]):
        path = re.sub(r"\{[^}]*\}", lambda _, word=word: quote(word, safe=""), route.path)
        value = quote(NASTY[number % len(NASTY)], safe="")
        query = "&".join(f"{key}={value}" for key in QUERY)
        body = BODIES[number % len(BODIES)] if route.method in ("POST", "PUT") else None
        url = URL(f"http://engine{path}?{query}", encoded=True)
        async with http.request(route.method, url, json=body) as answer:
            text = await answer.text(errors="replace")
            assert answer.status != 500, (word, value, text)
