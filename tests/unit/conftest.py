"""Registries on loopback that do as a test tells them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from hypothesis import HealthCheck, settings

from skerry.registry.auth import Credential, Credentials, anonymous
from skerry.registry.client import Client, Limits
from skerry.registry.config import Registries, RegistrySettings

# How long an example takes says what else the machine does, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

QUICK = Limits(
    connect=2,
    answer=0.3,
    idle=0.3,
    document=0.5,
    list=1,
    window=0.2,
    attempts=3,
    pause=0.001,
    longest_pause=0.002,
)
# A busy host answers late: only where a server is silent on purpose may a client lose patience.
PATIENT = QUICK._replace(connect=60, answer=60, idle=60, document=60, list=60, window=60)


class Servers:
    """Starts servers that end with the test."""

    quick = QUICK
    limits = PATIENT
    """Of clients that are given none."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def web(self, handler: Handler, tls: ssl.SSLContext | None = None) -> str:
        """An HTTP server; its `host:port`."""
        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)  # type: ignore[arg-type]
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return "{}:{}".format(*runner.addresses[0])

    async def raw(self, talk: Talk) -> str:
        """A TCP server whose every connection is `talk`; its `host:port`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._stack.callback(server.close)
        return "{}:{}".format(*server.sockets[0].getsockname())

    async def client(
        self,
        name: str,
        credential: Credential | None = None,
        limits: Limits | None = None,
        **settings: object,
    ) -> Client:
        """A client of a registry that speaks plain HTTP unless `settings` say otherwise."""
        chosen = {"plain_http": True, **settings}
        one = RegistrySettings(name, name)._replace(**chosen)
        who = Credentials(given=credential) if credential else anonymous()
        made = Client(name, Registries({name: one}), who, limits=limits or self.limits)
        self._stack.push_async_callback(made.close)
        return made


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(stack)
