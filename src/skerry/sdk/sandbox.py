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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from skerry.base.errors import (
    Conflict,
    GuestFault,
    NotFound,
    SkerryError,
    SystemFault,
    TimedOut,
)
from skerry.sdk import requests, sandbox_words
from skerry.sdk.attached import STDERR, STDOUT, Attached
from skerry.sdk.client import Client, query, quote
from skerry.sdk.containers import Container, ask
from skerry.sdk.sandbox_words import LABEL, Entry, ForkFailure, Result, Snapshot, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skerry.sdk.requests import Environment

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
        if timeout is not None:
            attached.deadline = time.monotonic() + timeout

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._code is None:
            self.kill()
        self._attached.close()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """TimedOut when the time is over; the program has been killed then."""
        try:
            yield from self._attached
        except TimeoutError:
            self.kill()
            raise TimedOut(
                f"the command did not end within {self._timeout:g} seconds and was killed"
            ) from None

    def write(self, data: bytes) -> None:
        """Send to standard input; waits while the program does not read."""
        self._attached.write(data)

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
        if self._code is None:
            self._code = exit_code(self._client, self._id)
        return self._code


def exit_code(client: Client, id: str) -> int:
    """Of an exec whose output has ended. Conflict when it runs all the same."""
    # A program may close its output before it ends.
    deadline = time.monotonic() + 5
    while True:
        state = client.get(f"/exec/{id}/json")
        if not state["Running"] and state["ExitCode"] is not None:
            return int(state["ExitCode"])
        if time.monotonic() > deadline:
            raise Conflict("the command still runs, though it has closed its output")
        time.sleep(0.01)


class Files:
    """`sandbox.files`. Paths are absolute; folders above a written file are made."""

    def __init__(self, container: Container, client: Client) -> None:
        self._container = container
        self._client = client

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Make or replace a file; text is written as UTF-8."""
        raw = data.encode() if isinstance(data, str) else data
        self._container.put_archive("/", sandbox_words.packed(path, raw, mode))

    def read(self, path: str) -> bytes:
        """The content of a file. NotFound."""
        return sandbox_words.content_of(self._container.get_archive(path), path)

    def read_text(self, path: str) -> str:
        """The content of a file as UTF-8."""
        return self.read(path).decode()

    def list(self, path: str = "/") -> list[Entry]:
        """What is in a folder, by name. NotFound."""
        answer = self._client.get(sandbox_words.files_target(self._container.id, path))
        return sandbox_words.entries_of(answer)

    def exists(self, path: str) -> bool:
        """Whether there is something."""
        request = requests.container(self._container.id, "archive", "HEAD", path=path)
        try:
            self._client.open(request.method, request.target).connection.close()
        except NotFound:
            return False
        return True

    def upload(self, local: str, path: str) -> None:
        """A local file or folder becomes `path`, owned by root."""
        self._container.put_archive("/", sandbox_words.packed_local(local, path))

    def download(self, path: str, local: str) -> None:
        """A file or folder becomes `local`; nothing outside that is written."""
        sandbox_words.unpack_local(self._container.get_archive(path), path, local)


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
            image, isolation, name, environment, working_dir, user, memory, cpus, pids_limit,
            network, volumes, labels, lifetime, tuple(keep_alive), options,
        )  # fmt: skip
        self._client = Client(host)
        self._container: Container | None = None
        self._copies: list[Sandbox] = []

    def __enter__(self) -> Sandbox:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sandbox({self._wanted.image!r}, id={self.id[:12] if self._container else None})"

    def open(self) -> Sandbox:
        """Make and start it; an image that is not here is made or pulled first."""
        if self._container is None:
            request = self._wanted.request()
            try:
                id = ask(self._client, request)["Id"]
            except NotFound:
                _obtain(self._client, self._wanted.image)
                id = ask(self._client, request)["Id"]
            self._container = Container(self._client, id)
            try:
                self._container.start()
            except BaseException:
                self.close()
                raise
        return self

    def close(self) -> None:
        """Remove it, its copies and its snapshots. Idempotent."""
        copies, self._copies = self._copies, []
        for copy in copies:
            copy.close()
        container, self._container = self._container, None
        if container is not None:
            with _own(self._client) as client, contextlib.suppress(NotFound, Conflict):
                Container(client, container.id).remove(force=True, volumes=True)
        self._client.close()

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
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> Result:
        """Run a command to its end.

        `on_output(stream, bytes)` hears pieces as they come (STDOUT or STDERR). TimedOut after
        `timeout` seconds, with the program killed; with `check`, CommandFailed for an exit code
        other than 0.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        streams = {STDOUT: bytearray(), STDERR: bytearray()}
        with self.start(
            *command,
            stdin=data is not None,
            environment=environment,
            working_dir=working_dir,
            user=user,
            timeout=timeout,
        ) as process:
            feeder = threading.Thread(target=_feed, args=(process, data), daemon=True)
            if data is not None:
                feeder.start()
            for stream, piece in process:
                streams[stream].extend(piece)
                if on_output is not None:
                    on_output(stream, piece)
            code = process.exit_code
        result = Result(code, bytes(streams[STDOUT]), bytes(streams[STDERR]))
        return result.check() if check else result

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

        A copy that fails is in the answer's `failures`; the others are there all the same.
        """
        answer = ask(self._client, requests.fork(self.id, count, name, True))
        made, failures = [], []
        for each in answer:
            if each["Id"]:
                copy = Sandbox(self._wanted.image, host=self._client.host)
                copy._wanted = self._wanted
                copy._container = Container(copy._client, each["Id"])
                self._copies.append(copy)
                if not each["Error"]:
                    made.append(copy)
            if each["Error"]:
                failures.append(ForkFailure(each["Name"], each["Error"]))
        return Copies(made, failures)

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

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove all of them. Idempotent."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Sandbox.close, self))

    def exec(self, *command: str, **options: Any) -> list[Result | SkerryError | GuestFault]:
        """Run a command in every copy at once, as `Sandbox.exec`: its result or its error each."""

        def run(copy: Sandbox) -> Result | SkerryError | GuestFault:
            try:
                return copy.exec(*command, **options)
            except (SkerryError, GuestFault) as error:
                return error

        with ThreadPoolExecutor(max(1, len(self))) as pool:
            return list(pool.map(run, self))


def _feed(process: Process, data: bytes) -> None:
    # A program that ends before it has read everything needs no more of it.
    with contextlib.suppress(OSError):
        process.write(data)
        process.close_stdin()


def _own(client: Client) -> Client:
    """Another connection to the same engine: the first may be in the middle of an answer."""
    return Client(client.host)


def _obtain(client: Client, image: str) -> None:
    name, made_here = sandbox_words.obtain(image)
    if made_here:
        request = requests.bootstrap(name, include=[], mirror="", key="", tag="")
    else:
        request = requests.pull(name)
    response = client.open(request.method, request.target)
    try:
        for message in response.json_lines():
            if message.get("error"):
                raise SystemFault(f"cannot obtain the image {image}: {message['error']}")
    finally:
        response.connection.close()
