"""The engine killed with `kill -9` at any moment: what runs goes on, what was half done goes."""

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
from bench.daemons import PYTHON, Skerry

pytestmark = [pytest.mark.root]

PARENT = f"/skerry-survival-{os.getpid()}"
ROUNDS = 6
CLIENTS = 4
SEED = int(os.environ.get("SKERRY_TEST_SEED", "0")) or random.randrange(1, 10**6)


class Connection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def call(path: str, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """One request on a fresh connection: status and decoded body."""
    connection = Connection(path)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, url, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        if response.headers.get_content_type() != "application/json":
            return response.status, data
        return response.status, json.loads(data) if data.strip() else None
    finally:
        connection.close()


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Poll until the condition gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def crash(engine: Skerry) -> None:
    """kill -9, and start again."""
    assert engine.process is not None
    engine.process.kill()
    engine.process.wait()
    engine.start()


def state(engine: Skerry, name: str) -> Any:
    """`State` of inspect."""
    status, found = call(engine.socket, "GET", f"/containers/{name}/json")
    assert status == 200, found
    return found["State"]


def run_detached(engine: Skerry, name: str, script: str, **host: Any) -> str:
    """Start `sh -c script`; the container's id."""
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host}
    status, made = call(engine.socket, "POST", f"/containers/create?name={name}", body)
    assert status == 201, made
    status, answer = call(engine.socket, "POST", f"/containers/{name}/start")
    assert status == 204, answer
    return str(made["Id"])


def logs(engine: Skerry, name: str) -> str:
    """Standard output so far."""
    return engine.docker("logs", name).stdout


def test_a_running_container_goes_on(own_engine: Skerry) -> None:
    run_detached(
        own_engine, "steady", "echo before; trap 'echo asked; exit 9' TERM; sleep 999 & wait"
    )
    until(lambda: "before" in logs(own_engine, "steady"))
    pid = state(own_engine, "steady")["Pid"]
    crash(own_engine)
    assert state(own_engine, "steady")["Status"] == "running"
    assert state(own_engine, "steady")["Pid"] == pid
    assert own_engine.docker("exec", "steady", "echo", "inside").stdout == "inside\n"
    own_engine.docker("stop", "steady")
    assert state(own_engine, "steady")["ExitCode"] == 9
    assert logs(own_engine, "steady") == "before\nasked\n"


def test_an_end_while_nobody_looks_is_known_afterwards(own_engine: Skerry) -> None:
    flag = own_engine.home / "flag"
    flag.mkdir()
    script = "until test -e /flag/go; do sleep 0.02; done; echo done; exit 7"
    bind = [f"{flag}:/flag"]
    run_detached(own_engine, "kept", script, Binds=bind)
    run_detached(own_engine, "removed", script, Binds=bind, AutoRemove=True)
    run_detached(own_engine, "again", script, Binds=bind, RestartPolicy={"Name": "on-failure"})
    pids = [state(own_engine, name)["Pid"] for name in ("kept", "removed", "again")]
    assert own_engine.process is not None
    own_engine.process.kill()
    own_engine.process.wait()
    (flag / "go").touch()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    (flag / "go").unlink()
    own_engine.start()
    # Its keeper may still be writing the record of the end.
    until(lambda: state(own_engine, "kept")["Status"] == "exited")
    assert state(own_engine, "kept")["ExitCode"] == 7
    assert logs(own_engine, "kept") == "done\n"
    until(lambda: call(own_engine.socket, "GET", "/containers/removed/json")[0] == 404)
    until(lambda: state(own_engine, "again")["Running"] and state(own_engine, "again")["Pid"])
    assert "done\n" in logs(own_engine, "again")


def test_ids_of_execs_outlive_it(own_engine: Skerry) -> None:
    run_detached(own_engine, "home", "sleep 999", IpcMode="shareable")

    def ask(method: str, url: str, body: Any = None, expect: int = 200) -> Any:
        status, answer = call(own_engine.socket, method, url, body)
        assert status == expect, answer
        return answer

    def look(name: str) -> Any:
        return ask("GET", f"/exec/{made[name]}/json")

    made = {
        name: ask("POST", "/containers/home/exec", {"Cmd": words, "Tty": name == "long"}, 201)["Id"]
        for name, words in {
            "long": ["sh", "-c", "until [ -e /dev/shm/go ]; do sleep 0.05; done; exit 7"],
            "short": ["sh", "-c", "exit 3"],
            "bad": ["/nowhere"],
            "waiting": ["true"],
        }.items()
    }
    detached = {"Detach": True}
    for name, status in (("long", 200), ("short", 200), ("bad", 400)):
        ask("POST", f"/exec/{made[name]}/start", detached, status)
    until(lambda: look("short")["ExitCode"] == 3)
    crash(own_engine)
    assert [look(name)["ExitCode"] for name in ("short", "bad")] == [3, 127]
    found = look("long")
    assert (found["Running"], found["ExitCode"]) == (True, None)
    assert found["ProcessConfig"]["tty"]
    assert Path(f"/proc/{found['Pid']}").exists()
    ask("POST", f"/exec/{made['long']}/resize?h=10&w=20")
    listed = ask("GET", "/containers/home/json")["ExecIDs"]
    assert sorted(listed) == sorted([made["long"], made["waiting"]])
    ask("POST", f"/exec/{made['waiting']}/start", detached)
    until(lambda: look("waiting")["ExitCode"] == 0)
    # A second crash, and who joins still finds the donor's memory.
    crash(own_engine)
    joined = ("run", "--rm", "--ipc", "container:home", "busybox", "touch", "/dev/shm/go")
    own_engine.docker(*joined)
    until(lambda: look("long")["ExitCode"] == 7)
    assert ask("GET", "/containers/home/json")["ExecIDs"] is None


def test_a_paused_container_stays_paused(own_engine: Skerry) -> None:
    run_detached(own_engine, "frozen", "sleep 999")
    own_engine.docker("pause", "frozen")
    crash(own_engine)
    assert state(own_engine, "frozen")["Status"] == "paused"
    own_engine.docker("unpause", "frozen")
    assert own_engine.docker("exec", "frozen", "echo", "warm").stdout == "warm\n"


def test_names_images_and_volumes_are_still_there(own_engine: Skerry) -> None:
    own_engine.docker("create", "--name", "made", "-v", "data:/data", "busybox", "ls", "/data")
    own_engine.docker("run", "--rm", "-v", "data:/data", "busybox", "touch", "/data/kept")
    crash(own_engine)
    assert own_engine.docker("start", "-a", "made").stdout == "kept\n"
    assert "data" in own_engine.docker("volume", "ls", "-q").stdout


def test_a_polite_end_leaves_containers_running(own_engine: Skerry) -> None:
    run_detached(own_engine, "steady", "sleep 999")
    pid = state(own_engine, "steady")["Pid"]
    own_engine.stop()
    assert Path(f"/proc/{pid}").exists()
    assert not (own_engine.run_root / "engine.pid").exists()
    own_engine.start()
    assert state(own_engine, "steady")["Pid"] == pid


def test_one_engine_per_root(own_engine: Skerry) -> None:
    second = subprocess.run(
        [
            *(str(PYTHON), "-m", "skerry", "engine", "--root", str(own_engine.root)),
            *("--run-root", str(own_engine.run_root), "--host", own_engine.host + "2"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 1
    assert "another engine" in second.stderr
    assert "Traceback" not in second.stderr
    assert call(own_engine.socket, "GET", "/_ping")[0] == 200


def test_a_lost_keeper_is_an_end(own_engine: Skerry) -> None:
    made = run_detached(own_engine, "orphan", "sleep 999")
    keeper = int((own_engine.run_root / "containers" / made / "keeper.pid").read_text().split()[0])
    os.kill(keeper, 9)
    until(lambda: state(own_engine, "orphan")["Status"] == "exited")
    assert state(own_engine, "orphan")["ExitCode"] != 0
    assert own_engine.docker("start", "orphan").returncode == 0
    assert state(own_engine, "orphan")["Status"] == "running"


class Client:
    """Makes containers and asks things of them, noting what it was promised."""

    def __init__(self, engine: Skerry, number: int) -> None:
        self.engine = engine
        self.number = number
        self.random = random.Random(SEED * 100 + number)
        self.made = 0
        self.running: dict[str, str] = {}
        """Containers that were started and nobody asked to stop: name to script marker."""
        self.ended: dict[str, int] = {}
        """Containers that end by themselves: name to exit code."""
        self.problems: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                self._step()
            except (OSError, http.client.HTTPException, ValueError):
                # The engine was killed under us; it comes back.
                time.sleep(0.01)

    def _call(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        status, answer = call(self.engine.socket, method, url, body)
        if status >= 500:
            self.problems.append(f"{method} {url}: {status} {answer}")
        return status, answer

    def _step(self) -> None:
        what = self.random.choice(("steady", "steady", "short", "exec", "stop", "remove"))
        if what in ("steady", "short") and len(self.running) < 6:
            self._start(what)
        elif self.running:
            name = self.random.choice(list(self.running))
            if what == "exec":
                self._exec(name)
            elif what in ("stop", "remove"):
                # From here on nothing is promised: the answer may be lost in the crash.
                del self.running[name]
                if what == "stop":
                    self._call("POST", f"/containers/{name}/stop?t=0")
                self._call("DELETE", f"/containers/{name}?force=1")

    def _start(self, what: str) -> None:
        self.made += 1
        name = f"c{self.number}-{self.made}"
        code = self.random.randrange(1, 100)
        script = f"echo up-{name}; " + ("exec sleep 999" if what == "steady" else f"exit {code}")
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", script],
            "HostConfig": {"NetworkMode": "none", "CgroupParent": PARENT},
        }
        if self._call("POST", f"/containers/create?name={name}", body)[0] != 201:
            return
        if self._call("POST", f"/containers/{name}/start")[0] == 204:
            if what == "steady":
                self.running[name] = f"up-{name}\n"
            else:
                self.ended[name] = code

    def _exec(self, name: str) -> None:
        status, made = self._call("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
        if status == 201:
            self._call("POST", f"/exec/{made['Id']}/start", {"Detach": True})


def leaked(engine: Skerry) -> list[str]:
    """What is left of containers: mounts, cgroups, run folders, processes but for the engine's."""
    found = footprint.take([engine.home])
    own = {f"process {engine.pid} "}
    for task in Path(f"/proc/{engine.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            children = (task / "children").read_text().split()
            own |= {f"process {child} " for child in children}
    result = [line for line in found.processes if not line.startswith(tuple(own))]
    result += [line for line in found.mounts if engine.home.name in line]
    result += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*{PARENT}/*/cgroup.procs")]
    result += [str(path) for path in (engine.run_root / "containers").iterdir()]
    return result


@pytest.fixture
def own_cgroup() -> Iterator[None]:
    """The cgroup below which this test's containers live."""
    yield
    for path in (*Path("/sys/fs/cgroup").glob(f"*{PARENT}"), Path(f"/sys/fs/cgroup{PARENT}")):
        if path.is_dir():
            path.rmdir()


@pytest.mark.usefixtures("own_cgroup")
def test_killed_at_random_under_load(own_engine: Skerry) -> None:
    engine = own_engine
    chance = random.Random(SEED)
    clients = [Client(engine, number) for number in range(CLIENTS)]
    for _ in range(ROUNDS):
        time.sleep(chance.uniform(0.05, 0.8))
        crash(engine)
    time.sleep(0.3)
    for client in clients:
        client.stop.set()
    for client in clients:
        client.thread.join()
    crash(engine)
    problems = [problem for client in clients for problem in client.problems]
    assert not problems, (SEED, problems[:5])
    for client in clients:
        for name, line in client.running.items():
            assert state(engine, name)["Status"] == "running", (SEED, name)
            until(lambda name=name, line=line: logs(engine, name) == line)
        for name, code in client.ended.items():
            until(lambda name=name: state(engine, name)["Status"] == "exited")
            assert state(engine, name)["ExitCode"] == code, (SEED, name)
            assert logs(engine, name) == f"up-{name}\n"
    assert sum(client.made for client in clients) > CLIENTS
    engine.remove_containers()
    assert until(lambda: not leaked(engine)), leaked(engine)
    assert call(engine.socket, "GET", "/containers/json?all=1") == (200, [])
    for folder in ("containers", "snapshots", "volumes"):
        path = engine.root / folder
        assert not path.exists() or os.listdir(path) == [], folder
