"""Builds: open one, give it its contexts, follow it, take its results (docs/build.md).

The lean layer below `skerry build` and `engine.images.build`.
"""

from __future__ import annotations

import os

from skerry.base.errors import GuestFault, InvalidInput, NotFound, SkerryError, SystemFault
from skerry.sdk import packing
from skerry.sdk.client import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from skerry.sdk.client import Client
    from skerry.sdk.ssh_agent import KeyAgent

MAIN = "default"
"""The name of the main context."""


class BuildFailed(GuestFault):
    """A program of a RUN ended with another status than 0: `code`, in step `step`."""

    def __init__(self, message: str, hint: str, code: int, step: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.exit_code = code if 0 < code < 256 else 1
        self.step = step


class Build:
    """One build of an engine. Use it in a with statement: `close` cancels what still runs."""

    def __init__(self, client: Client, options: dict[str, Any]) -> None:
        """`options` is the body of POST /skerry/builds."""
        self._client = client
        self.id: str = client.post("/skerry/builds", options)["Id"]
        self._path = f"/skerry/builds/{self.id}"

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. The build's memory in the engine goes."""
        try:
            self._client.delete(self._path)
        except SkerryError:
            return  # the engine has closed it, or is gone

    def send(self, name: str, archive: Iterable[bytes]) -> None:
        """A context as tar."""
        headers = {"Content-Type": "application/x-tar"}
        target = f"{self._path}/contexts/{quote(name)}"
        response = self._client.open("PUT", target, archive, headers)
        try:
            response.read()
        finally:
            response.connection.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Start, and what happens until the end (docs/build.md); the last one is a `result` or an
        `error`. Closing the iterator cancels the build."""
        response = self._client.open("POST", f"{self._path}/start")
        try:
            yield from response.json_lines()
        finally:
            response.connection.close()

    def output(self, number: int, *, cache: bool = False) -> Iterator[bytes]:
        """A result as tar; with `cache` the number counts the cache exports."""
        name = f"cache-{number}" if cache else str(number)
        response = self._client.open("GET", f"{self._path}/outputs/{name}")
        try:
            yield from response.chunks()
        finally:
            response.connection.close()

    def shell(self) -> str:
        """A container in the state of the step that failed; its id. It waits to be started."""
        made: str = self._client.post(f"{self._path}/shell", {"Step": ""})["Id"]
        return made

    def forward(self, connection: int, agent: str | KeyAgent) -> None:
        """Carry one connection of a step to an SSH agent, or to the agent's socket at a path, in a
        thread."""
        import threading

        where = f"{self._path}/agents/{connection}"
        client = type(self._client)(self._client.host)
        carry = threading.Thread(target=_carry, args=(client, where, agent), daemon=True)
        carry.start()


def _carry(client: Client, where: str, agent: str | KeyAgent) -> None:
    import socket
    import threading

    try:
        far, first = client.hijack(where)
    except SkerryError:
        return  # the step has ended meanwhile
    near = socket.socket(socket.AF_UNIX)
    try:
        if isinstance(agent, str):
            near.connect(agent)
        else:
            near.close()
            near, served = socket.socketpair()
            threading.Thread(target=agent.serve, args=(served,), daemon=True).start()
        near.sendall(first)
        back = threading.Thread(target=_copy, args=(near, far), daemon=True)
        back.start()
        _copy(far, near)
        back.join()
    except OSError:
        return  # the program sees a closed connection, as with an agent that has gone
    finally:
        near.close()
        far.close()


def _copy(source: Any, target: Any) -> None:
    import socket

    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def error_of(event: dict[str, Any]) -> SkerryError | BuildFailed:
    """The error that an `error` event means."""
    message, hint = str(event.get("message") or ""), str(event.get("hint") or "")
    if event.get("code"):
        return BuildFailed(message, hint, int(event["code"]), str(event.get("step") or ""))
    return InvalidInput(message, hint=hint)


def local_context(
    options: dict[str, Any],
    folder: str,
    dockerfile: str = "",
    skipped: Callable[[str], None] | None = None,
) -> Iterator[bytes]:
    """The archive of a folder as main context; puts the Dockerfile into `options`.

    `dockerfile` is a path, by default DIR/Dockerfile; one that is outside of the folder is sent
    with the options. NotFound, InvalidInput.
    """
    path = dockerfile or os.path.join(folder, "Dockerfile")
    try:
        inside = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    except OSError as error:
        raise NotFound(f"the working directory has gone: {error.strerror}") from None
    keep = [".dockerignore"]
    if inside.startswith("../") or not os.path.lexists(path):
        if not dockerfile:
            # The engine says what is missing, in Docker's words.
            options["Dockerfile"] = "Dockerfile"
        else:
            options["DockerfileContent"] = read_text(path)
    else:
        options["Dockerfile"] = inside
        keep += [inside, f"{inside}.dockerignore"]
    patterns = packing.rules_of(folder, path)
    return packing.pack(folder, patterns, keep=tuple(keep), skipped=skipped)


def read_text(path: str) -> str:
    """A Dockerfile from somewhere."""
    try:
        with open(path, "rb") as file:
            return as_text(file.read(), path)
    except FileNotFoundError:
        raise NotFound(f"Cannot locate specified Dockerfile: {path}") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def as_text(data: bytes, what: str) -> str:
    """A Dockerfile's text, for it travels as JSON. InvalidInput when it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{what}, line {line}: not UTF-8: byte 0x{data[error.start]:02x}",
            hint="save the Dockerfile as UTF-8",
        ) from None


def image_of(events: Iterable[dict[str, Any]], log: Callable[[str], None] | None = None) -> str:
    """Follow a build to its end: the image's id. BuildFailed, InvalidInput."""
    image = ""
    for event in events:
        kind = event.get("kind")
        if kind == "log" and log:
            log(str(event.get("data") or ""))
        elif kind == "result":
            image = str(event.get("image") or "")
        elif kind == "error":
            raise error_of(event)
    if not image:
        raise SystemFault("the engine ended the build without a result")
    return image
