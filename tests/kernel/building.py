"""A small client of the build endpoints (docs/build.md), for tests."""

import base64
import contextlib
import http.client
import io
import json
import socket
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Files = Mapping[str, bytes | str]


class Connection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def archive(files: Files) -> bytes:
    """A tar of these files; a text is a symbolic link's target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_000_000_000
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Result(NamedTuple):
    """A build that has ended."""

    id: str
    events: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [each for each in self.events if each["kind"] == kind]

    @property
    def image(self) -> str:
        """The image's id; the build has to have gone well."""
        assert self.events[-1]["kind"] == "result", self.events[-3:]
        return str(self.events[-1]["image"])

    @property
    def error(self) -> dict[str, Any]:
        """The last event; the build has to have failed."""
        assert self.events[-1]["kind"] == "error", self.events[-1]
        return self.events[-1]

    @property
    def output(self) -> str:
        """All that its programs wrote, by step."""
        logs = sorted(self.of("log"), key=lambda each: [int(n) for n in each["step"].split(".")])
        return "".join(each["data"] for each in logs)

    @property
    def cached(self) -> list[bool]:
        """Of the steps that make layers, in the order of the file: whether they were cached."""
        done = [each for each in self.of("done") if "key" in each]
        done.sort(key=lambda each: [int(n) for n in each["step"].split(".")])
        return [each["cached"] for each in done]


class Client:
    """Builds on one engine."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(self, method: str, url: str, body: Any = None, *, raw: bytes = b"") -> tuple[int, Any]:
        """Status and decoded answer."""
        connection = Connection(self.path)
        try:
            data = raw or (json.dumps(body).encode() if body is not None else None)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, url, data, headers)
            answer = connection.getresponse()
            content = answer.read()
            if "json" in answer.headers.get_content_type() and content.strip():
                return answer.status, json.loads(content)
            return answer.status, content
        finally:
            connection.close()

    def open(self, files: Files, contexts: Mapping[str, Files | bytes], **options: Any) -> str:
        """Open a build and send its contexts; its id."""
        status, made = self.call("POST", "/skerry/builds", options)
        assert status == 201, made
        for name, content in {"default": files, **contexts}.items():
            data = content if isinstance(content, bytes) else archive(content)
            status, answer = self.call(
                "PUT", f"/skerry/builds/{made['Id']}/contexts/{name}", raw=data
            )
            assert status == 204, answer
        return str(made["Id"])

    def events(self, build: str) -> Iterator[dict[str, Any]]:
        """Start it; its events as they come."""
        connection = Connection(self.path)
        with contextlib.closing(connection):
            connection.request("POST", f"/skerry/builds/{build}/start")
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for each in answer:
                yield json.loads(each)

    def build(
        self,
        dockerfile: str,
        files: Files | None = None,
        contexts: Mapping[str, Files | bytes] | None = None,
        *,
        keep: bool = False,
        secrets: Mapping[str, bytes] | None = None,
        **options: Any,
    ) -> Result:
        """Build to the end. The session is closed, unless `keep`."""
        if secrets:
            options["Secrets"] = {k: base64.b64encode(v).decode() for k, v in secrets.items()}
        everything = {"Dockerfile": dockerfile.encode(), **(files or {})}
        opened = self.open(everything, contexts or {}, **options)
        try:
            return Result(opened, list(self.events(opened)))
        finally:
            if not keep:
                self.close(opened)

    def take(self, build: str, name: str = "0") -> bytes:
        """A result of a build that was kept."""
        status, data = self.call("GET", f"/skerry/builds/{build}/outputs/{name}")
        assert status == 200, data
        return bytes(data)

    def close(self, build: str) -> None:
        """Forget it."""
        status, answer = self.call("DELETE", f"/skerry/builds/{build}")
        assert status == 204, answer


def names(data: bytes) -> list[str]:
    """What is in a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def content(data: bytes, name: str) -> bytes:
    """A file of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()
