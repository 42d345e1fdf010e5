"""The blocking client: `Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skerry.sdk import requests
from skerry.sdk.client import Client
from skerry.sdk.containers import Containers
from skerry.sdk.images import Images
from skerry.sdk.machines import Machines

if TYPE_CHECKING:
    from collections.abc import Iterator


class System:
    """`engine.system`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ping(self) -> bool:
        """Whether the engine answers. Unavailable when nothing listens."""
        return bool(self._client.get("/_ping") == "OK")

    def info(self) -> dict[str, Any]:
        """About the engine and its host."""
        answer: dict[str, Any] = self._client.get("/info")
        return answer

    def version(self) -> dict[str, Any]:
        """Versions of the engine and of the API it speaks."""
        answer: dict[str, Any] = self._client.get("/version")
        return answer

    def df(self) -> dict[str, Any]:
        """Docker's account of the disk."""
        answer: dict[str, Any] = self._client.get("/system/df")
        return answer

    def usage(self) -> dict[str, Any]:
        """Every byte below the engine's root, by category."""
        answer: dict[str, Any] = self._client.get("/skerry/usage")
        return answer

    def doctor(self) -> Any:
        """What this host can and cannot do for containers."""
        return self._client.get("/skerry/doctor")


class Engine:
    """An engine, reached through its socket.

    ::

        with Engine() as engine:
            print(engine.containers.run("busybox", "echo hello").stdout)
    """

    def __init__(self, host: str | None = None, *, timeout: float | None = None) -> None:
        """`host` is `unix:///path`; None takes SKERRY_HOST or the default socket. `timeout` in
        seconds bounds each wait for the engine, streams included."""
        self.client = Client(host, timeout=timeout)
        self.containers = Containers(self.client)
        self.images = Images(self.client)
        self.machines = Machines(self.client)
        self.system = System(self.client)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self.client.close()

    def events(
        self,
        *,
        filters: dict[str, list[str]] | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """What happens, as it happens; the engine is listening when this returns."""
        request = requests.events(filters, since, until)
        response = self.client.open(request.method, request.target)

        def stream() -> Iterator[dict[str, Any]]:
            try:
                yield from response.json_lines()
            finally:
                response.connection.close()

        return stream()
