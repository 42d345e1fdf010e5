"""Builds that are cut short, by their client or with the engine: nothing of them stays."""

import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import footprint
from bench.daemons import Skerry
from tests.kernel.building import Client, Connection

pytestmark = [pytest.mark.root]

SEED = int(os.environ.get("SKERRY_TEST_SEED", "0")) or random.randrange(1, 10**6)
ROUNDS = 4
SLOW = """FROM busybox AS a
RUN echo a > /a && sleep {first}
COPY f /f
RUN --mount=type=cache,target=/c --mount=target=/ctx --mount=from=busybox,target=/o,rw \\
    touch /x && sleep 60
FROM busybox
RUN --mount=type=tmpfs,target=/t sleep 60
COPY --from=a /x /x
"""


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Poll until the condition gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


class State:
    """What an engine has before a build; `check` that there is no more afterwards."""

    def __init__(self, engine: Skerry) -> None:
        self._engine = engine
        engine.docker("run", "--rm", *footprint.FIRST, "busybox", "true")
        self._before = footprint.take(engine.folders, [engine.run_root])
        self._kept = self._folders()

    def _folders(self) -> dict[str, set[str]]:
        root = self._engine.root
        names = ("snapshots", "containers", "tmp")
        return {name: set(os.listdir(root / name)) for name in names}

    def check(self, *, restarted: bool = False) -> None:
        """With `restarted` the engine and its helpers are other processes than before."""

        def left() -> list[str]:
            now = footprint.take(self._engine.folders, [self._engine.run_root])
            kinds = ("process ",) if restarted else ()
            return [each for each in now.beyond(self._before) if not each.startswith(kinds)]

        with contextlib.suppress(AssertionError):
            until(lambda: not left())
        assert not left(), "left behind:\n" + "\n".join(left())
        if restarted:
            folders = self._engine.folders
            until(lambda: "sleep 60" not in str(footprint.processes(folders)))

        # What the first container left was perhaps still being removed.
        def more() -> list[str]:
            kept, now = self._kept, self._folders()
            return [f"{name}/{each}" for name in now for each in now[name] - kept[name]]

        with contextlib.suppress(AssertionError):
            until(lambda: not more())
        assert not more(), "left in the root: " + " ".join(more())


def images(engine: Skerry) -> set[str]:
    return set(engine.docker("images", "-aq").stdout.split())


class Background:
    """A build that somebody else ends."""

    def __init__(self, client: Client, dockerfile: str) -> None:
        files = {"Dockerfile": dockerfile.encode(), "f": b"f"}
        self.id = client.open(files, {}, NoCache=True)
        self.connection = Connection(client.path)
        self.seen: list[dict[str, Any]] = []
        self._client = client
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AssertionError):
            self.connection.request("POST", f"/skerry/builds/{self.id}/start")
            self.answer = self.connection.getresponse()
            for each in self.answer:
                self.seen.append(json.loads(each))

    def running(self) -> int:
        return sum(1 for each in list(self.seen) if each["kind"] == "running")

    def leave(self) -> None:
        """The client goes away."""
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(120)

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()


@pytest.fixture
def state(own_engine: Skerry) -> State:
    return State(own_engine)


def test_a_client_that_leaves_ends_its_build(own_engine: Skerry, state: State) -> None:
    client = Client(own_engine.socket)
    build = Background(client, SLOW.format(first="0.1"))
    until(lambda: build.running() >= 3)
    build.leave()
    # Its contexts go as well, though nobody closes it.
    until(lambda: client.call("GET", f"/skerry/builds/{build.id}/outputs/0")[0] == 404)
    state.check()


def test_a_build_can_be_cancelled(own_engine: Skerry, state: State) -> None:
    client = Client(own_engine.socket)
    build = Background(client, SLOW.format(first="60"))
    until(lambda: build.running() >= 2)
    client.close(build.id)
    build.join()
    state.check()
    # The classic way, by the id that the client chose.
    words = ["docker", "-H", own_engine.host, "build", "-q", "-"]
    slow = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=own_engine.environment() | {"DOCKER_BUILDKIT": "0"},
    )
    assert slow.stdin is not None
    slow.stdin.write(b"FROM busybox\nRUN sleep 50\n")
    slow.stdin.close()
    until(lambda: len(os.listdir(own_engine.root / "snapshots")) > 0)
    slow.kill()
    slow.wait()
    state.check()


def test_builds_of_a_killed_engine_are_cleared_away(own_engine: Skerry, state: State) -> None:
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        client = Client(own_engine.socket)
        build = Background(client, SLOW.format(first=f"{chance.random() / 4:.3f}"))
        until(lambda build=build: build.seen)
        threading.Event().wait(chance.random() / 2)
        assert own_engine.process is not None
        own_engine.process.kill()
        own_engine.process.wait()
        build.join()
        own_engine.start()
    own_engine.docker("run", "--rm", *footprint.FIRST, "busybox", "true")
    state.check(restarted=True)
    # And it still builds, on what the dead builds have finished.
    client = Client(own_engine.socket)
    built = client.build("FROM busybox\nRUN echo fine > /f && echo fine\n")
    assert built.output == "fine\n"
    # A shell outlives the engine; what was made for it goes with it all the same.
    before = images(own_engine)
    key = built.of("done")[-1]["key"]
    _, shell = client.call("POST", f"/skerry/build/shell?step={key}")
    assert len(images(own_engine)) == len(before) + 1
    own_engine.process.kill()
    own_engine.process.wait()
    own_engine.start()
    own_engine.docker("rm", shell["Id"])
    until(lambda: images(own_engine) == before)


@pytest.fixture
def small_engine(tmp_path: Path) -> Iterator[Skerry]:
    """An engine whose root is a small file system."""
    with Skerry() as engine:
        engine.stop()
        kept = tmp_path / "kept"
        copy = ("cp", "-a")
        subprocess.run([*copy, engine.root, kept], check=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0710", "small", engine.root], check=True
        )
        try:
            subprocess.run([*copy, f"{kept}/.", engine.root], check=True)
            engine.start()
            yield engine
            engine.stop()
        finally:
            subprocess.run(["umount", "-l", engine.root], check=True)


def test_a_step_that_fills_the_disk_is_ended(small_engine: Skerry) -> None:
    client = Client(small_engine.socket)
    full = client.build("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M; sleep 30\n")
    assert "left on the disk" in full.error["message"]
    assert client.build("FROM busybox\nRUN echo still\n").output == "still\n"
