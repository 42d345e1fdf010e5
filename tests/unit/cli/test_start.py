"""The short way of a plain exec: what it sends, what it carries, and when it is not the way."""

import json
import os
import posix
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from skerry.cli import start

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n"
Serve = Callable[[bytes], list[bytes]]


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """`serve(answer)`: an engine for one request; the list holds it afterwards."""
    path = tmp_path / "s"
    monkeypatch.setenv("SKERRY_HOST", f"unix://{path}")
    monkeypatch.setattr(start, "_socket_path", lambda: os.environ["SKERRY_HOST"][7:])
    threads: list[threading.Thread] = []

    def begin(answer: bytes) -> list[bytes]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        asked: list[bytes] = []

        def run() -> None:
            with listener, listener.accept()[0] as client:
                asked.append(client.recv(65536))
                client.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return asked

    yield begin
    for thread in threads:
        thread.join(10)


def test_output_and_code(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    asked = serve(UPGRADED + frame(1, b"out") + frame(2, b"err") + frame(4, b"7"))
    assert start.quick_exec("box", ["echo", 'a "b"\n']) == 7
    assert capfd.readouterr() == ("out", "err")
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /skerry/containers/box/exec HTTP/1.1\r\n")
    assert body == rb'{"Cmd":["echo","a \"b\"\n"],"AttachStdout":true,"AttachStderr":true}'


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"SSH-"]
)
def test_an_answer_for_the_ordinary_way(serve: Serve, answer: bytes) -> None:
    serve(answer)
    assert start.quick_exec("box", ["true"]) is None


def test_a_command_that_cannot_run(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    body = b'{"message": "exec: \\"/x\\": stat /x: no such file or directory"}'
    serve(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert start.quick_exec("box", ["/x"]) == 127
    assert "no such file or directory" in capfd.readouterr().err


def test_an_engine_that_goes_away(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    serve(UPGRADED + frame(1, b"half")[:-1])
    assert start.quick_exec("box", ["true"]) == 1
    assert "went away" in capfd.readouterr().err


def test_a_connection_that_was_asked_before(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By start.c, which left the answer to be read here."""
    mine, theirs = socket.socketpair()
    monkeypatch.setattr(start, "_socket_path", lambda: "/nobody/listens")
    with theirs:
        theirs.sendall(UPGRADED + frame(1, b"out") + frame(4, b"3"))
        monkeypatch.setitem(posix.environ, b"SKERRY_ASKED", b"%d" % mine.detach())
        assert start.quick_exec("box", ["true"]) == 3
    assert capfd.readouterr().out == "out"
    assert b"SKERRY_ASKED" not in posix.environ
    assert start.quick_exec("box", ["true"]) is None


@pytest.mark.parametrize(
    ("container", "words"),
    [("-it", ["box", "sh"]), ("a/b", ["sh"]), ("box", ["é"]), ("box", ["x"])],
)
def test_what_is_not_plain_or_not_there(container: str, words: list[str]) -> None:
    assert start.quick_exec(container, words) is None


@given(st.text(st.characters(max_codepoint=127)))
def test_words_are_json(word: str) -> None:
    assert json.loads(start._quoted(word)) == word


@given(
    outputs=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(1, 40), max_size=60),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_frames_may_be_cut_anywhere(
    outputs: list[tuple[int, bytes]], cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(frame(*each) for each in outputs) + frame(4, b"130")
    written: dict[int, bytes] = {1: b"", 2: b""}

    def write(fd: int, piece: bytes) -> None:
        written[fd] += piece

    monkeypatch.setattr(start, "_write", write)

    class Socket:
        def recv(self, _: int) -> bytes:
            nonlocal data
            size = cuts.pop() if cuts else len(data)
            piece, data = data[:size], data[size:]
            return piece

    assert start._carry(Socket(), b"") == 130  # type: ignore[arg-type]
    for number, said in written.items():
        assert said == b"".join(piece for stream, piece in outputs if stream == number)


def test_an_interrupt_ends_a_command_that_a_shell_put_into_the_background() -> None:
    script = (
        "import os, sys; from skerry.cli import main, start; sys.argv = ['skerry', 'x'];"
        "main.entry = lambda: os.kill(os.getpid(), 2); start.entry()"
    )
    command = ["env", "--ignore-signal=INT", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -2
    assert "KeyboardInterrupt" in done.stderr
