"""docker-compose 1.29, as Debian has it: health, networks, volumes, build, scale."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import footprint
from bench.daemons import Skerry

pytestmark = [pytest.mark.root]
FILE = """\
version: "2.4"
services:
  db:
    image: busybox
    init: true
    command: sh -c "echo up; touch /data/ready; exec sleep 1000"
    healthcheck: {test: ["CMD", "test", "-e", "/data/ready"], interval: 0.5s, retries: 60}
    networks: [back]
    volumes: ["data:/data", "./shared:/shared:ro"]
  web:
    build: {context: ., args: {SAID: built}}
    init: true
    depends_on: {db: {condition: service_healthy}}
    environment: {WHO: compose}
    networks: {back: {aliases: [www]}, front: {}}
    ports: ["127.0.0.1::80"]
networks:
  front: {}
  back: {internal: true}
volumes:
  data: {labels: {kept: "yes"}}
"""
DOCKERFILE = """\
FROM busybox
ARG SAID
RUN mkdir /www && echo "$SAID" > /www/index.html
CMD ["sh", "-c", "echo serving for $WHO; exec httpd -f -p 80 -h /www"]
"""

Compose = Callable[..., str]


def compose_in(engine: Skerry, folder: Path) -> Compose:
    """`compose("up", "-d")`: standard output and error; the exit code has to be 0."""

    def call(*words: str) -> str:
        # Inside the build, classic steps; DOCKER_BUILDKIT is not ours to set.
        done = subprocess.run(
            ["docker-compose", "--ansi", "never", "-p", folder.name, *words],
            cwd=folder,
            env=engine.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not shutil.which("docker-compose"):
        pytest.skip("needs the Debian package docker-compose")
    folder = tmp_path / f"project{os.getpid()}"
    (folder / "shared").mkdir(parents=True)
    (folder / "shared/note").write_text("from the host")
    (folder / "docker-compose.yml").write_text(FILE)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


@pytest.fixture
def compose(own_engine: Skerry, folder: Path) -> Iterator[Compose]:
    call = compose_in(own_engine, folder)
    yield call
    call("down", "-v", "-t", "2")


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return result


def fetch(address: str) -> str:
    command = ["curl", "-s", "--noproxy", "*", "--max-time", "5", f"http://{address}/"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_project_from_up_to_down(own_engine: Skerry, compose: Compose, folder: Path) -> None:
    engine = own_engine
    # The spawner and the helper of networks come with the first that needs them, and stay.
    engine.docker("network", "create", "first")
    engine.docker("run", "--rm", "--network", "first", "busybox", "true")
    engine.docker("network", "rm", "first")
    before = footprint.take(engine.folders, [engine.run_root])
    compose("up", "-d")
    listed = compose("ps")
    assert "Up (healthy)" in listed
    assert listed.count(" Up ") == 2
    port = compose("port", "web", "80").strip()
    assert port.startswith("127.0.0.1:")
    assert until(lambda: fetch(port)) == "built\n"
    # Names: the service, an alias, the container.
    for name in ("web", "www", f"{folder.name}_web_1"):
        assert compose("exec", "-T", "db", "wget", "-qO-", f"http://{name}/") == "built\n"
    assert compose("exec", "-T", "db", "cat", "/shared/note") == "from the host"
    compose("up", "-d", "--scale", "web=3")
    found = compose("exec", "-T", "db", "nslookup", "web")
    assert sum(line.startswith("Address") for line in found.splitlines()) >= 3
    assert until(lambda: compose("logs", "web").count("serving for compose") == 3)
    follow = ["docker-compose", "--ansi", "never", "-p", folder.name, "logs", "-f", "db"]
    with subprocess.Popen(
        follow, cwd=folder, env=engine.environment(), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout
        assert "Attaching" in follower.stdout.readline()
        assert "up" in follower.stdout.readline()
        compose("stop", "-t", "1", "db")
        follower.stdout.read()
    compose("start", "db")
    compose("rm", "-sfv", "web")
    compose("down", "-v", "-t", "1", "--rmi", "local")
    assert engine.docker("ps", "-aq").stdout == ""
    assert engine.docker("volume", "ls", "-q").stdout == ""
    networks = engine.docker("network", "ls", "--format", "{{.Name}}").stdout.split()
    assert not [name for name in networks if folder.name in name]
    left = footprint.settle(before, engine.folders, [engine.run_root])
    assert not [line for line in left if "helper" not in line], left


def test_a_killed_engine_in_the_middle(own_engine: Skerry, compose: Compose, folder: Path) -> None:
    """What was up stays up while the engine is down, and the same command finishes the rest."""
    engine = own_engine
    compose("up", "-d")
    port = compose("port", "web", "80").strip()
    assert until(lambda: fetch(port)) == "built\n"
    engine.stop(signal.SIGKILL)
    assert fetch(port) == "built\n"
    engine.start()
    assert compose("exec", "-T", "db", "wget", "-qO-", "http://www/") == "built\n"
    # Now in the middle of an up that makes more.
    with subprocess.Popen(
        ["docker-compose", "-p", folder.name, "up", "-d", "--scale", "web=4"],
        cwd=folder,
        env=engine.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as half:
        until(lambda: len(engine.docker("ps", "-aq").stdout.split()) > 2)
        engine.stop(signal.SIGKILL)
        half.wait(120)
    engine.start()
    compose("up", "-d", "--scale", "web=4")
    assert compose("ps").count(" Up ") == 5
    assert fetch(port) == "built\n"
