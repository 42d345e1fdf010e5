"""testcontainers-python: a container with a port, its log, exec, and a crash of the engine; its
modules of nginx, Redis and PostgreSQL on servers out of Debian."""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Skerry

pytestmark = [pytest.mark.root]
BASE = "debian-servers"
SERVERS = Path(__file__).parent / "servers"
SERVE = "echo served > /tmp/index.html; echo ready; exec httpd -f -p 80 -h /tmp"


@pytest.fixture
def container(own_engine: Skerry, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's module, which reads its settings from the environment."""
    _point(monkeypatch, own_engine)
    from testcontainers.core import container

    return container


def _point(monkeypatch: pytest.MonkeyPatch, engine: Skerry) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    from testcontainers.core import config

    # Its reaper is an image of Docker Hub's.
    monkeypatch.setattr(config.testcontainers_config, "ryuk_disabled", True)


@pytest.fixture(scope="session")
def servers(engine: Skerry) -> Callable[[str], str]:
    """`servers("redis")`: the image of a server. All of them are on one bootstrapped Debian."""
    packages = "--include=nginx-light,redis-server,postgresql-15"
    engine.skerry("bootstrap", "debian:bookworm", packages, "--tag", BASE, timeout=400)

    def image(name: str) -> str:
        tag = f"test-{name}"
        words = ("--build-arg", f"BASE={BASE}", "--target", name, "-q", "-t", tag)
        engine.skerry("build", *words, str(SERVERS))
        return tag

    return image


@pytest.fixture
def server(
    engine: Skerry, servers: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """`servers`, with the library pointed at their engine."""
    _point(monkeypatch, engine)
    return servers


def _fetched(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=120) as answer:
        data: bytes = answer.read()
        return data


def test_a_server_and_a_crash(own_engine: Skerry, container: Any) -> None:
    from testcontainers.core.waiting_utils import wait_for_logs

    web = container.DockerContainer("busybox").with_command(["sh", "-c", SERVE])
    with web.with_exposed_ports(80).with_env("SET", "inside") as running:
        wait_for_logs(running, "ready", timeout=120)
        address = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(80)}/"
        assert _fetched(address) == b"served\n"
        own_engine.stop(signal.SIGKILL)
        assert _fetched(address) == b"served\n"
        own_engine.start()
        assert running.exec(["sh", "-c", "echo $SET"]).output == b"inside\n"
        assert running.get_logs()[0] == b"ready\n"
    assert own_engine.docker("ps", "-aq").stdout == ""


@pytest.mark.slow
def test_nginx(server: Callable[[str], str]) -> None:
    from testcontainers.community.nginx import NginxContainer

    with NginxContainer(server("nginx")) as nginx:
        address = f"http://{nginx.get_container_host_ip()}:{nginx.get_exposed_port(80)}/"
        assert _fetched(address) == b"Served by nginx.\n"
        log = nginx.exec(["cat", "/var/log/nginx/access.log"]).output
        assert b'"GET / HTTP/1.1" 200' in log


@pytest.mark.slow
@pytest.mark.parametrize("password", [None, "secret"])
def test_redis(server: Callable[[str], str], password: str | None) -> None:
    from testcontainers.community.redis import RedisContainer

    with (
        RedisContainer(server("redis"), password=password) as running,
        running.get_client(decode_responses=True) as client,
    ):
        assert client.set("greeting", "hello")
        assert client.get("greeting") == "hello"
        assert client.incrby("n", 41) == 41
        with client.pubsub() as listener:
            listener.subscribe("news")
            assert listener.get_message(timeout=120)["type"] == "subscribe"
            assert client.publish("news", "it works") == 1
            assert listener.get_message(timeout=120)["data"] == "it works"


@pytest.mark.slow
def test_postgres(server: Callable[[str], str]) -> None:
    from testcontainers.community.postgres import PostgresContainer

    names = {"username": "somebody", "password": "a secret", "dbname": "things"}
    with PostgresContainer(server("postgres"), **names) as running:
        address = (
            f"host={running.get_container_host_ip()} port={running.get_exposed_port(5432)} "
            "user=somebody dbname=things"
        )
        sql = (
            "create table t (n int primary key); insert into t select generate_series(1, 1000); "
            "select sum(n), current_user, current_database() from t"
        )
        done = subprocess.run(
            ["psql", "-qAtc", sql, address],
            capture_output=True,
            check=True,
            timeout=120,
            env=os.environ | {"PGPASSWORD": "a secret"},
        )
        assert done.stdout.decode().strip() == "500500|somebody|things"
        refused = subprocess.run(
            ["psql", "-qAtc", "select 1", address],
            check=False,
            capture_output=True,
            timeout=120,
            env=os.environ | {"PGPASSWORD": "another"},
        )
        assert b"password authentication failed" in refused.stderr
