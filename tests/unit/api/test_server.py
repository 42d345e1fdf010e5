"""Requests and answers, over a unix socket and an engine in memory."""

import asyncio
import json
import logging
import struct
import urllib.parse
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from skerry.api import container_list, container_shapes, versions
from skerry.api.routes import streams
from skerry.engine.engine import Engine
from skerry.store.records import Record

Create = Callable[..., Any]
JSON = {"Content-Type": "application/json"}
BODY = {"Image": "busybox", "Cmd": ["true"]}


async def make(http: aiohttp.ClientSession, query: str = "", **more: Any) -> str:
    async with http.post(f"/v1.47/containers/create{query}", json={**BODY, **more}) as answer:
        assert answer.status == 201, await answer.text()
        return str((await answer.json())["Id"])


async def get(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def test_ping_tells_the_version(http: aiohttp.ClientSession) -> None:
    async with http.get("/_ping") as answer:
        assert (answer.status, await answer.text()) == (200, "OK")
        assert answer.headers["Api-Version"] == str(versions.NEWEST)
        assert answer.headers["Ostype"] == "linux"
        assert answer.headers["Docker-Experimental"] == "false"
    async with http.head("/_ping") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1.41/nothing", "/containers/x/nothing"])
async def test_unknown_paths(http: aiohttp.ClientSession, path: str) -> None:
    assert await get(http, path, 404) == {"message": "page not found"}


async def test_a_version_that_is_too_new(http: aiohttp.ClientSession) -> None:
    assert "too new" in (await get(http, "/v1.99/info", 400))["message"]


async def test_info_and_version(http: aiohttp.ClientSession, engine: Engine) -> None:
    info = await get(http, "/info")
    assert info["Images"] == 1
    assert info["DockerRootDir"] == engine.settings.root
    version = await get(http, "/version")
    assert version["ApiVersion"] == "1.50"
    assert version["MinAPIVersion"] == "1.24"


async def test_a_container_from_create_to_remove(http: aiohttp.ClientSession, driver: Any) -> None:
    id = await make(http, "?name=first", Labels={"a": "b"})
    found = await get(http, "/containers/first/json")
    assert found["Id"] == id
    assert found["State"]["Status"] == "created"
    assert found["Config"]["Labels"] == {"from": "image", "a": "b"}
    async with http.post(f"/containers/{id}/start") as answer:
        assert answer.status == 204
    async with http.post(f"/containers/{id}/start") as answer:
        assert answer.status == 304
    listed = await get(http, "/containers/json")
    assert [(line["Names"], line["State"]) for line in listed] == [(["/first"], "running")]
    async with http.delete("/containers/first") as answer:
        assert answer.status == 409
        assert "cannot remove container" in (await answer.json())["message"]
    driver.end(id, 4)
    assert (await get(http, "/containers/first/json"))["State"]["ExitCode"] == 4
    async with http.delete("/containers/first") as answer:
        assert answer.status == 204
    assert await get(http, "/containers/json?all=1") == []


async def test_the_list_tells_what_has_changed_since(http: aiohttp.ClientSession) -> None:
    id = await make(http, "?name=before", HostConfig={"NetworkMode": "none"})
    first = (await get(http, "/containers/json?all=1"))[0]
    assert await get(http, "/containers/json?all=1") == [first]
    async with http.post(f"/containers/{id}/rename?name=after") as answer:
        assert answer.status == 204
    renamed = (await get(http, "/containers/json?all=1"))[0]
    assert renamed["Names"] == ["/after"]
    # As with Docker only inspect tells the names in a network.
    assert renamed["NetworkSettings"]["Networks"]["none"]["DNSNames"] is None
    inspected = await get(http, f"/containers/{id}/json")
    assert "after" in inspected["NetworkSettings"]["Networks"]["none"]["DNSNames"]
    async with http.post(f"/containers/{id}/start") as answer:
        assert answer.status == 204
    started = (await get(http, "/containers/json?all=1"))[0]
    assert (started["State"], started["Names"]) == ("running", ["/after"])
    assert list(started) == list(first)


async def test_a_kept_line_says_how_long_it_has_run(engine: Engine, create: Any) -> None:
    container = await create()
    await engine.containers.start(container.id)
    began = container.state.started_at / 1e9
    for seconds in (0, 1, 59, 60, 119, 120, 5399, 5400, 90_000, 86_400 * 15, 86_400 * 800):
        for now in (began + seconds + 0.2, began + seconds + 0.7):
            text = container_list.lines([container], engine.networks, engine.endpoints, now)
            (line,) = json.loads(text)
            assert line["Status"] == container_shapes.status_text(container, now)


async def test_streams_of_statistics_share_a_reading(engine: Engine, create: Any) -> None:
    container = await create()
    await engine.containers.start(container.id)
    call: Any = SimpleNamespace(engine=engine)
    first = await streams.told_at(10, call, container, None, 1 << 30)
    assert first.reading is not None
    assert await streams.told_at(10, call, container, None, 1 << 30) is first
    second = await streams.told_at(11, call, container, None, 1 << 30)
    assert second is not first
    assert json.loads(second.text)["preread"] == json.loads(first.text)["read"]
    late = await streams.told_at(15, call, container, None, 1 << 30)
    assert json.loads(late.text)["preread"].startswith("0001"), "nobody watched in between"


async def test_wait_answers_its_headers_at_once(http: aiohttp.ClientSession, driver: Any) -> None:
    id = await make(http)
    async with http.post(f"/containers/{id}/wait?condition=next-exit") as answer:
        assert answer.status == 200
        async with http.post(f"/containers/{id}/start") as started:
            assert started.status == 204
        driver.end(id, 12)
        assert json.loads(await answer.text()) == {"StatusCode": 12}


async def test_wait_for_what_is_no_condition(http: aiohttp.ClientSession) -> None:
    id = await make(http)
    async with http.post(f"/containers/{id}/wait?condition=never") as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Image": "absent"}, 404, "No such image: absent"),
        ({**BODY, "Tty": "yes"}, 400, "Tty"),
        ({**BODY, "HostConfig": {"CapAdd": ["FLY"]}}, 400, "invalid CapAdd"),
        (
            {**BODY, "HostConfig": {"NetworkMode": "container:x", "Dns": ["10.0.0.1"]}},
            400,
            "conflicting options: dns and the network mode",
        ),
        ({**BODY, "HostConfig": {"NetworkMode": "mine"}}, 400, "network mine not found"),
        ({**BODY, "HostConfig": {"PortBindings": {"80/tcp": [{}]}}}, 501, "cannot publish"),
        ({**BODY, "HostConfig": {"Sysctls": {"kernel.panic": "1"}}}, 400, "sysctl"),
        (
            {**BODY, "HostConfig": {"DeviceRequests": [{"Capabilities": [["gpu"]]}]}},
            501,
            "could not select device driver",
        ),
        (
            {**BODY, "HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
            400,
            "AutoRemove",
        ),
    ],
)
async def test_what_cannot_be_created(
    http: aiohttp.ClientSession, engine: Engine, body: Any, status: int, words: str
) -> None:
    async with http.post("/containers/create", json=body) as answer:
        assert answer.status == status
        assert words in (await answer.json())["message"]
    assert len(engine.roster) == 0
    assert engine.store.snapshots.list() == []


async def test_a_name_is_given_once(http: aiohttp.ClientSession) -> None:
    id = await make(http, "?name=taken")
    async with http.post("/containers/create?name=taken", json=BODY) as answer:
        assert answer.status == 409
        message = (await answer.json())["message"]
        assert message.startswith('Conflict. The container name "/taken" is already in use by')
        assert id in message


@pytest.mark.parametrize("data", [b"{", b"[]", b"nonsense", b'"x"', b"\xff\xfe"])
async def test_bodies_that_are_no_objects(http: aiohttp.ClientSession, data: bytes) -> None:
    async with http.post("/containers/create", data=data) as answer:
        assert answer.status == 400
        assert "message" in await answer.json()


async def test_a_body_that_is_too_large(http: aiohttp.ClientSession) -> None:
    async with http.post("/containers/create", data=b" " * (9 << 20), headers=JSON) as answer:
        assert answer.status == 400
        assert "larger than" in (await answer.json())["message"]


async def test_filters_in_both_notations(http: aiohttp.ClientSession) -> None:
    id = await make(http, "?name=one", Labels={"k": "v"})
    await make(http, "?name=two")
    for filters in ({"label": ["k=v"]}, {"label": {"k=v": True}}, {"name": ["^one$"]}):
        listed = await get(http, f"/containers/json?all=1&filters={json.dumps(filters)}")
        assert [line["Id"] for line in listed] == [id]
    for wrong in ("{", '{"a": 1}', '{"nothing": ["x"]}', '{"status": ["odd"]}',
                  '{"health": ["odd"]}', '{"is-task": ["odd"]}'):  # fmt: skip
        assert "filter" in (await get(http, f"/containers/json?filters={wrong}", 400))["message"]
    odd = urllib.parse.quote('{"dangling": ["odd"]}')
    assert "odd" in (await get(http, f"/images/json?filters={odd}", 400))["message"]


async def test_events_of_the_past(http: aiohttp.ClientSession) -> None:
    id = await make(http, "?name=told")
    async with http.get("/events?since=1&until=2000000000&filters=%7B%7D") as answer:
        first = json.loads(await answer.content.readline())
    assert first["Action"] == first["status"] == "create"
    assert first["Actor"]["ID"] == first["id"] == id
    assert first["Actor"]["Attributes"]["name"] == "told"


async def read_head(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


@pytest.mark.parametrize("upgrade", [True, False])
async def test_attach_takes_the_connection_over(
    http: aiohttp.ClientSession, socket_path: str, driver: Any, upgrade: bool
) -> None:
    id = await make(http, OpenStdin=True)
    reader, writer = await asyncio.open_unix_connection(socket_path)
    asked = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
    query = "stream=1&stdin=1&stdout=1&stderr=1"
    head = f"POST /v1.47/containers/{id}/attach?{query} HTTP/1.1\r\nHost: x\r\n{asked}\r\n"
    writer.write(head.encode())
    answer = await read_head(reader)
    assert answer.startswith("HTTP/1.1 101 UPGRADED" if upgrade else "HTTP/1.1 200 OK")
    kind = versions.MULTIPLEXED_STREAM if upgrade else versions.RAW_STREAM
    assert kind in answer
    async with http.post(f"/containers/{id}/start") as started:
        assert started.status == 204
    frame = struct.pack(">BxxxI", 1, 5) + b"hello"
    driver.stream.chunks.put_nowait(frame)
    assert await reader.readexactly(13) == frame
    writer.write(b"typed")
    writer.write_eof()
    while not driver.stream.stdin_closed:
        await asyncio.sleep(0)
    assert driver.stream.written == b"typed"
    driver.stream.chunks.put_nowait(b"")
    assert await reader.read() == b""
    writer.close()


async def test_a_connection_that_ends_leaves_nothing(
    http: aiohttp.ClientSession, socket_path: str, engine: Engine
) -> None:
    id = await make(http)
    reader, writer = await asyncio.open_unix_connection(socket_path)
    writer.write(
        f"POST /containers/{id}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    )
    await read_head(reader)
    container = engine.containers.find(id)
    assert len(container.pending) == 1
    async with http.delete(f"/containers/{id}") as answer:
        assert answer.status == 204
    assert await reader.read() == b""
    writer.close()
    assert container.pending == []


@pytest.mark.parametrize("half_first", [False, True])
async def test_a_client_that_goes_without_a_word_is_noticed(
    http: aiohttp.ClientSession,
    socket_path: str,
    engine: Engine,
    half_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skerry.api.hijack.LOOK", 0.01)
    container = engine.containers.find(await make(http, OpenStdin=True))
    reader, writer = await asyncio.open_unix_connection(socket_path)
    head = f"POST /containers/{container.id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"
    writer.write(f"{head}Host: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
    await read_head(reader)
    assert len(container.pending) == 1
    if half_first:
        writer.write_eof()
        await asyncio.sleep(0.05)
        assert len(container.pending) == 1
    writer.close()
    async with asyncio.timeout(120):
        while container.pending:
            await asyncio.sleep(0.005)


async def test_an_exec_from_create_to_its_code(
    http: aiohttp.ClientSession, socket_path: str, driver: Any
) -> None:
    id = await make(http)
    async with http.post(f"/containers/{id}/exec", json={"Cmd": ["x"]}) as answer:
        assert answer.status == 409
    async with http.post(f"/containers/{id}/start") as answer:
        assert answer.status == 204
    wanted = {"Cmd": ["x"], "AttachStdout": True}
    async with http.post(f"/containers/{id}/exec", json=wanted) as answer:
        exec_id = (await answer.json())["Id"]
    async with http.post(f"/exec/{exec_id}/start", json={"Detach": True}) as answer:
        assert answer.status == 200
    found = await get(http, f"/exec/{exec_id}/json")
    assert (found["Running"], found["ExitCode"], found["Pid"]) == (True, None, 4343)
    _, on_exit = driver.execs[exec_id]
    from skerry.base.isolation import Exit

    on_exit(exec_id, Exit(3, False, 0.0))
    found = await get(http, f"/exec/{exec_id}/json")
    assert (found["Running"], found["ExitCode"]) == (False, 3)
    async with http.post(f"/exec/{exec_id}/start", json={"Detach": True}) as answer:
        assert answer.status == 409


async def test_stats_once(http: aiohttp.ClientSession) -> None:
    id = await make(http)
    stopped = await get(http, f"/containers/{id}/stats?stream=0&one-shot=1")
    assert stopped["memory_stats"] == {}
    async with http.post(f"/containers/{id}/start") as answer:
        assert answer.status == 204
    running = await get(http, f"/containers/{id}/stats?stream=0&one-shot=1")
    assert running["memory_stats"]["usage"] == 4096
    assert running["cpu_stats"]["cpu_usage"]["total_usage"] == 10
    assert running["cpu_stats"]["online_cpus"] >= 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/swarm", 503),
        ("GET", "/services", 503),
        ("POST", "/networks/create", 501),
        ("DELETE", "/networks/host", 403),
        ("GET", "/networks/nothing", 404),
        ("GET", "/plugins/x/json", 404),
        ("POST", "/images/create", 400),
        ("GET", "/volumes/none", 404),
        ("PUT", "/info", 404),
        ("POST", "/commit", 400),
        ("POST", "/build?version=3", 400),
        ("GET", "/system/df?type=x", 400),
        ("GET", "/plugins?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", 400),
        ("POST", "/swarm/init", 400),
        ("POST", "/session", 400),
        ("POST", "/exec/x/resize?h=1", 400),
        ("POST", "/containers/x/exec", 400),
    ],
)
async def test_what_is_not_there_is_said_honestly(
    http: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with http.request(method, path, headers=JSON) as answer:
        assert answer.status == status
        assert (await answer.json())["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "words"),
    [
        ("POST", "/containers/create", b"{}", "text/plain", 400, "must be 'application/json'"),
        ("POST", "/volumes/create", b"{}", "", 400, "malformed Content-Type header ()"),
        ("POST", "/volumes/create", b"{}", "application/json; charset=utf-8", 201, ""),
        ("POST", "/volumes/create", b'{"Labels":{"a":"\xff"}}', "application/json", 201, ""),
        ("POST", "/volumes/create", b"{} x", "application/json", 400, "invalid JSON"),
        ("POST", "/volumes/create", b"[" * 20_000, "application/json", 400, "invalid JSON"),
        ("POST", "/containers/create", b'{"HostConfig":[]}', "application/json", 400, "object"),
        ("POST", "/containers/create", b'{"Volumes":{"a":1}}', "application/json", 400, "object"),
        ("POST", "/containers/one/start", b'{"Binds":[]}', "application/json", 400, "non-empty"),
        ("POST", "/containers/one/start", b"{}", "application/json", 204, ""),
        ("POST", "/v1.51.1/volumes/create", b"{}", "application/json", 400, "1.51.1 is too new"),
        ("OPTIONS", "/info", b"", "", 200, ""),
        ("GET", "/containers/one/attach/ws", b"", "", 400, "not websocket protocol"),
        ("POST", "/containers/one/attach?stream=1&detachKeys=a,", b"", "", 400, ""),
        ("GET", "/events?since=2&until=1", b"", "", 400, "cannot be after"),
        ("POST", "/containers/prune?filters={%22x%22:[%22y%22]}", b"", "", 400, "filter 'x'"),
        ("POST", "/images/prune?filters={%22dangling%22:[%22y%22]}", b"", "", 400, "dangling=[y]"),
        ("POST", "/volumes/prune?filters={%22all%22:[%22y%22]}", b"", "", 400, "all=[y]"),
        ("GET", "/containers/json?filters={%22expose%22:[%2299999%22]}", b"", "", 400, "99999"),
    ],
)
async def test_bad_requests_are_answered_as_docker_does(
    http: aiohttp.ClientSession,
    socket_path: str,
    method: str,
    path: str,
    body: bytes,
    kind: str,
    status: int,
    words: str,
) -> None:
    if "/one/" in path:
        await make(http, "?name=one")
    reader, writer = await asyncio.open_unix_connection(socket_path)
    said = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{said}"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if words:
        assert words in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]


async def test_a_version_that_is_too_old_is_told_in_plain_text(http: aiohttp.ClientSession) -> None:
    for version in ("1", "1.", "1.0", "1.23", "0.9"):
        async with http.get(f"/v{version}/_ping") as answer:
            assert (answer.status, answer.content_type) == (400, "text/plain")
            assert f"version {version} is too old" in await answer.text()


async def test_networks_and_volumes(http: aiohttp.ClientSession) -> None:
    assert {each["Name"] for each in await get(http, "/networks")} == {"host", "none"}
    async with http.post("/volumes/create", json={"Name": "data"}) as answer:
        assert answer.status == 201
    assert [each["Name"] for each in (await get(http, "/volumes"))["Volumes"]] == ["data"]
    await make(http, HostConfig={"Binds": ["data:/data"]})
    async with http.delete("/volumes/data") as answer:
        assert answer.status == 409


async def test_images(http: aiohttp.ClientSession, engine: Engine) -> None:
    (image,) = await get(http, "/images/json")
    assert image["RepoTags"] == ["busybox:latest"]
    assert "VirtualSize" not in image
    assert "VirtualSize" in (await get(http, "/v1.41/images/json"))[0]
    found = await get(http, "/images/busybox:latest/json")
    assert found["Config"]["Cmd"] == ["sh"] and "Referrers" not in found
    kept: Any = engine.store.images
    subject = found["Descriptor"]["digest"]
    data = {"artifact_type": "application/spdx+json", "subject": subject, "blobs": []}
    kept.records.rows["referrer"] = [Record("sha256:1", None, data)]
    about = (await get(http, "/images/busybox:latest/json"))["Referrers"]
    assert about == [{"Digest": "sha256:1", "ArtifactType": "application/spdx+json"}]
    assert await get(http, "/images/absent/json", 404)
    fitting, other = (
        urllib.parse.quote(json.dumps({"os": image_os, "architecture": found["Architecture"]}))
        for image_os in (found["Os"], "plan9")
    )
    for path in ("json", "history"):
        path = f"/images/busybox/{path}?platform="
        assert await get(http, path + fitting)
        assert "does not match" in (await get(http, path + other, 404))["message"]
        assert "platform" in (await get(http, f"{path}linux/amd64", 400))["message"]
        assert await get(http, f"/v1.47{path}{other}")
    id = await make(http)
    async with http.delete("/images/busybox?force=1") as answer:
        assert answer.status == 200
    used: Any = engine.store.images
    assert used.in_use == {image["Id"]: [(id, False)]}


def test_clients_that_leave_are_not_logged_as_faults(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("aiohttp.server")
    for error in (ConnectionResetError("Cannot write to closing transport"), ValueError("bad")):
        try:
            raise error
        except (OSError, ValueError):
            log.exception("Error handling request")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
