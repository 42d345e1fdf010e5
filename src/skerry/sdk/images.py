"""Images, blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skerry.base.errors import NotFound, SystemFault
from skerry.sdk import requests
from skerry.sdk.containers import ask
from skerry.sdk.http import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from skerry.sdk.client import Client


class Image:
    """One image, by id."""

    def __init__(self, client: Client, id: str, tags: tuple[str, ...] = ()) -> None:
        self._client = client
        self.id = id
        self.tags = tags

    def __repr__(self) -> str:
        return f"Image({self.tags[0] if self.tags else self.id[:19]!r})"

    def inspect(self) -> dict[str, Any]:
        """Everything the engine knows of it."""
        answer: dict[str, Any] = ask(self._client, requests.image(self.id, "json"))
        return answer

    def history(self) -> list[dict[str, Any]]:
        """How it was made, the newest step first."""
        answer: list[dict[str, Any]] = ask(self._client, requests.image(self.id, "history"))
        return answer

    def tag(self, name: str) -> None:
        """Give it a further name."""
        repository, tag = requests.split_name(name)
        ask(self._client, requests.image(self.id, "tag", "POST", repo=repository, tag=tag))

    def remove(self, *, force: bool = False) -> None:
        """All its names, then itself. Conflict when a container uses it."""
        ask(self._client, requests.image(self.id, "", "DELETE", force=force))


class Images:
    """`engine.images`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, name: str) -> Image:
        """By name or id. NotFound."""
        answer = ask(self._client, requests.image(name, "json"))
        return Image(self._client, answer["Id"], tuple(answer.get("RepoTags") or ()))

    def exists(self, name: str) -> bool:
        """Whether it is here."""
        try:
            self.get(name)
        except NotFound:
            return False
        return True

    def remove(self, name: str, *, force: bool = False) -> list[dict[str, str]]:
        """Take a name away; the image goes with its last one."""
        answer: list[dict[str, str]] = ask(
            self._client, requests.image(name, "", "DELETE", force=force)
        )
        return answer

    def bootstrap(
        self,
        name: str,
        *,
        include: list[str] | None = None,
        mirror: str = "",
        key: str = "",
        tag: str = "",
    ) -> Image:
        """Make a base image without a registry: busybox, debian:SUITE, alpine:VERSION."""
        request = requests.bootstrap(name, include=include or [], mirror=mirror, key=key, tag=tag)
        id = ""
        for message in self._stream(request.method, request.target, None, {}):
            id = (message.get("aux") or {}).get("ID", id)
        return self.get(id)

    def build(
        self,
        path: str = "",
        *,
        tag: str = "",
        dockerfile: str = "",
        text: str = "",
        target: str = "",
        build_args: dict[str, str] | None = None,
        secrets: dict[str, bytes] | None = None,
        no_cache: bool = False,
        log: Callable[[str], None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Image:
        """Build from a folder, or from a Dockerfile's `text` alone or with one; its image.

        `log` gets what the steps print; `options` has whatever else docs/build.md knows. Raises
        BuildFailed when a step's program failed.
        """
        import base64

        from skerry.sdk import builds

        body: dict[str, Any] = {
            "Target": target,
            "Tags": [tag] if tag else [],
            "BuildArgs": build_args or {},
            "Secrets": {
                name: base64.b64encode(data).decode() for name, data in (secrets or {}).items()
            },
            "NoCache": no_cache,
        }
        archive = builds.local_context(body, path, dockerfile) if path else None
        if text:
            body["DockerfileContent"] = text
        with builds.Build(self._client, body | (options or {})) as build:
            if archive is not None:
                build.send(builds.MAIN, archive)
            return self.get(builds.image_of(build.events(), log))

    def load(self, archive: bytes | Iterable[bytes], *, tag: str = "") -> list[str]:
        """Read an archive (docker, OCI, LXC, ACI); the names it brought. `tag` is one more for the
        image of an archive that holds one."""
        headers = {"Content-Type": "application/x-tar"}
        lines = [
            str(message["stream"]).strip()
            for message in self._stream("POST", "/images/load" + query(tag=tag), archive, headers)
            if message.get("stream")
        ]
        return [line.partition(": ")[2] for line in lines if line.startswith("Loaded image")]

    def save(self, *names: str, format: str = "", compression: str = "") -> Iterator[bytes]:
        """An archive of images: `format` is docker-archive (the default), oci-archive, lxc or
        rootfs, `compression` gzip or zstd."""
        target = "/images/get" + query(names=names, format=format, compression=compression)
        response = self._client.open("GET", target)
        try:
            yield from response.chunks()
        finally:
            response.connection.close()

    def import_archive(self, archive: bytes | Iterable[bytes], name: str = "") -> Image:
        """An image of one layer from a tar archive of a file system."""
        repository, tag = requests.split_name(name) if name else ("", "")
        target = "/images/create" + query(fromSrc="-", repo=repository, tag=tag)
        headers = {"Content-Type": "application/x-tar"}
        id = ""
        for message in self._stream("POST", target, archive, headers):
            id = str(message.get("status") or id)
        return self.get(id)

    def prune(self, *, all: bool = False) -> dict[str, Any]:
        """Remove images without a name, or with `all` those without a container."""
        filters = {"dangling": ["false" if all else "true"]}
        answer: dict[str, Any] = self._client.post("/images/prune" + query(filters=filters))
        return answer

    def _stream(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
    ) -> Iterator[dict[str, Any]]:
        response = self._client.open(method, target, body, headers)
        try:
            for message in response.json_lines():
                if message.get("error"):
                    raise SystemFault(str(message["error"]))
                yield message
        finally:
            response.connection.close()

    def list(
        self, *, all: bool = False, filters: dict[str, list[str]] | None = None
    ) -> list[Image]:
        """Every image."""
        answer = ask(self._client, requests.list_images(all=all, filters=filters))
        return [
            Image(self._client, each["Id"], tuple(each.get("RepoTags") or ())) for each in answer
        ]
