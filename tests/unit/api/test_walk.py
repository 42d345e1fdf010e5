"""Every endpoint that Docker publishes is served, or docs/docker-api.md says why it is not."""

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from tests.unit.engine.conftest import FakeDriver

from skerry.api import versions
from skerry.api.router import Router
from skerry.api.routes import unserved
from skerry.api.server import all_routes, serve
from skerry.api.versions import Version
from skerry.base.settings import Settings
from skerry.engine.engine import Engine

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs/docker-api.md").read_text()
ONE_ANSWER = 10


class Endpoint(NamedTuple):
    since: Version
    until: Version
    method: str
    path: str

    def filled(self) -> str:
        return re.sub(r"\{\w+\}", "absent", self.path)


class Refusal(NamedTuple):
    answer: str
    reason: str


def _version(text: str) -> Version:
    return versions.NEWEST if text == "-" else Version(*map(int, text.split(".")))


def published() -> list[Endpoint]:
    lines = (Path(__file__).parent / "endpoints.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [Endpoint(_version(a), _version(b), method, path) for a, b, method, path in rows]


def listed() -> dict[str, Refusal]:
    """By `METHOD /path`, out of the table of what is not served."""
    table = PAGE.split("## Not served")[1].split("\n## ")[0]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "`" in cells[0]:
            for name in re.findall(r"`([A-Z]+ /[^`]*)`", cells[0]):
                found[name] = Refusal(cells[1], cells[2])
    return found


def test_everything_is_served_or_listed() -> None:
    router = Router(all_routes())
    reasons = listed()
    refusing = {route.handle for route in unserved.ROUTES if route.handle not in unserved.ANSWERS}
    for endpoint in published():
        name = f"{endpoint.method} {endpoint.path}"
        found = router.find(endpoint.method, endpoint.filled())
        if found is None or found[0].handle in refusing:
            reason = reasons[name].reason if name in reasons else ""
            assert reason, f"{name} is neither served nor listed with a reason"
        else:
            assert name not in reasons, f"{name} is served and listed as if it were not"


def test_nothing_is_listed_that_docker_does_not_have() -> None:
    assert listed().keys() <= {f"{each.method} {each.path}" for each in published()}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of an engine with a real store and no containers."""
    settings = Settings(f"{tmp_path}/root", f"{tmp_path}/run", f"unix://{tmp_path}/s")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{tmp_path}/s")
    listening.listen()
    listening.setblocking(False)
    async with Engine(settings, driver=FakeDriver()) as engine:
        _, runner = await serve(engine, [listening])
        connector = aiohttp.UnixConnector(f"{tmp_path}/s")
        async with aiohttp.ClientSession("http://engine", connector=connector) as session:
            yield session
        await runner.cleanup()


@pytest.mark.parametrize("version", [versions.OLDEST, Version(1, 41), versions.NEWEST])
async def test_each_answers_a_stranger(client: aiohttp.ClientSession, version: Version) -> None:
    """With names of nothing and no body: no fault of the engine's, Docker's error body, and from
    what is listed the answer that is promised."""
    refusals = listed()
    for endpoint in published():
        if endpoint.path == "/events" or not endpoint.since <= version <= endpoint.until:
            continue
        path = f"/v{version}{endpoint.filled()}"
        limit = aiohttp.ClientTimeout(ONE_ANSWER)
        kind = {"Content-Type": "application/json"}
        async with client.request(endpoint.method, path, timeout=limit, headers=kind) as answer:
            what = f"{endpoint.method} {path}: {answer.status}"
            assert answer.status in (*range(200, 300), 400, 404, 409, 501, 503), what
            refusal = refusals.get(f"{endpoint.method} {endpoint.path}")
            assert refusal is None or str(answer.status) in refusal.answer, f"{what}: {refusal}"
            if answer.status >= 400 and endpoint.method != "HEAD":
                assert set(await answer.json()) == {"message"}, what
