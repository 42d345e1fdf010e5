"""The lean HTTP client against honest and hostile answers."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError, Unavailable
from skerry.sdk import http
from skerry.sdk.http import Connection, query, quote

Start = Callable[..., Any]


def test_quote_leaves_only_unreserved_characters() -> None:
    assert quote("a/b c?ü~") == "a%2Fb%20c%3F%C3%BC~"


def test_query_leaves_out_what_is_not_given() -> None:
    made = query(a=None, b="", c=True, d=False, e=["x", "y"], f={"k": ["v"]}, g=0)
    assert made == "?c=1&d=0&e=x&e=y&f=%7B%22k%22%3A%5B%22v%22%5D%7D&g=0"
    assert query() == ""


def test_keeps_the_connection(scripted: Start, reply: Callable[..., bytes]) -> None:
    server = scripted(reply(b'{"n": 1}'), reply(b'{"n": 2}'))
    with Connection(server.path) as connection:
        assert connection.request("GET", "/one").json() == {"n": 1}
        assert connection.request("POST", "/two", b"{}").json() == {"n": 2}
        assert connection.reusable
    assert server.requests[0].startswith(b"GET /one HTTP/1.1\r\nHost: ")
    assert server.requests[1].endswith(b"Content-Length: 2\r\n\r\n{}")


def test_reads_chunks_with_extensions_and_trailers(scripted: Start) -> None:
    server = scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    with Connection(server.path) as connection:
        assert connection.request("GET", "/").read() == b"hello 0123456789"
        assert connection.reusable


def test_reads_to_the_end_without_a_length(scripted: Start) -> None:
    server = scripted(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
    with Connection(server.path) as connection:
        assert connection.request("GET", "/").read() == b"until the end"
        assert not connection.reusable


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_no_body_where_there_is_none(
    scripted: Start, reply: Callable[..., bytes], status: str
) -> None:
    server = scripted(f"HTTP/1.1 {status}\r\n\r\n".encode(), reply(b"1"))
    with Connection(server.path) as connection:
        assert connection.request("POST", "/").read() == b""
        assert connection.request("GET", "/").json() == 1


def test_skips_100_continue(scripted: Start, reply: Callable[..., bytes]) -> None:
    server = scripted(b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"7"))
    with Connection(server.path) as connection:
        assert connection.request("GET", "/").json() == 7


def test_sends_an_iterable_in_chunks(scripted: Start, reply: Callable[..., bytes]) -> None:
    server = scripted(reply(b"1"))
    with Connection(server.path) as connection:
        connection.request("POST", "/", iter([b"ab", b"", b"c" * 20])).read()
    assert server.requests[0].endswith(b"\r\n\r\n2\r\nab\r\n14\r\n" + b"c" * 20 + b"\r\n0\r\n\r\n")


def test_json_lines_over_borders(scripted: Start) -> None:
    server = scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'4\r\n{"a"\r\n7\r\n: 1}\n{"\r\n8\r\nb": 2}\n\n\r\n2\r\n[]\r\n0\r\n\r\n'
    )
    with Connection(server.path) as connection:
        assert list(connection.request("GET", "/").json_lines()) == [{"a": 1}, {"b": 2}, []]


HOSTILE = {
    "no http": (b"SSH-2.0-OpenSSH\r\n\r\n", InvalidInput),
    "a bad status": (b"HTTP/1.1 abc\r\n\r\n", InvalidInput),
    "a superscript status": ("HTTP/1.1 ²²²\r\n\r\n".encode("latin-1"), InvalidInput),
    "nothing": (b"\r\n\r\n", InvalidInput),
    "a header without a colon": (b"HTTP/1.1 200 OK\r\nnope\r\n\r\n", InvalidInput),
    "a folded header": (b"HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", InvalidInput),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000, LimitExceeded),
    "one giant header": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200000 + b"\r\n\r\n", LimitExceeded),
    "a head that is cut off": (b"HTTP/1.1 200 OK\r\nX: y", Unavailable),
    "a negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", InvalidInput),
    "a huge length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        InvalidInput,
    ),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", InvalidInput),
    "a body that is cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Unavailable),
    "a chunk size that is none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        InvalidInput,
    ),
    "a signed chunk size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        InvalidInput,
    ),
    "an endless chunk size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000,
        LimitExceeded,
    ),
    "a chunk that is cut off": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        Unavailable,
    ),
    "a chunk that is too long": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        SkerryError,
    ),
    "endless trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20000,
        LimitExceeded,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers_are_errors_with_words(scripted: Start, case: str) -> None:
    script, error = HOSTILE[case]
    server = scripted(script)
    with Connection(server.path, timeout=5) as connection, pytest.raises(error) as caught:
        connection.request("GET", "/").read()
    assert caught.value.message


def test_a_body_has_a_limit(scripted: Start) -> None:
    server = scripted(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000)
    with Connection(server.path) as connection, pytest.raises(LimitExceeded):
        connection.request("GET", "/").read(limit=1000)


def test_a_line_of_a_stream_has_a_limit(scripted: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_LINE", 1000)
    server = scripted(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000)
    with Connection(server.path) as connection, pytest.raises(LimitExceeded):
        list(connection.request("GET", "/").json_lines())


def test_a_silent_engine_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with Connection(path, timeout=0.05) as connection, pytest.raises(Unavailable) as caught:
            connection.request("GET", "/")
    assert "does not answer" in caught.value.message


def test_no_line_break_gets_into_a_request(scripted: Start) -> None:
    server = scripted(b"")
    with Connection(server.path) as connection, pytest.raises(InvalidInput):
        connection.request("GET", "/\r\nX-Injected: 1")
    assert server.requests == []


def test_an_early_answer_is_read_although_the_body_was_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "early.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Connection(path) as connection:
        response = connection.request("POST", "/", (b"x" * 65536 for _ in range(200)))
        assert (response.status, response.read()) == (413, b"big")
    thread.join()
    listener.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(head=st.binary(max_size=300), body=st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_an_error(head: bytes, body: bytes) -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    connection = Connection.__new__(Connection)
    connection._path, connection._timeout = "test", None
    connection._buffer, connection.reusable = bytearray(), True
    connection._socket = here
    there.sendall(b"HTTP/1.1 200 OK\r\n" * (len(body) % 2) + head + b"\r\n\r\n" + body)
    there.close()
    try:
        connection.receive().read()
    except SkerryError as error:
        assert error.message
    finally:
        here.close()


@given(st.binary(max_size=200))
def test_any_chunked_body_is_read_or_an_error(body: bytes) -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    connection = Connection.__new__(Connection)
    connection._path, connection._timeout = "test", None
    connection._buffer, connection.reusable = bytearray(), True
    connection._socket = here
    there.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    there.close()
    try:
        list(connection.receive().json_lines())
    except SkerryError as error:
        assert error.message
    finally:
        here.close()
