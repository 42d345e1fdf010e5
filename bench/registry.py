"""Our registry server beside Debian's `docker-registry`: pulls by eight clients, pushes by one."""

import contextlib
import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.daemons import PYTHON, REPOSITORY, START_TIMEOUT, STOP_TIMEOUT, MissingPiece
from bench.measure import Case, Outcome, Target, interleave
from bench.ports import free_port
from bench.world import World

CLIENTS = 8
BLOB = 64 << 20
EACH = 3
"""Pulls of one client in a round."""
_CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def registry_pull(world: World, runs: int) -> Outcome:
    """MB/s to eight clients that pull the same blob of 64 MB three times."""
    data = os.urandom(BLOB)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with servers(world.home) as ports:
        for port in ports.values():
            push(port, data)
        cases = [
            Case(name, lambda port=port: pull_rate(port, digest)) for name, port in ports.items()
        ]
        return _compare("registry_pull", cases, runs)


def registry_push(world: World, runs: int) -> Outcome:
    """MB/s of one client that pushes blobs of 64 MB; both servers sync before they acknowledge."""
    with servers(world.home) as ports:
        cases = [Case(name, lambda port=port: push_rate(port)) for name, port in ports.items()]
        return _compare("registry_push", cases, runs)


def _compare(name: str, cases: list[Case], runs: int) -> Outcome:
    targets = [Target("skerry", "docker-registry", 1.0)]
    count = max(2, min(runs, 7))
    return interleave(name, cases, targets, runs=count, warm=1, unit="MB/s", larger_is_better=True)


@contextlib.contextmanager
def servers(home: Path) -> Iterator[dict[str, int]]:
    """Both, started; name to port. What they stored is removed."""
    program = shutil.which("docker-registry")
    if program is None:
        raise MissingPiece("docker-registry is not installed: apt-get install docker-registry")
    folder = home / "registries"
    folder.mkdir()
    ports = {"skerry": free_port(), "docker-registry": free_port()}
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "theirs", port=ports["docker-registry"]))
    ours = [str(PYTHON), "-m", "skerry", "registry", "serve", "--log-level", "error"]
    ours += ["--listen", f"127.0.0.1:{ports['skerry']}", "--storage", str(folder / "ours")]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in (ours, [program, "serve", str(config)]):
            quiet = subprocess.DEVNULL
            running.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=quiet, stderr=quiet))
        for name, port in ports.items():
            wait(name, port)
        yield ports
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOP_TIMEOUT)
        shutil.rmtree(folder)


def wait(name: str, port: int) -> None:
    """Until it takes connections."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > deadline:
            raise MissingPiece(f"{name} does not listen on port {port}")
        time.sleep(0.02)


def push(port: int, data: bytes) -> None:
    """POST, then PUT with all of it."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as peer:
        peer.request("POST", "/v2/bench/blobs/uploads/")
        started = peer.getresponse()
        started.read()
        place = started.getheader("Location", "")
        place = place if place.startswith("/") else "/" + place.split("/", 3)[3]
        peer.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)
        answer = peer.getresponse()
        answer.read()
        if answer.status != 201:
            raise MissingPiece(f"port {port} does not take the blob: {answer.status}")


def push_rate(port: int) -> float:
    """MB/s of a blob that the server has not seen, until it is acknowledged."""
    data = os.urandom(BLOB)
    begin = time.perf_counter()
    push(port, data)
    return BLOB / 1e6 / (time.perf_counter() - begin)


def pull_rate(port: int, digest: str) -> float:
    """MB/s of all clients together."""
    url = f"http://127.0.0.1:{port}/v2/bench/blobs/{digest}"
    failed: list[int] = []

    def client() -> None:
        for _ in range(EACH):
            done = subprocess.run(["curl", "-sf", "-o", "/dev/null", url], check=False)
            if done.returncode:
                failed.append(done.returncode)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begin = time.perf_counter()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    if failed:
        raise MissingPiece(f"{len(failed)} pulls failed, curl says {failed[0]}")
    return CLIENTS * EACH * BLOB / 1e6 / (time.perf_counter() - begin)
