"""What the SDK asks of an engine, as data: method, path with query, JSON body.

Pure, so that the blocking and the asynchronous client share it. Names of parameters are those of
Docker's Engine API in Python's spelling; sizes are bytes, times seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from skerry.sdk.http import query, quote

Environment = dict[str, str] | list[str]


class Request(NamedTuple):
    """One call. `body` is JSON or None."""

    method: str
    target: str
    body: Any = None


def split_name(image: str) -> tuple[str, str]:
    """Repository and tag of an image name, `latest` without one."""
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def create_container(
    image: str,
    command: str | list[str] | None = None,
    *,
    name: str = "",
    environment: Environment | None = None,
    entrypoint: str | list[str] | None = None,
    working_dir: str = "",
    user: str = "",
    hostname: str = "",
    labels: dict[str, str] | None = None,
    volumes: list[str] | None = None,
    mounts: list[dict[str, Any]] | None = None,
    tmpfs: dict[str, str] | None = None,
    network: str = "",
    memory: int | None = None,
    memory_swap: int | None = None,
    cpus: float | None = None,
    pids_limit: int | None = None,
    cap_add: list[str] | None = None,
    cap_drop: list[str] | None = None,
    security_opt: list[str] | None = None,
    privileged: bool = False,
    read_only: bool = False,
    auto_remove: bool = False,
    restart: str = "",
    init: bool | None = None,
    tty: bool = False,
    stdin_open: bool = False,
    stop_signal: str = "",
    stop_timeout: int | None = None,
    healthcheck: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    host_config: dict[str, Any] | None = None,
) -> Request:
    """POST /containers/create. A string as command is split as a shell would.

    `config` and `host_config` carry whatever else the API knows, in the API's own spelling, and
    win over the named parameters.
    """
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": words(command),
        "Entrypoint": words(entrypoint),
        "Env": pairs(environment),
        "WorkingDir": working_dir,
        "User": user,
        "Hostname": hostname,
        "Labels": labels,
        "Tty": tty,
        "OpenStdin": stdin_open,
        "StdinOnce": stdin_open,
        "StopSignal": stop_signal,
        "StopTimeout": stop_timeout,
        "Healthcheck": healthcheck,
    }
    policy, _, count = restart.partition(":")
    host: dict[str, Any] = {
        "Binds": volumes,
        "Mounts": mounts,
        "Tmpfs": tmpfs,
        "NetworkMode": network,
        "Memory": memory,
        "MemorySwap": memory_swap,
        "NanoCpus": None if cpus is None else round(cpus * 10**9),
        "PidsLimit": pids_limit,
        "CapAdd": cap_add,
        "CapDrop": cap_drop,
        "SecurityOpt": security_opt,
        "Privileged": privileged,
        "ReadonlyRootfs": read_only,
        "AutoRemove": auto_remove,
        "Init": init,
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)} if policy else None,
    }
    kept = {key: value for key, value in host.items() if value not in (None, "", False)}
    body["HostConfig"] = kept | (host_config or {})
    body = {key: value for key, value in body.items() if value not in (None, "")}
    return Request("POST", "/containers/create" + query(name=name), body | (config or {}))


def words(command: str | list[str] | None) -> list[str] | None:
    """A command line as its words."""
    if isinstance(command, str):
        import shlex

        return shlex.split(command)
    return command


def pairs(environment: Environment | None) -> list[str] | None:
    """`NAME=value` each."""
    if isinstance(environment, dict):
        return [f"{name}={value}" for name, value in environment.items()]
    return environment


def container(id: str, action: str = "", method: str = "POST", **parameters: object) -> Request:
    """A call on a container: `/containers/ID/ACTION?…`."""
    path = f"/containers/{quote(id)}" + (f"/{action}" if action else "")
    return Request(method, path + query(**parameters))


def put_archive(id: str, path: str, *, keep_kinds: bool) -> Request:
    """PUT /containers/ID/archive."""
    return container(id, "archive", "PUT", path=path, noOverwriteDirNonDir=keep_kinds)


def list_containers(*, all: bool, filters: dict[str, list[str]] | None) -> Request:
    """GET /containers/json."""
    return Request("GET", "/containers/json" + query(all=all, filters=filters))


def logs(
    id: str, *, follow: bool, stdout: bool, stderr: bool, tail: int | None, timestamps: bool
) -> Request:
    """GET /containers/ID/logs."""
    return container(
        id,
        "logs",
        "GET",
        follow=follow,
        stdout=stdout,
        stderr=stderr,
        timestamps=timestamps,
        tail="all" if tail is None else tail,
    )


def create_exec(
    id: str,
    command: str | list[str],
    *,
    environment: Environment | None,
    working_dir: str,
    user: str,
    tty: bool,
    stdin: bool,
    detach: bool,
    privileged: bool,
) -> Request:
    """POST /containers/ID/exec."""
    body = {
        "Cmd": words(command),
        "Env": pairs(environment),
        "WorkingDir": working_dir,
        "User": user,
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Privileged": privileged,
    }
    kept = {key: value for key, value in body.items() if value not in (None, "")}
    return Request("POST", f"/containers/{quote(id)}/exec", kept)


def attach_target(id: str, *, stdin: bool, logs: bool = False) -> str:
    """POST /containers/ID/attach."""
    target = f"/containers/{quote(id)}/attach"
    return target + query(stream=True, stdin=stdin, stdout=True, stderr=True, logs=logs)


def commit(id: str, name: str, *, message: str, author: str, changes: list[str] | None) -> Request:
    """POST /commit."""
    repository, tag = split_name(name) if name else ("", "")
    target = "/commit" + query(
        container=id, repo=repository, tag=tag, comment=message, author=author, changes=changes
    )
    return Request("POST", target, {})


def snapshot(
    reference: str, action: str = "", method: str = "GET", **parameters: object
) -> Request:
    """A call on a snapshot: `/skerry/snapshots/REFERENCE/ACTION?…`."""
    path = f"/skerry/snapshots/{quote(reference)}" + (f"/{action}" if action else "")
    return Request(method, path + query(**parameters))


def create_snapshot(id: str, name: str, comment: str) -> Request:
    """POST /skerry/snapshots."""
    return Request("POST", "/skerry/snapshots" + query(container=id, name=name, comment=comment))


def list_snapshots(id: str) -> Request:
    """GET /skerry/snapshots."""
    return Request("GET", "/skerry/snapshots" + query(container=id))


def fork(id: str, count: int, name: str, start: bool | None) -> Request:
    """POST /skerry/fork; `start` None starts the copies when the original runs."""
    return Request(
        "POST", "/skerry/fork" + query(container=id, count=count, name=name, start=start)
    )


def image(name: str, action: str = "", method: str = "GET", **parameters: object) -> Request:
    """A call on an image: `/images/NAME/ACTION?…`."""
    path = f"/images/{quote(name)}" + (f"/{action}" if action else "")
    return Request(method, path + query(**parameters))


def list_images(*, all: bool, filters: dict[str, list[str]] | None) -> Request:
    """GET /images/json."""
    return Request("GET", "/images/json" + query(all=all, filters=filters))


def bootstrap(name: str, *, include: list[str], mirror: str, key: str, tag: str) -> Request:
    """POST /skerry/bootstrap."""
    target = query(name=name, include=include, mirror=mirror, key=key, tag=tag)
    return Request("POST", f"/skerry/bootstrap{target}")


def pull(image: str) -> Request:
    """POST /images/create."""
    if "@" in image:
        return Request("POST", "/images/create" + query(fromImage=image))
    name, tag = split_name(image)
    return Request("POST", "/images/create" + query(fromImage=name, tag=tag))


def events(
    filters: dict[str, list[str]] | None, since: float | None, until: float | None
) -> Request:
    """GET /events."""
    return Request("GET", "/events" + query(since=since, until=until, filters=filters))
