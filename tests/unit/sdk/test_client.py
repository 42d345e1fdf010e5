"""Calls, errors by status, and the objects on top."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base import errors
from skerry.sdk import Engine
from skerry.sdk.client import Client, error_of
from skerry.sdk.requests import create_container, words

Start = Callable[..., Any]
Reply = Callable[..., bytes]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (304, errors.NotModified),
        (400, errors.InvalidInput),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (418, errors.InvalidInput),
        (500, errors.SystemFault),
        (501, errors.Unsupported),
        (502, errors.MachineFault),
        (503, errors.Unavailable),
    ],
)
def test_a_status_is_an_error_of_its_kind(
    status: int, kind: type[errors.SkerryError | errors.GuestFault]
) -> None:
    error = error_of(status, b'{"message": "why", "hint": "do"}')
    assert type(error) is kind
    assert (error.message, error.hint) == ("why", "do")


def test_an_error_without_json_still_says_something() -> None:
    assert error_of(500, b"plain words\n").message == "plain words"
    assert "500" in error_of(500, b"").message
    assert "500" in error_of(500, b"{}").message


def test_calls_speak_json(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b'{"Id": "x"}', "201 Created"), reply(b"OK", kind="text/plain"))
    with Client(server.host) as client:
        assert client.post("/containers/create", {"Image": "é"}) == {"Id": "x"}
        assert client.get("/_ping") == "OK"
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {"Image": "é"}


def test_an_engine_error_is_raised_and_the_connection_lives(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b'{"message": "No such container: x"}', "404 Not Found"), reply(b"[]"))
    with Client(server.host) as client:
        with pytest.raises(errors.NotFound, match="No such container: x"):
            client.get("/containers/x/json")
        assert client.get("/containers/json") == []


def test_a_read_is_repeated_when_the_idle_connection_was_closed(
    scripted: Start, reply: Reply
) -> None:
    closing = reply(b"1").replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
    server = scripted(closing, reply(b"2"))
    with Client(server.host) as client:
        assert client.get("/one") == 1
        assert client.get("/two") == 2


def test_a_change_after_a_long_rest_gets_a_fresh_connection(tmp_path: Path, reply: Reply) -> None:
    path = str(tmp_path / "resting.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(2)
    requests = []

    def serve() -> None:
        for number in (b"1", b"2"):
            connection, _ = listener.accept()
            requests.append(connection.recv(65536).partition(b" HTTP")[0])
            connection.sendall(reply(number))
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Client(f"unix://{path}") as client:
        assert client.post("/one") == 1
        kept = client._kept
        assert kept
        deadline = time.monotonic() + 120
        while not kept.stale():
            assert time.monotonic() < deadline
        assert client.post("/two") == 2
    thread.join()
    listener.close()
    assert requests == [b"POST /one", b"POST /two"]


def test_a_resting_connection_is_not_stale(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b"1"), reply(b"2"))
    with Client(server.host, timeout=5) as client:
        assert client.post("/one") == 1
        kept = client._kept
        assert kept and not kept.stale()
        assert client.post("/two") == 2
        assert client._kept is kept


def test_no_engine_and_no_permission_have_words(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="no engine listens") as caught:
        Client(f"unix://{tmp_path}/nothing.sock").get("/_ping")
    assert "skerry engine" in caught.value.hint
    with pytest.raises(errors.InvalidInput):
        Client("tcp://127.0.0.1:1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_permission_denied_says_what_to_do(tmp_path: Path, scripted: Start) -> None:
    server = scripted(b"")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            Client(server.host).get("/_ping")
        except errors.Forbidden as error:
            code = 0 if "permission denied" in error.message and error.hint else 2
        finally:
            os._exit(code)
    os.chmod(server.path, 0o600)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_hijack_gives_the_bytes_that_came_along(scripted: Start) -> None:
    server = scripted(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nfirst")
    with Client(server.host) as client:
        connection, first = client.hijack("/containers/x/attach")
    data = first
    while more := connection.recv(100):
        data += more
    connection.close()
    assert data == b"first"
    assert b"Upgrade: tcp" in server.requests[0]


def test_hijack_refused(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b'{"message": "not running"}', "409 Conflict"))
    with Client(server.host) as client, pytest.raises(errors.Conflict, match="not running"):
        client.hijack("/containers/x/attach")


def test_create_container_says_only_what_was_asked() -> None:
    request = create_container(
        "busybox", "sh -c 'echo a b'", name="x", environment={"A": "1"}, memory=64 << 20, cpus=0.5,
        restart="on-failure:3", auto_remove=True, host_config={"ShmSize": 1}, config={"User": "u"},
    )  # fmt: skip
    assert request.target == "/containers/create?name=x"
    assert request.body == {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "echo a b"],
        "Env": ["A=1"],
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "User": "u",
        "HostConfig": {
            "Memory": 64 << 20,
            "NanoCpus": 500_000_000,
            "AutoRemove": True,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "ShmSize": 1,
        },
    }
    assert words(["a b"]) == ["a b"]
    assert words(None) is None


def test_engine_objects(scripted: Start, reply: Reply) -> None:
    server = scripted(
        reply(b'[{"Id": "abc"}]'),
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        reply(b'{"Config": {"Tty": true}}'),
    )
    with Engine(server.host) as engine:
        (container,) = engine.containers.list(all=True)
        container.start()
        assert container.inspect() == {"Config": {"Tty": True}}
    assert server.requests[0].startswith(b"GET /containers/json?all=1 ")
    assert server.requests[1].startswith(b"POST /containers/abc/start ")


def test_an_error_inside_a_stream_is_raised(scripted: Start) -> None:
    server = scripted(b'HTTP/1.1 200 OK\r\n\r\n{"status": "a"}\n{"error": "no space"}\n')
    with Engine(server.host) as engine, pytest.raises(errors.SystemFault, match="no space"):
        engine.images.bootstrap("busybox")
