"""The compiled short way of a plain exec (start.c): what it sends and carries.

What it leaves to the interpreter gets a stand-in, which tells what came.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from skerry.machine.compiled import compiler

REPOSITORY = Path(__file__).resolve().parents[3]
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n"
ORDINARY = """#!/bin/sh
echo "ordinary $*"
test -z "$SKERRY_ASKED" || head -c 12 <&$SKERRY_ASKED
exit 9
"""
PATIENCE = 120

pytestmark = pytest.mark.skipif(not compiler(), reason="there is no C compiler")


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    ordinary = folder / "ordinary"
    ordinary.write_text(ORDINARY)
    ordinary.chmod(0o755)
    path = folder / "skerry"
    source = REPOSITORY / "src/skerry/cli/start.c"
    words = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wconversion"]
    subprocess.run([compiler(), *words, f'-DORDINARY="{ordinary}"', source, "-o", path], check=True)
    return path


class Engine:
    """Answers each connection with these pieces, and keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.answer: list[bytes] = []
        self.asked: list[bytes] = []
        self._path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                if not (asked := client.recv(1 << 20)):
                    return
                self.asked.append(asked)
                with suppress(OSError):  # It may have heard enough.
                    for piece in self.answer:
                        client.sendall(piece)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._path)
        self._thread.join(PATIENCE)
        self._listener.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("engine") / "s")
    yield made
    made.close()


def run(program: Path, engine: Engine, *words: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "SKERRY_HOST": f"unix://{engine._path}", "SKERRY_ASKED": "0"}
    return subprocess.run(
        [program, *words], env=environment, capture_output=True, check=False, timeout=PATIENCE
    )


def test_output_and_code(program: Path, engine: Engine) -> None:
    engine.answer = [
        UPGRADED + frame(1, b"out") + frame(2, b"err") + frame(1, b"") + frame(4, b"7")
    ]
    done = run(program, engine, "exec", "box", "echo", 'a "b"\\\n')
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out", b"err")
    head, _, body = engine.asked[-1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /skerry/containers/box/exec HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {
        "Cmd": ["echo", 'a "b"\\\n'],
        "AttachStdout": True,
        "AttachStderr": True,
    }


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 101", b"SSH-2.0-hello\r\n\r\n"]
)
def test_any_other_answer_is_left_unread(program: Path, engine: Engine, answer: bytes) -> None:
    engine.answer = [answer]
    before = len(engine.asked)
    done = run(program, engine, "exec", "box", "true")
    assert (done.returncode, done.stdout) == (9, b"ordinary exec box true\n" + answer[:12])
    assert len(engine.asked) == before + 1


@pytest.mark.parametrize(
    "words",
    [
        (), ("ps",), ("exec", "box"), ("exec", "-it", "box", "sh"), ("exec", "", "true"),
        ("exec", "a/b", "true"), ("exec", "box", "é"), ("run", "box", "true"),
    ],
)  # fmt: skip
def test_what_is_not_plain(program: Path, engine: Engine, words: tuple[str, ...]) -> None:
    before = len(engine.asked)
    done = run(program, engine, *words)
    assert (done.returncode, done.stdout.decode()) == (9, f"ordinary {' '.join(words)}\n")
    assert len(engine.asked) == before


@pytest.mark.parametrize(
    "host", ["unix:///no/such", "tcp://x", f"unix:///{'x' * 200}", "unix:///é"]
)
def test_where_nobody_listens(program: Path, host: str) -> None:
    done = subprocess.run(
        [program, "exec", "box", "true"],
        env={**os.environ, "SKERRY_HOST": host}, capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (9, b"ordinary exec box true\n")


@pytest.mark.parametrize("rest", [b"", frame(1, b"half")[:-1], frame(4, b"x"), frame(4, b"")])
def test_an_engine_that_goes_away(program: Path, engine: Engine, rest: bytes) -> None:
    engine.answer = [UPGRADED, rest]
    done = run(program, engine, "exec", "box", "true")
    assert done.returncode == 1
    assert b"the engine went away" in done.stderr


def test_nobody_reads(program: Path, engine: Engine) -> None:
    engine.answer = [UPGRADED + frame(1, b"x" * 10) + frame(4, b"0")]
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "SKERRY_HOST": f"unix://{engine._path}"}
    done = subprocess.run(
        [program, "exec", "box", "yes"], env=environment, stdout=write, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 141


def test_an_interrupt(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            ["env", "--ignore-signal=INT", program, "exec", "box", "sleep", "9"],
            env={**os.environ, "SKERRY_HOST": f"unix://{path}"}, stdout=subprocess.PIPE,
        )  # fmt: skip
        with listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(UPGRADED + frame(1, b"here"))
            assert process.stdout
            assert process.stdout.read(4) == b"here"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        process.stdout.close()


@given(
    outputs=st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(1, 40), max_size=20),
    code=st.integers(0, 255),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_frames_may_be_cut_anywhere(
    program: Path, engine: Engine, outputs: list[tuple[int, bytes]], cuts: list[int], code: int
) -> None:
    data = b"".join(frame(*each) for each in outputs) + frame(4, b"%d" % code)
    engine.answer = [UPGRADED]
    for size in cuts:
        engine.answer.append(data[:size])
        data = data[size:]
    engine.answer.append(data)
    done = run(program, engine, "exec", "box", "true")
    said = [b"".join(piece for stream, piece in outputs if stream == number) for number in (1, 2)]
    assert (done.returncode, [done.stdout, done.stderr]) == (code, said)


@given(answer=st.binary(max_size=400))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile_frames_end(program: Path, engine: Engine, answer: bytes) -> None:
    engine.answer = [UPGRADED, answer]
    assert run(program, engine, "exec", "box", "true").returncode >= 0
