"""The builds of examples/builds: each is built, run, used by a client that people use, and stopped.

Packages come over the network; what apt, pip and npm fetched stays in cache mounts for the next.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Skerry

pytestmark = [pytest.mark.root, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples/builds"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
DEADLINE = 120.0

Started = Callable[[str, int], int]


@pytest.fixture(scope="module")
def debian(engine: Skerry) -> str:
    """The base that needs no registry."""
    engine.skerry("bootstrap", "debian:bookworm", timeout=400)
    return "debian:bookworm"


def build(engine: Skerry, name: str) -> str:
    """The example's image."""
    words = ["--network", "host", "-q", "-t", f"example-{name}"]
    if AUTHORITIES.exists():
        words += ["--secret", f"id=ca,src={AUTHORITIES}"]
    engine.skerry("build", *words, str(EXAMPLES / name), timeout=500)
    return f"example-{name}"


def built_by_docker(engine: Skerry, name: str) -> str:
    """What the classic builder's client says, building the same."""
    done = engine.docker(
        *("build", "--network", "host", "-t", f"example-{name}", str(EXAMPLES / name)), timeout=500
    )
    return done.stdout


@pytest.fixture
def started(engine: Skerry) -> Iterator[Started]:
    """`started(image, port)`: runs it until it is healthy; the port on loopback. At the end it is
    asked to stop, by the image's own signal, which it has to follow."""
    made: list[str] = []

    def start(image: str, port: int) -> int:
        run = ("run", "-d", "-p", f"127.0.0.1::{port}", image)
        name = engine.skerry(*run).stdout.strip()
        made.append(name)
        deadline = time.monotonic() + DEADLINE
        while (state := _state(engine, name))["Health"]["Status"] != "healthy":
            assert state["Running"], engine.skerry("logs", name, check=False).stderr
            assert time.monotonic() < deadline, state["Health"]
            time.sleep(0.2)
        return int(engine.skerry("port", name, str(port)).stdout.split()[0].rpartition(":")[2])

    yield start
    for name in made:
        engine.skerry("stop", "-t", "100", name, timeout=120)
        code = _state(engine, name)["ExitCode"]
        engine.skerry("rm", "-f", name, timeout=120)
        assert code == 0


def _state(engine: Skerry, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.skerry("inspect", name).stdout)[0]["State"]
    return found


def fetched(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
        data: bytes = answer.read()
        return data


def client(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, timeout=120, env=os.environ | environment
    )
    return done.stdout.decode().strip()


def test_twelve_stages_beside_one_another(engine: Skerry) -> None:
    image = build(engine, "fanout")
    run = ("run", "--rm", "--network", "none", image)
    assert engine.docker(*run).stdout.strip() == str(sum(range(1, 13)))
    # Both clients share one cache.
    assert built_by_docker(engine, "fanout").count(" ---> Using cache\n") == 24
    assert engine.docker(*run).stdout.strip() == str(sum(range(1, 13)))


def test_a_program_alone_in_an_empty_image(engine: Skerry, debian: str) -> None:
    image = build(engine, "c")
    run = ("run", "--rm", "--network", "none", image)
    assert engine.docker(*run).stdout.split() == "2 3 5 7 11 13 17 19 23 29".split()
    assert engine.docker(*run, "10").stdout.split() == ["2", "3", "5", "7"]
    files = json.loads(engine.docker("inspect", image).stdout)[0]
    assert len(files["RootFS"]["Layers"]) == 1
    assert files["Size"] < 2_000_000
    assert "Successfully tagged example-c:latest" in built_by_docker(engine, "c")


def test_redis(engine: Skerry, debian: str, started: Started) -> None:
    port = started(build(engine, "redis"), 6379)
    ask = ("redis-cli", "-p", str(port))
    assert client(*ask, "set", "greeting", "hello") == "OK"
    assert client(*ask, "get", "greeting") == "hello"
    assert client(*ask, "incrby", "n", "41") == "41"
    assert "aof_enabled:1" in client(*ask, "info", "persistence")


def test_nginx(engine: Skerry, debian: str, started: Started) -> None:
    port = started(build(engine, "nginx"), 80)
    assert b"Built here." in fetched(port, "/")
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        raw.sendall(b"GET /none HTTP/1.0\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 404")


def test_a_python_web_service(engine: Skerry, debian: str, started: Started) -> None:
    port = started(build(engine, "python"), 8000)
    assert json.loads(fetched(port, "/square/12")) == {"number": 12, "square": 144, "uid": 900}


def test_a_node_service(engine: Skerry, debian: str, started: Started) -> None:
    port = started(build(engine, "node"), 8080)
    assert json.loads(fetched(port, "/upper/skerry")) == {"word": "SKERRY"}


def test_postgres(engine: Skerry, debian: str, started: Started) -> None:
    port = started(build(engine, "postgres"), 5432)
    address = f"postgresql://app@127.0.0.1:{port}/app"
    sql = (
        "create table t (n int primary key); insert into t select generate_series(1, 1000); "
        "select sum(n) from t"
    )
    assert client("psql", "-qAtc", sql, address, PGPASSWORD="app") == "500500"
