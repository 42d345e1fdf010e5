"""`Sandbox`: a throw-away container or virtual machine to run things in, blocking.

::

    with Sandbox("debian", isolation="vm") as box:
        box.files.write("/work/task.py", source)
        print(box.exec("python3", "/work/task.py", timeout=30).text)
        start = box.snapshot()
        for copy in box.fork(10):
            copy.exec("sh", "-c", "…")
        box.restore(start)

One sandbox is for one thread at a time; its copies are sandboxes of their own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

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
from skerry.sdk.attached import STDERR, STDOUT, Attached
from skerry.sdk.client import Client, query, quote
from skerry.sdk.containers import Container, ask
from skerry.sdk.files import Files
from skerry.sdk.sandbox_words import LABEL, ForkFailure, Result, Snapshot, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skerry.sdk.requests import Environment, Request

T = TypeVar("T")

__all__ = ["STDERR", "STDOUT", "Copies", "Files", "Process", "Result", "Sandbox", "Snapshot"]


class Process:
    """A command that runs in a sandbox. Iterate for (stream, bytes) pieces as they come.

    As a `with` block it is killed at the end if it still runs.
    """

    def __init__(self, client: Client, id: str, attached: Attached, timeout: float | None) -> None:
        self._client = client
        self._id = id
        self._attached = attached
        self._timeout = timeout
        self._code: int | None = None
        self.outlived = True
        """Whether its sandbox went on when it was killed, once it has an exit code."""
        if timeout is not None:
            attached.deadline = time.monotonic() + timeout

    def __enter__(self) -> Process:
        return self

    def __exit__(self, failed: object, *exc: object) -> None:
        try:
            if self._code is None:
                with sandbox_words.closing(failed):
                    self.kill()
        finally:
            self._attached.close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """TimedOut when the time is over; the program has been killed then. Unavailable when the
        output was cut with the engine that died, or has lost its peer."""
        try:
            yield from self._attached
        except TimeoutError:
            self._out_of_time()
        self._look()

    def _out_of_time(self) -> NoReturn:
        self.kill()
        raise TimedOut(
            f"the command did not end within {self._timeout:g} seconds and was killed"
        ) from None

    def _look(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            with _own(self._client) as client:
                state = client.get(f"/exec/{self._id}/json")
            self._code = sandbox_words.code_of(state)
            self.outlived = not state.get("ContainerEnded")
        return self._code

    def lines(self) -> Iterator[tuple[int, str]]:
        """(stream, line) as they come, without the line's end; TimedOut as when iterating.

        What is not UTF-8 shows as U+FFFD; a line of over 1 MiB comes in pieces.
        """
        lines = sandbox_words.Lines()
        for stream, piece in self:
            yield from lines.feed(stream, piece)
        yield from lines.end()

    def write(self, data: bytes | str) -> None:
        """Send to standard input; waits while the program does not read.

        InputRefused when it takes no more, TimedOut as when iterating.
        """
        try:
            self._attached.write(data.encode() if isinstance(data, str) else data)
        except BrokenPipeError:
            raise sandbox_words.refused(self._look()) from None
        except TimeoutError:
            self._out_of_time()

    def feed(self, data: bytes) -> None:
        """Send to standard input, and no more afterwards; a program that ends before it has read
        everything needs no more of it."""
        with contextlib.suppress(OSError):
            self._attached.write(data)
            self._attached.close_stdin()

    def close_stdin(self) -> None:
        """No more input."""
        self._attached.close_stdin()

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal; KILL goes to every process that the command has started in its group.
        Nothing happens when it has ended."""
        with _own(self._client) as client, contextlib.suppress(Conflict, NotFound):
            client.post(f"/skerry/exec/{self._id}/kill" + query(signal=signal))

    def wait(self) -> int:
        """Read what is left and return the exit code."""
        for _ in self:
            pass
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """Once its output has ended. Conflict while it runs."""
        # A program may close its output before it ends.
        deadline = time.monotonic() + 5
        while (code := self._look()) is None:
            if time.monotonic() > deadline:
                raise Conflict("the command still runs, though it has closed its output")
            time.sleep(0.01)
        return code


class Sandbox:
    """A container or virtual machine that lives as long as its `with` block."""

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
        """Nothing happens before the `with` block, or `open()`.

        `isolation` is `container` or `vm`. There is no network unless one is named. After
        `lifetime` seconds the engine removes the sandbox even when this program has died.
        `keep_alive` is the main program, for images that have no sleep(1). `host` is the engine's
        address; other options are those of `skerry.sdk.requests.create_container`.
        """
        self._wanted = Wanted(
            image, isolation, name, environment, working_dir, user, memory, cpus, pids_limit, disk,
            network, volumes, labels, lifetime, tuple(keep_alive), options,
        )  # fmt: skip
        self._client = Client(host)
        self._container: Container | None = None
        self._copies: list[Sandbox] = []
        self._unsure = False
        """Whether there may be copies that nobody was told of."""
        self._finalizer: weakref.finalize[..., Sandbox] | None = None

    def __enter__(self) -> Sandbox:
        return self.open()

    def __exit__(self, failed: object, *exc: object) -> None:
        with sandbox_words.closing(failed):
            self.close()

    def __repr__(self) -> str:
        return f"Sandbox({self._wanted.image!r}, id={self.id[:12] if self._container else None})"

    def open(self) -> Sandbox:
        """Make and start it; an image that is not here is made or pulled first.

        Without a `with` block it is removed by `close()`, with this object, or when Python ends.
        """
        if self._container is None:
            request = self._wanted.request()
            try:
                self._create(request)
            except NotFound:
                if _is_here(self._client, self._wanted.image):
                    raise
            if self._container is None:
                _obtain(self._client, self._wanted.image)
                self._create(request)
            try:
                self.container.start()
            except BaseException:
                self.close()
                raise
        return self

    def _create(self, request: Request) -> None:
        _settled(self._client, request, lambda answer: self._adopt(answer["Id"]))

    def _adopt(self, id: str) -> None:
        self._container = Container(self._client, id)
        self._finalizer = weakref.finalize(self, _remove, self._client.host, id, os.getpid())

    def close(self) -> None:
        """Remove it, its copies and its snapshots. Idempotent; where it fails, to try again."""
        try:
            _close_all(self._copies)
            self._copies = []
        finally:
            self._remove()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._client.close()

    def _remove(self) -> None:
        if self._container is None:
            return
        with _own(self._client) as client:
            if self._unsure:
                for each in ask(client, sandbox_words.forks_of(self._container.id)):
                    with contextlib.suppress(NotFound, Conflict):
                        Container(client, each["Id"]).remove(force=True, volumes=True)
            with contextlib.suppress(NotFound, Conflict):
                Container(client, self._container.id).remove(force=True, volumes=True)
        self._container = None

    @property
    def container(self) -> Container:
        """What it is to the engine. Conflict when it is not open."""
        if self._container is None:
            raise Conflict("the sandbox is not open")
        return self._container

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    @property
    def files(self) -> Files:
        """Its files."""
        return Files(self.container, self._client)

    def start(
        self,
        *command: str,
        stdin: bool = False,
        environment: Environment | None = None,
        working_dir: str = "",
        user: str = "",
        timeout: float | None = None,
    ) -> Process:
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
        id = ask(self._client, request)["Id"]
        target = f"/exec/{quote(id)}/start"
        stream = self._client.hijack(target, {"Detach": False, "Tty": False})
        return Process(self._client, id, Attached(stream, tty=False), timeout)

    def exec(
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
        """Run a command to its end.

        `on_output(stream, bytes)` hears pieces as they come (STDOUT or STDERR). TimedOut after
        `timeout` seconds and OutputExceeded after `max_output` bytes, with the program killed;
        SandboxEnded when the sandbox is over with it; with `check`, CommandFailed for an exit code
        other than 0. These four have `stdout` and `stderr`: what was written by then.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        output = sandbox_words.Output(max_output)
        with self.start(
            *command,
            stdin=data is not None,
            environment=environment,
            working_dir=working_dir,
            user=user,
            timeout=timeout,
        ) as process:
            if data is not None:
                threading.Thread(target=process.feed, args=(data,), daemon=True).start()
            try:
                for stream, piece in process:
                    if on_output is not None:
                        on_output(stream, piece)
                    output.add(stream, piece)
                code = process.exit_code
                if not process.outlived:
                    raise self._ended()
            except CommandFault as error:
                error.stdout, error.stderr = output.stdout, output.stderr
                raise
        result = Result(code, output.stdout, output.stderr)
        return result.check() if check else result

    def _ended(self) -> CommandFault:
        with contextlib.suppress(NotFound):
            return sandbox_words.ended(self.container.inspect())
        return sandbox_words.ended({})

    def snapshot(self, name: str = "", comment: str = "") -> Snapshot:
        """Keep it as it is now."""
        request = requests.create_snapshot(self.id, name, comment)
        return sandbox_words.snapshot_of(ask(self._client, request))

    def snapshots(self) -> list[Snapshot]:
        """All of it, oldest first."""
        answer = ask(self._client, requests.list_snapshots(self.id))
        return [sandbox_words.snapshot_of(each) for each in answer]

    def restore(self, snapshot: Snapshot | str) -> None:
        """Go back. What runs is ended; a machine's snapshot brings its programs back."""
        reference = snapshot if isinstance(snapshot, str) else snapshot.id
        ask(self._client, requests.snapshot(reference, "restore", "POST", force=True))

    def fork(self, count: int = 1, *, name: str = "") -> Copies:
        """Running copies that go on from here; they are closed with this sandbox at the latest.

        A copy that fails, or in which something fails that its container wants done there, is in
        the answer's `failures`; the others are there all the same.
        """
        copies = Copies([], [])

        def adopt(id_: str) -> Sandbox:
            copy = Sandbox(self._wanted.image, host=self._client.host)
            copy._wanted = self._wanted
            copy._adopt(id_)
            self._copies.append(copy)
            return copy

        take = sandbox_words.taking(adopt, copies, copies.failures)
        try:
            _settled(self._client, requests.fork(self.id, count, name, True), take)
        except Unavailable:
            self._unsure = True
            raise
        return copies

    def commit(self, name: str, *, message: str = "") -> str:
        """Keep its files as an image; the image's id."""
        return self.container.commit(name, message=message)

    @staticmethod
    def leftovers(host: str | None = None) -> list[Container]:
        """Sandboxes of programs that died before they could close them, and open ones."""
        client = Client(host)
        answer = ask(client, requests.list_containers(all=True, filters={"label": [LABEL]}))
        return [Container(client, each["Id"]) for each in answer]


class Copies(list[Sandbox]):
    """Forks of a sandbox. As a `with` block they are closed at its end."""

    def __init__(self, made: list[Sandbox], failures: list[ForkFailure]) -> None:
        super().__init__(made)
        self.failures = failures

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, failed: object, *exc: object) -> None:
        with sandbox_words.closing(failed):
            self.close()

    def close(self) -> None:
        """Remove all of them. Idempotent."""
        _close_all(self)

    def exec(self, *command: str, **options: Any) -> list[Result | SkerryError | GuestFault]:
        """Run a command in every copy at once, as `Sandbox.exec`: its result or its error each."""

        def run(copy: Sandbox) -> Result | SkerryError | GuestFault:
            try:
                return copy.exec(*command, **options)
            except (SkerryError, GuestFault) as error:
                return error

        return _in_all(run, self)

    def map(self, function: Callable[[Sandbox], T]) -> list[T | Exception]:
        """Call a function with every copy at once, in threads: its value or its error each."""

        def run(copy: Sandbox) -> T | Exception:
            try:
                return function(copy)
            except Exception as error:
                return error

        return _in_all(run, self)


def _in_all(function: Callable[[Sandbox], T], copies: Sequence[Sandbox]) -> list[T]:
    pool = ThreadPoolExecutor(max(1, len(copies)))
    try:
        return list(pool.map(function, copies))
    finally:
        # An interrupt does not wait: commands end with their copies.
        pool.shutdown(wait=False, cancel_futures=True)


def _close_all(copies: Sequence[Sandbox]) -> None:
    if copies:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Sandbox.close, copies))


def _settled(client: Client, request: Request, take: Callable[[Any], None]) -> None:
    """Send a request that makes something and hand its answer over, also when the wait for it is
    interrupted: who does not know what was made cannot remove it."""
    asking: Future[Any] = Future()

    def call() -> None:
        try:
            asking.set_result(ask(client, request))
        except BaseException as error:
            asking.set_exception(error)

    # Interrupts reach the main thread only.
    threading.Thread(target=call, daemon=True).start()
    try:
        asking.exception()
    finally:
        if asking.exception() is None:
            take(asking.result())
    asking.result()


def _remove(host: str, id: str, owner: int) -> None:
    """What an object leaves that nobody has closed. Only the process that made it removes it."""
    if os.getpid() == owner:
        with Client(host) as client, contextlib.suppress(NotFound, Conflict, Unavailable):
            Container(client, id).remove(force=True, volumes=True)


def _own(client: Client) -> Client:
    """Another connection to the same engine: the first may be in the middle of an answer."""
    return Client(client.host)


def _is_here(client: Client, image: str) -> bool:
    try:
        ask(client, requests.image(image, "json"))
    except NotFound:
        return False
    return True


def _obtain(client: Client, image: str) -> None:
    source = sandbox_words.source_of(image)
    if source.rename is not None:
        with contextlib.suppress(NotFound):
            ask(client, source.rename)
            return
    response = client.open(source.make.method, source.make.target)
    try:
        for message in response.json_lines():
            if message.get("error"):
                raise SystemFault(f"cannot obtain the image {image}: {message['error']}")
    finally:
        response.connection.close()
    if source.rename is not None:
        ask(client, source.rename)
