"""Containers, blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.base.errors import NotModified
from skerry.sdk import requests
from skerry.sdk.attached import Attached
from skerry.sdk.frames import Demultiplexer
from skerry.sdk.requests import Environment, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skerry.sdk.client import Client


class Finished(NamedTuple):
    """How a command ended and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def ask(client: Client, request: Request) -> Any:
    """Send a Request; its JSON answer."""
    return client.call(request.method, request.target, request.body)


class Container:
    """One container, by id. Holds no state of it: `inspect` asks."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"Container({self.id[:12]!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _ask(self, action: str, method: str = "POST", **parameters: object) -> Any:
        return ask(self._client, requests.container(self.id, action, method, **parameters))

    def inspect(self, *, size: bool = False) -> dict[str, Any]:
        """Everything the engine knows of it, in the API's spelling."""
        answer: dict[str, Any] = self._ask("json", "GET", size=size)
        return answer

    @property
    def name(self) -> str:
        """Its name now."""
        return str(self.inspect()["Name"]).lstrip("/")

    @property
    def status(self) -> str:
        """created, running, paused, restarting, removing, exited or dead, now."""
        return str(self.inspect()["State"]["Status"])

    def start(self) -> None:
        """Idempotent. InvalidInput when the command cannot be run."""
        _idempotent(lambda: self._ask("start"))

    def stop(self, *, timeout: int | None = None, signal: str = "") -> None:
        """The stop signal, then SIGKILL after `timeout` seconds. Idempotent."""
        _idempotent(lambda: self._ask("stop", t=timeout, signal=signal))

    def restart(self, *, timeout: int | None = None) -> None:
        """Stop, then start."""
        self._ask("restart", t=timeout)

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal. Conflict when it does not run."""
        self._ask("kill", signal=signal)

    def pause(self) -> None:
        """Freeze every process."""
        self._ask("pause")

    def unpause(self) -> None:
        """Let them go on."""
        self._ask("unpause")

    def rename(self, name: str) -> None:
        """Conflict when the name is taken."""
        self._ask("rename", name=name)

    def wait(self, *, condition: str = "not-running") -> int:
        """The exit code, once it has ended. Conditions: not-running, next-exit, removed."""
        # The answer may take days: its own connection, so that the client stays usable elsewhere.
        request = requests.container(self.id, "wait", condition=condition)
        response = self._client.open(request.method, request.target)
        try:
            return int(response.json()["StatusCode"])
        finally:
            response.connection.close()

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Conflict when it runs and `force` is not given."""
        self._ask("", "DELETE", force=force, v=volumes)

    def update(self, **limits: Any) -> None:
        """Change limits, in the API's spelling: `update(Memory=…, NanoCpus=…)`."""
        target = requests.container(self.id, "update").target
        self._client.post(target, limits)

    def top(self, ps_args: str = "") -> dict[str, Any]:
        """{"Titles": […], "Processes": [[…], …]}."""
        answer: dict[str, Any] = self._ask("top", "GET", ps_args=ps_args)
        return answer

    def changes(self) -> list[dict[str, Any]]:
        """[{"Path": …, "Kind": 0 modified, 1 added, 2 deleted}]."""
        return self._ask("changes", "GET") or []

    def stats(self) -> dict[str, Any]:
        """One reading of the counters."""
        answer: dict[str, Any] = self._ask("stats", "GET", **{"stream": False, "one-shot": True})
        return answer

    def stats_stream(self) -> Iterator[dict[str, Any]]:
        """A reading about every second until it ends."""
        request = requests.container(self.id, "stats", "GET", stream=True)
        response = self._client.open(request.method, request.target)
        try:
            yield from response.json_lines()
        finally:
            response.connection.close()

    def logs(
        self,
        *,
        follow: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> Iterator[tuple[int, bytes]]:
        """(stream, bytes) pieces of what it has written."""
        tty = bool(self.inspect()["Config"].get("Tty"))
        request = requests.logs(
            self.id, follow=follow, stdout=stdout, stderr=stderr, tail=tail, timestamps=timestamps
        )
        response = self._client.open(request.method, request.target)
        frames = None if tty else Demultiplexer()
        try:
            for chunk in response.chunks():
                yield from frames.feed(chunk) if frames else [(1, chunk)]
        finally:
            response.connection.close()

    def output(self) -> bytes:
        """All that its log holds, both streams in the order written."""
        return b"".join(piece for _, piece in self.logs())

    def attach(self, *, stdin: bool = False, logs: bool = False) -> Attached:
        """Join its streams; with `logs` what was written before comes first."""
        tty = bool(self.inspect()["Config"].get("Tty"))
        target = requests.attach_target(self.id, stdin=stdin, logs=logs)
        return Attached(self._client.hijack(target), tty=tty)

    def exec(
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
        id = ask(self._client, request)["Id"]
        stream = self._client.hijack(f"/exec/{id}/start", {"Detach": False, "Tty": False})
        with Attached(stream, tty=False) as attached:
            if input is not None:
                attached.write(input)
                attached.close_stdin()
            stdout, stderr = attached.read()
        return Finished(int(self._client.get(f"/exec/{id}/json")["ExitCode"]), stdout, stderr)

    def get_archive(self, path: str) -> Iterator[bytes]:
        """A tar stream of a path inside."""
        request = requests.container(self.id, "archive", "GET", path=path)
        response = self._client.open(request.method, request.target)
        try:
            yield from response.chunks()
        finally:
            response.connection.close()

    def put_archive(
        self, path: str, data: bytes | Iterable[bytes], *, keep_kinds: bool = False
    ) -> None:
        """Unpack a tar stream into a folder inside. With `keep_kinds` a file does not replace a
        folder, nor a folder a file."""
        request = requests.put_archive(self.id, path, keep_kinds=keep_kinds)
        headers = {"Content-Type": "application/x-tar"}
        response = self._client.open(request.method, request.target, data, headers)
        response.connection.close()

    def export(self) -> Iterator[bytes]:
        """Its file system as a tar stream."""
        request = requests.container(self.id, "export", "GET")
        response = self._client.open(request.method, request.target)
        try:
            yield from response.chunks()
        finally:
            response.connection.close()

    def commit(
        self,
        name: str = "",
        *,
        message: str = "",
        author: str = "",
        changes: list[str] | None = None,
    ) -> str:
        """An image of its changes; the image's id."""
        request = requests.commit(self.id, name, message=message, author=author, changes=changes)
        return str(ask(self._client, request)["Id"])

    def resize(self, rows: int, columns: int) -> None:
        """Set its terminal's size."""
        self._ask("resize", h=rows, w=columns)


def _idempotent(call: Any) -> None:
    try:
        call()
    except NotModified:
        return


class Containers:
    """`engine.containers`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self, image: str, command: str | list[str] | None = None, **options: Any
    ) -> Container:
        """Make a container; options as `skerry.sdk.requests.create_container`."""
        request = requests.create_container(image, command, **options)
        return Container(self._client, ask(self._client, request)["Id"])

    def run(self, image: str, command: str | list[str] | None = None, **options: Any) -> Finished:
        """Create, run to the end, remove; the exit code and what it wrote."""
        container = self.create(image, command, **options)
        try:
            with container.attach() as attached:
                container.start()
                stdout, stderr = attached.read()
            return Finished(container.wait(), stdout, stderr)
        finally:
            container.remove(force=True, volumes=True)

    def start(
        self, image: str, command: str | list[str] | None = None, **options: Any
    ) -> Container:
        """Create and start; the running container."""
        container = self.create(image, command, **options)
        try:
            container.start()
        except BaseException:
            container.remove(force=True, volumes=True)
            raise
        return container

    def get(self, name: str) -> Container:
        """By id, beginning of an id, or name. NotFound."""
        answer = ask(self._client, requests.container(name, "json", "GET"))
        return Container(self._client, answer["Id"])

    def list(
        self, *, all: bool = False, filters: dict[str, list[str]] | None = None
    ) -> list[Container]:
        """Those that run, or all."""
        request = requests.list_containers(all=all, filters=filters)
        return [Container(self._client, each["Id"]) for each in ask(self._client, request)]

    def prune(self) -> dict[str, Any]:
        """Remove all that are stopped."""
        answer: dict[str, Any] = self._client.post("/containers/prune")
        return answer
