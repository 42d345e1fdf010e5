"""schemathesis against the API, by the OpenAPI document that the engine serves."""

import asyncio
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)
from tests.unit.engine.conftest import FakeDriver

from skerry.api import openapi
from skerry.api.server import all_routes, serve
from skerry.base.settings import Settings
from skerry.engine.engine import Engine

REMOTE = ("/images/create", "/images/search", "/images/{name}/push", "/auth", "/distribution/",
          "/skerry/copy", "/skerry/bootstrap", "/skerry/sbom", "/skerry/verify",
          "/skerry/sign",
    "/skerry/vms",
)  # fmt: skip
"""They ask servers of the network, or start machines, which outlive whoever started them."""
LONGEST = 20.0
"""Seconds that an answer may take."""


class Served:
    """The API on a port of loopback, in a thread of its own: real store, no containers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        where = Settings(f"{self._folder}/root", f"{self._folder}/run", f"unix://{self._folder}/s")
        async with Engine(where, driver=FakeDriver()) as engine:
            tree = io.BytesIO()
            with tarfile.open(fileobj=tree, mode="w") as tar:
                tar.addfile(tarfile.TarInfo("file"))
            tree.seek(0)
            engine.store.images.import_rootfs(tree, {"Cmd": ["sh"]}, tags=["busybox"])
            _, runner = await serve(engine, [self._listening])
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(20)
        return self.url

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Served(tmp_path_factory.mktemp("openapi")) as url:
        yield url


def _narrowed() -> dict[str, Any]:
    """The document without what asks the network or never ends."""
    found = openapi.document(all_routes(), "0")
    found["paths"] = {
        path: {method: one for method, one in operations.items() if "x-streams" not in one}
        for path, operations in found["paths"].items()
        if not path.startswith(REMOTE)
    }
    return found


@schemathesis.serializer("application/x-tar")
def _tar(context: Any, value: Any) -> bytes:
    """Anything but a tar archive, mostly."""
    return value.encode() if isinstance(value, str) else bytes(value)


schema = schemathesis.openapi.from_dict(_narrowed())


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Of the image that is there, and without folders of the host that `-v` would make."""
    if isinstance(body, dict) and isinstance(body.get("HostConfig"), dict):
        host = {k: v for k, v in body["HostConfig"].items() if k not in ("Binds", "Mounts")}
        return {**body, "HostConfig": host, "Image": "busybox"}
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """The image and the volume that are there."""
    return {
        name: {"name": "busybox"}.get(name, value)
        for name, value in (path_parameters or {}).items()
    }


# Not `schema.parametrize`: it gives all operations one name, and workers run each name once.
OPERATIONS = [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(data=st.data())
def test_no_request_breaks_it(operation: Any, url: str, data: st.DataObject) -> None:
    """Any request gets an answer below 500, or says that the engine has no such thing."""
    case = data.draw(operation.as_strategy())
    requests.post(f"{url}/volumes/create", json={"Name": "busybox"}, timeout=LONGEST)
    response = case.call(base_url=f"{url}/v1.50", timeout=LONGEST)
    assert response.status_code < 500 or response.status_code in (501, 503), response.text
    if response.status_code >= 400:
        case.validate_response(
            response, checks=[content_type_conformance, response_schema_conformance]
        )
