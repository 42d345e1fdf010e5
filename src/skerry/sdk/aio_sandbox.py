"""`AsyncSandbox`: the sandbox over asyncio. Methods are those of `Sandbox`.

::

    async with AsyncSandbox("debian", isolation="vm") as box:
        print((await box.exec("uname", "-r")).text)
        copies = await box.fork(10)
        results = await copies.exec("sh", "-c", "…")
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

from skerry.base.errors import (
    CommandFault,
    Conflict,
    GuestFault,
    NotFound,
    SkerryError,
    SystemFault,
    TimedOut,
    Unavailable,
)
from skerry.sdk import requests, sandbox_words
from skerry.sdk.aio import AsyncAttached, AsyncContainer, ask
from skerry.sdk.aio_http import AsyncClient
from skerry.sdk.client import query, quote
from skerry.sdk.files import AsyncFiles
from skerry.sdk.sandbox_words import LABEL, ForkFailure, Result, Snapshot, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from skerry.sdk.requests import Environment, Request

T = TypeVar("T")


class AsyncProcess:
    """A command that runs in a sandbox. Iterate for (stream, bytes) pieces as they come.

    As an `async with` block it is killed at the end if it still runs.
    """

    def __init__(
        self, client: AsyncClient, id: str, attached: AsyncAttached, timeout: float | None
    ) -> None:
        self._client = client
        self._id = id
        self._attached = attached
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._code: int | None = None
        self.outlived = True
        """Whether its sandbox went on when it was killed, once it has an exit code."""

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, failed: object, *exc: object) -> None:
        try:
            if self._code is None:
                with sandbox_words.closing(failed):
                    await self.kill()
        finally:
            self._attached.close()

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """As of `Process`."""
        pieces = aiter(self._attached)
        while True:
            async with self._in_time():
                piece = await anext(pieces, None)
            if piece is None:
                break
            yield piece
        await self._look()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                yield
        except TimeoutError:
            await self.kill()
            raise TimedOut(
                f"the command did not end within {self._timeout:g} seconds and was killed"
            ) from None

    async def _look(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            state = await self._client.call("GET", f"/exec/{self._id}/json")
            self._code = sandbox_words.code_of(state)
            self.outlived = not state.get("ContainerEnded")
        return self._code

    async def lines(self) -> AsyncIterator[tuple[int, str]]:
        """(stream, line) as they come; as `Process.lines`."""
        lines = sandbox_words.Lines()
        async for stream, piece in self:
            for line in lines.feed(stream, piece):
                yield line
        for line in lines.end():
            yield line

    async def write(self, data: bytes | str) -> None:
        """Send to standard input; as `Process.write`."""
        try:
            async with self._in_time():
                await self._attached.write(data.encode() if isinstance(data, str) else data)
        except BrokenPipeError:
            raise sandbox_words.refused(await self._look()) from None

    async def feed(self, data: bytes) -> None:
        """Send to standard input, and no more afterwards; a program that ends before it has read
        everything needs no more of it."""
        with contextlib.suppress(OSError):
            await self._attached.write(data)
            self._attached.close_stdin()

    def close_stdin(self) -> None:
        """No more input."""
        self._attached.close_stdin()

    async def kill(self, signal: str = "KILL") -> None:
        """Send a signal; KILL goes to every process that the command has started in its group."""
        with contextlib.suppress(Conflict, NotFound):
            await self._client.call("POST", f"/skerry/exec/{self._id}/kill" + query(signal=signal))

    async def wait(self) -> int:
        """Read what is left and return the exit code. Conflict when it still runs then."""
        async for _ in self:
            pass
        deadline = time.monotonic() + 5
        while (code := await self._look()) is None:
            if time.monotonic() > deadline:
                raise Conflict("the command still runs, though it has closed its output")
            await asyncio.sleep(0.01)
        return code


class AsyncSandbox:
    """A container or virtual machine that lives as long as its `async with` block."""

    def __init__(
        self,
        image: str,
        *,
        isolation: str = "container",
        name: str = "",
        environment: Environment | None = None,
        working_dir: str = "",
        user: str = "",
        memory: int | None = None,
        cpus: float | None = None,
        pids_limit: int | None = None,
        disk: int | None = None,
        network: str = "none",
        volumes: list[str] | None = None,
        labels: dict[str, str] | None = None,
        lifetime: float | None = None,
        keep_alive: Sequence[str] = sandbox_words.KEEP_ALIVE,
        host: str | None = None,
        **options: Any,
    ) -> None:
        """As `Sandbox`."""
        self._wanted = Wanted(
            image, isolation, name, environment, working_dir, user, memory, cpus, pids_limit, disk,
            network, volumes, labels, lifetime, tuple(keep_alive), options,
        )  # fmt: skip
        self._client = AsyncClient(host)
        self._container: AsyncContainer | None = None
        self._copies: list[AsyncSandbox] = []
        self._unsure = False
        """Whether there may be copies that nobody was told of."""

    async def __aenter__(self) -> AsyncSandbox:
        return await self.open()

    async def __aexit__(self, failed: object, *exc: object) -> None:
        with sandbox_words.closing(failed):
            await self.close()

    async def open(self) -> AsyncSandbox:
        """Make and start it; an image that is not here is made or pulled first."""
        if self._container is None:
            request = self._wanted.request()
            try:
                await self._create(request)
            except NotFound:
                if await _is_here(self._client, self._wanted.image):
                    raise
            if self._container is None:
                await _obtain(self._client, self._wanted.image)
                await self._create(request)
            try:
                await self.container.start()
            except BaseException:
                await self.close()
                raise
        return self

    async def _create(self, request: Request) -> None:
        def take(answer: dict[str, Any]) -> None:
            self._container = AsyncContainer(self._client, answer["Id"])

        try:
            await _settled(self._client, request, take)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Remove it, its copies and its snapshots, also when this task is cancelled. Idempotent;
        may be tried again where it fails."""
        await asyncio.shield(asyncio.ensure_future(self._remove()))

    async def _remove(self) -> None:
        if (container := self._container) is not None:
            forks = []
            if self._unsure:
                forks = await ask(self._client, sandbox_words.forks_of(container.id))
            for each in [*(AsyncContainer(self._client, fork["Id"]) for fork in forks), container]:
                with contextlib.suppress(NotFound, Conflict):
                    await each.remove(force=True, volumes=True)
            self._container = None
        await asyncio.gather(*(copy.close() for copy in self._copies))
        self._copies = []

    @property
    def container(self) -> AsyncContainer:
        """What it is to the engine. Conflict when it is not open."""
        if self._container is None:
            raise Conflict("the sandbox is not open")
        return self._container

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    @property
    def files(self) -> AsyncFiles:
        """Its files."""
        return AsyncFiles(self.container, self._client)

    async def start(
        self,
        *command: str,
        stdin: bool = False,
        environment: Environment | None = None,
        working_dir: str = "",
        user: str = "",
        timeout: float | None = None,
    ) -> AsyncProcess:
        """Run a command beside; with `stdin` it gets what `write` sends."""
        request = requests.create_exec(
            self.id,
            list(command),
            environment=environment,
            working_dir=working_dir,
            user=user,
            tty=False,
            stdin=stdin,
            detach=False,
            privileged=False,
        )
        id = (await ask(self._client, request))["Id"]
        target = f"/exec/{quote(id)}/start"
        stream = await self._client.hijack(target, {"Detach": False, "Tty": False})
        return AsyncProcess(self._client, id, AsyncAttached(stream, tty=False), timeout)

    async def exec(
        self,
        *command: str,
        stdin: bytes | str | None = None,
        environment: Environment | None = None,
        working_dir: str = "",
        user: str = "",
        timeout: float | None = None,
        check: bool = False,
        max_output: int | None = sandbox_words.MOST_OUTPUT,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> Result:
        """Run a command to its end; as `Sandbox.exec`."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        output = sandbox_words.Output(max_output)
        process = await self.start(
            *command,
            stdin=data is not None,
            environment=environment,
            working_dir=working_dir,
            user=user,
            timeout=timeout,
        )
        async with process:
            feeder = asyncio.ensure_future(process.feed(data)) if data is not None else None
            try:
                async for stream, piece in process:
                    if on_output is not None:
                        on_output(stream, piece)
                    output.add(stream, piece)
                code = await process.wait()
                if not process.outlived:
                    raise await self._ended()
            except CommandFault as error:
                error.stdout, error.stderr = output.stdout, output.stderr
                raise
            finally:
                if feeder is not None:
                    feeder.cancel()
        result = Result(code, output.stdout, output.stderr)
        return result.check() if check else result

    async def _ended(self) -> CommandFault:
        with contextlib.suppress(NotFound):
            return sandbox_words.ended(await self.container.inspect())
        return sandbox_words.ended({})

    async def snapshot(self, name: str = "", comment: str = "") -> Snapshot:
        """Keep it as it is now."""
        request = requests.create_snapshot(self.id, name, comment)
        return sandbox_words.snapshot_of(await ask(self._client, request))

    async def snapshots(self) -> list[Snapshot]:
        """All of it, oldest first."""
        answer = await ask(self._client, requests.list_snapshots(self.id))
        return [sandbox_words.snapshot_of(each) for each in answer]

    async def restore(self, snapshot: Snapshot | str) -> None:
        """Go back. What runs is ended; a machine's snapshot brings its programs back."""
        reference = snapshot if isinstance(snapshot, str) else snapshot.id
        await ask(self._client, requests.snapshot(reference, "restore", "POST", force=True))

    async def fork(self, count: int = 1, *, name: str = "") -> AsyncCopies:
        """Running copies that go on from here; as `Sandbox.fork`."""
        copies = AsyncCopies([], [])

        def adopt(id_: str) -> AsyncSandbox:
            copy = AsyncSandbox(self._wanted.image, host=self._client.host)
            copy._wanted = self._wanted
            copy._container = AsyncContainer(copy._client, id_)
            self._copies.append(copy)
            return copy

        take = sandbox_words.taking(adopt, copies, copies.failures)
        try:
            await _settled(self._client, requests.fork(self.id, count, name, True), take)
        except Unavailable:
            self._unsure = True
            raise
        return copies

    async def commit(self, name: str, *, message: str = "") -> str:
        """Keep its files as an image; the image's id."""
        return await self.container.commit(name, message=message)

    @staticmethod
    async def leftovers(host: str | None = None) -> list[AsyncContainer]:
        """Sandboxes of programs that died before they could close them, and open ones."""
        client = AsyncClient(host)
        answer = await ask(client, requests.list_containers(all=True, filters={"label": [LABEL]}))
        return [AsyncContainer(client, each["Id"]) for each in answer]


class AsyncCopies(list[AsyncSandbox]):
    """Forks of a sandbox. As an `async with` block they are closed at its end."""

    def __init__(self, made: list[AsyncSandbox], failures: list[ForkFailure]) -> None:
        super().__init__(made)
        self.failures = failures

    async def __aenter__(self) -> AsyncCopies:
        return self

    async def __aexit__(self, failed: object, *exc: object) -> None:
        with sandbox_words.closing(failed):
            await self.close()

    async def close(self) -> None:
        """Remove all of them. Idempotent."""
        await asyncio.gather(*(copy.close() for copy in self))

    async def exec(self, *command: str, **options: Any) -> list[Result | SkerryError | GuestFault]:
        """Run a command in every copy at once, as `Sandbox.exec`: its result or its error each."""

        async def run(copy: AsyncSandbox) -> Result | SkerryError | GuestFault:
            try:
                return await copy.exec(*command, **options)
            except (SkerryError, GuestFault) as error:
                return error

        return list(await asyncio.gather(*map(run, self)))

    async def map(self, function: Callable[[AsyncSandbox], Awaitable[T]]) -> list[T | Exception]:
        """Await a function of every copy at once: its value or its error each."""

        async def run(copy: AsyncSandbox) -> T | Exception:
            try:
                return await function(copy)
            except Exception as error:
                return error

        return list(await asyncio.gather(*map(run, self)))


async def _settled(client: AsyncClient, request: Request, take: Callable[[Any], None]) -> None:
    """Send a request that makes something and hand its answer over, also when this task is
    cancelled: who does not know what was made cannot remove it."""
    asking = asyncio.ensure_future(ask(client, request))
    try:
        await asyncio.shield(asking)
    finally:
        await asyncio.wait([asking])
        if asking.exception() is None:
            take(asking.result())


async def _is_here(client: AsyncClient, image: str) -> bool:
    try:
        await ask(client, requests.image(image, "json"))
    except NotFound:
        return False
    return True


async def _obtain(client: AsyncClient, image: str) -> None:
    source = sandbox_words.source_of(image)
    if source.rename is not None:
        with contextlib.suppress(NotFound):
            await ask(client, source.rename)
            return
    async with await client.open(source.make.method, source.make.target) as response:
        async for message in response.json_lines():
            if message.get("error"):
                raise SystemFault(f"cannot obtain the image {image}: {message['error']}")
    if source.rename is not None:
        await ask(client, source.rename)
