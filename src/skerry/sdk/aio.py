"""The asynchronous client: `AsyncEngine`. Methods are those of the blocking one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skerry.base.errors import NotFound, NotModified, SystemFault, Unavailable
from skerry.sdk import requests
from skerry.sdk.aio_http import AsyncClient
from skerry.sdk.containers import Finished
from skerry.sdk.frames import STDERR, STDOUT, Demultiplexer
from skerry.sdk.requests import Environment, Request

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator


async def ask(client: AsyncClient, request: Request) -> Any:
    """Send a Request; its JSON answer."""
    return await client.call(request.method, request.target, request.body)


class AsyncAttached:
    """The joined streams; read by async iteration: (stream, bytes) pieces."""

    def __init__(
        self, stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], *, tty: bool
    ) -> None:
        self._reader, self._writer = stream
        self._frames = None if tty else Demultiplexer()

    async def __aenter__(self) -> AsyncAttached:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the program goes on."""
        self._writer.close()

    async def write(self, data: bytes) -> None:
        """Send to standard input; waits while the program does not read. BrokenPipeError when
        nobody does any more."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionResetError:
            raise BrokenPipeError from None

    def close_stdin(self) -> None:
        """Tell the program that no more input comes."""
        self._writer.write_eof()

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        while data := await self._next():
            for piece in self._frames.feed(data) if self._frames else [(STDOUT, data)]:
                yield piece

    async def _next(self) -> bytes:
        try:
            return await self._reader.read(65536)
        except ConnectionResetError:
            raise Unavailable("the engine hung up in the middle of the output") from None

    async def read(self) -> tuple[bytes, bytes]:
        """Everything to the end: (stdout, stderr)."""
        streams = {STDOUT: bytearray(), STDERR: bytearray()}
        async for stream, piece in self:
            streams.setdefault(stream, bytearray()).extend(piece)
        return bytes(streams[STDOUT]), bytes(streams[STDERR])


class AsyncContainer:
    """One container, by id."""

    def __init__(self, client: AsyncClient, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"AsyncContainer({self.id[:12]!r})"

    async def _ask(self, action: str, method: str = "POST", **parameters: object) -> Any:
        return await ask(self._client, requests.container(self.id, action, method, **parameters))

    async def inspect(self) -> dict[str, Any]:
        """Everything the engine knows of it."""
        answer: dict[str, Any] = await self._ask("json", "GET")
        return answer

    async def start(self) -> None:
        """Idempotent."""
        try:
            await self._ask("start")
        except NotModified:
            return

    async def stop(self, *, timeout: int | None = None, signal: str = "") -> None:
        """The stop signal, then SIGKILL. Idempotent."""
        try:
            await self._ask("stop", t=timeout, signal=signal)
        except NotModified:
            return

    async def restart(self, *, timeout: int | None = None) -> None:
        """Stop, then start."""
        await self._ask("restart", t=timeout)

    async def kill(self, signal: str = "KILL") -> None:
        """Send a signal."""
        await self._ask("kill", signal=signal)

    async def pause(self) -> None:
        """Freeze every process."""
        await self._ask("pause")

    async def unpause(self) -> None:
        """Let them go on."""
        await self._ask("unpause")

    async def wait(self, *, condition: str = "not-running") -> int:
        """The exit code, once it has ended."""
        return int((await self._ask("wait", condition=condition))["StatusCode"])

    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Conflict when it runs and `force` is not given."""
        await self._ask("", "DELETE", force=force, v=volumes)

    async def stats(self) -> dict[str, Any]:
        """One reading of the counters."""
        parameters: dict[str, object] = {"stream": False, "one-shot": True}
        answer: dict[str, Any] = await self._ask("stats", "GET", **parameters)
        return answer

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, timestamps: bool = False
    ) -> AsyncIterator[tuple[int, bytes]]:
        """(stream, bytes) pieces of what it has written."""
        tty = bool((await self.inspect())["Config"].get("Tty"))
        request = requests.logs(
            self.id, follow=follow, stdout=True, stderr=True, tail=tail, timestamps=timestamps
        )
        frames = None if tty else Demultiplexer()
        async with await self._client.open(request.method, request.target) as response:
            async for chunk in response.chunks():
                for piece in frames.feed(chunk) if frames else [(STDOUT, chunk)]:
                    yield piece

    async def attach(self, *, stdin: bool = False, logs: bool = False) -> AsyncAttached:
        """Join its streams."""
        tty = bool((await self.inspect())["Config"].get("Tty"))
        target = requests.attach_target(self.id, stdin=stdin, logs=logs)
        return AsyncAttached(await self._client.hijack(target), tty=tty)

    async def exec(
        self,
        command: str | list[str],
        *,
        environment: Environment | None = None,
        working_dir: str = "",
        user: str = "",
        input: bytes | None = None,
        privileged: bool = False,
    ) -> Finished:
        """Run a command inside, to its end."""
        request = requests.create_exec(
            self.id,
            command,
            environment=environment,
            working_dir=working_dir,
            user=user,
            tty=False,
            stdin=input is not None,
            detach=False,
            privileged=privileged,
        )
        id = (await ask(self._client, request))["Id"]
        stream = await self._client.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": False})
        async with AsyncAttached(stream, tty=False) as attached:
            if input is not None:
                await attached.write(input)
                attached.close_stdin()
            stdout, stderr = await attached.read()
        state = await self._client.call("GET", f"/exec/{id}/json")
        return Finished(int(state["ExitCode"]), stdout, stderr)

    async def get_archive(self, path: str) -> bytes:
        """A tar archive of a path inside."""
        request = requests.container(self.id, "archive", "GET", path=path)
        async with await self._client.open(request.method, request.target) as response:
            return await response.read()

    async def put_archive(self, path: str, data: bytes, *, keep_kinds: bool = False) -> None:
        """Unpack a tar archive into a folder inside; as `Container.put_archive`."""
        request = requests.put_archive(self.id, path, keep_kinds=keep_kinds)
        headers = {"Content-Type": "application/x-tar"}
        (await self._client.open(request.method, request.target, data, headers)).close()

    async def commit(self, name: str = "", *, message: str = "", author: str = "") -> str:
        """An image of its changes; the image's id."""
        request = requests.commit(self.id, name, message=message, author=author, changes=None)
        return str((await ask(self._client, request))["Id"])


class AsyncContainers:
    """`engine.containers`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self, image: str, command: str | list[str] | None = None, **options: Any
    ) -> AsyncContainer:
        """Make a container; options as `skerry.sdk.requests.create_container`."""
        request = requests.create_container(image, command, **options)
        return AsyncContainer(self._client, (await ask(self._client, request))["Id"])

    async def run(
        self, image: str, command: str | list[str] | None = None, **options: Any
    ) -> Finished:
        """Create, run to the end, remove."""
        container = await self.create(image, command, **options)
        try:
            async with await container.attach() as attached:
                await container.start()
                stdout, stderr = await attached.read()
            return Finished(await container.wait(), stdout, stderr)
        finally:
            await container.remove(force=True, volumes=True)

    async def start(
        self, image: str, command: str | list[str] | None = None, **options: Any
    ) -> AsyncContainer:
        """Create and start."""
        container = await self.create(image, command, **options)
        try:
            await container.start()
        except BaseException:
            await container.remove(force=True, volumes=True)
            raise
        return container

    async def get(self, name: str) -> AsyncContainer:
        """By id or name. NotFound."""
        answer = await ask(self._client, requests.container(name, "json", "GET"))
        return AsyncContainer(self._client, answer["Id"])

    async def list(
        self, *, all: bool = False, filters: dict[str, list[str]] | None = None
    ) -> list[AsyncContainer]:
        """Those that run, or all."""
        answer = await ask(self._client, requests.list_containers(all=all, filters=filters))
        return [AsyncContainer(self._client, each["Id"]) for each in answer]


class AsyncImages:
    """`engine.images`; images are plain dicts in the API's spelling."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, all: bool = False) -> list[dict[str, Any]]:
        """Every image."""
        answer: list[dict[str, Any]] = await ask(
            self._client, requests.list_images(all=all, filters=None)
        )
        return answer

    async def get(self, name: str) -> dict[str, Any]:
        """Everything the engine knows of one. NotFound."""
        answer: dict[str, Any] = await ask(self._client, requests.image(name, "json"))
        return answer

    async def exists(self, name: str) -> bool:
        """Whether it is here."""
        try:
            await self.get(name)
        except NotFound:
            return False
        return True

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Take a name away; the image goes with its last one."""
        await ask(self._client, requests.image(name, "", "DELETE", force=force))

    async def bootstrap(self, name: str, **options: Any) -> str:
        """Make a base image without a registry; its id."""
        wanted = {"include": [], "mirror": "", "key": "", "tag": ""} | options
        request = requests.bootstrap(name, **wanted)
        id = ""
        async with await self._client.open(request.method, request.target) as response:
            async for message in response.json_lines():
                if message.get("error"):
                    raise SystemFault(str(message["error"]))
                id = (message.get("aux") or {}).get("ID", id)
        return id


class AsyncEngine:
    """An engine, reached through its socket; every call may run beside others."""

    def __init__(self, host: str | None = None) -> None:
        """`host` is `unix:///path`; None takes SKERRY_HOST or the default socket."""
        self.client = AsyncClient(host)
        self.containers = AsyncContainers(self.client)
        self.images = AsyncImages(self.client)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def ping(self) -> bool:
        """Whether the engine answers."""
        return bool(await self.client.call("GET", "/_ping") == "OK")

    async def info(self) -> dict[str, Any]:
        """About the engine and its host."""
        answer: dict[str, Any] = await self.client.call("GET", "/info")
        return answer

    async def version(self) -> dict[str, Any]:
        """Versions of the engine and of the API it speaks."""
        answer: dict[str, Any] = await self.client.call("GET", "/version")
        return answer

    async def events(
        self,
        *,
        filters: dict[str, list[str]] | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """What happens, as it happens."""
        request = requests.events(filters, since, until)
        async with await self.client.open(request.method, request.target) as response:
            async for event in response.json_lines():
                yield event
