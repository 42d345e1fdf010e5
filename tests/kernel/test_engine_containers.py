"""Containers through the engine and the docker CLI: namespaces, users, volumes, logs, copies."""

import os
import pty
import re
import select
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import DOCKER, MissingPiece, Skerry

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def docker(engine: Skerry) -> Any:
    """`docker("run", …)`: what it printed; the test's containers go at its end."""

    def call(*args: str, **options: Any) -> str:
        return engine.docker(*args, **options).stdout

    yield call
    engine.remove_containers()


Docker = Callable[..., str]


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def namespaces(docker: Docker, name: str) -> dict[str, str]:
    pid = docker("inspect", "-f", "{{.State.Pid}}", name).strip()
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")}


def test_namespaces_are_private_shared_and_joined(docker: Docker) -> None:
    host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    docker("run", "-d", "--name", "own", "--ipc", "shareable", "busybox", "sleep", "999")
    own = namespaces(docker, "own")
    assert all(own[kind] != host[kind] for kind in ("mnt", "net", "uts", "ipc", "pid"))
    modes = ("--network", "host", "--pid", "host", "--ipc", "host", "--uts", "host")
    docker("run", "-d", "--name", "open", *modes, "busybox", "sleep", "999")
    opened = namespaces(docker, "open")
    assert all(opened[kind] == host[kind] for kind in ("net", "uts", "ipc", "pid"))
    joins = ("--network", "container:own", "--pid", "container:own", "--ipc", "container:own")
    docker("run", "-d", "--name", "joined", *joins, "busybox", "sleep", "999")
    joined = namespaces(docker, "joined")
    assert all(joined[kind] == own[kind] for kind in ("net", "ipc", "pid"))
    assert joined["mnt"] != own["mnt"]
    assert "sleep 999" in docker("exec", "joined", "ps")


def test_shared_memory_is_shared_by_those_who_join(docker: Docker, engine: Skerry) -> None:
    docker("run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "3m", "busybox",
           "sh", "-c", "echo given > /dev/shm/word; sleep 999")  # fmt: skip
    until(lambda: docker("exec", "donor", "ls", "/dev/shm").strip() == "word")
    joined = ("run", "--rm", "--ipc", "container:donor", "busybox", "sh", "-c")
    script = "cat /dev/shm/word; echo back > /dev/shm/answer; df -k /dev/shm | tail -1"
    word, line = docker(*joined, script).splitlines()
    assert (word, line.split()[1]) == ("given", "3072")
    docker("run", "-d", "--name", "through", "--ipc", "container:donor", "busybox", "sleep", "999")
    chained = ("run", "--rm", "--ipc", "container:through", "busybox", "cat", "/dev/shm/answer")
    assert docker(*chained).strip() == "back"
    docker("rm", "-f", "donor")
    assert docker("exec", "through", "cat", "/dev/shm/answer").strip() == "back"
    docker("run", "-d", "--name", "closed", "busybox", "sleep", "999")
    refused = engine.docker("run", "--ipc", "container:closed", "busybox", check=False)
    assert refused.returncode == 125
    assert "non-shareable IPC" in refused.stderr


def test_a_read_only_bind_is_read_only_below_too(docker: Docker, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", inner], check=True)
    try:
        write = ("busybox", "sh", "-c", "touch /data/inner/x && echo written; exit 0")
        bind = f"type=bind,src={tmp_path},dst=/data"
        for options, said in (
            (("-v", f"{tmp_path}:/data:ro"), ""),
            (("-v", f"{tmp_path}:/data"), "written"),
            (("--mount", f"{bind},readonly"), ""),
            (("--mount", f"{bind},readonly,bind-nonrecursive"), ""),
        ):
            assert docker("run", "--rm", *options, *write).strip() == said
            (inner / "x").unlink(missing_ok=True)
    finally:
        subprocess.run(["umount", inner], check=True)


def test_a_stopped_container_cannot_be_joined(engine: Skerry, docker: Docker) -> None:
    docker("create", "--name", "still", "busybox")
    refused = engine.docker("run", "--network", "container:still", "busybox", check=False)
    assert refused.returncode == 125
    assert "non running container" in refused.stderr


def test_an_exec_of_an_unknown_user_fails(engine: Skerry, docker: Docker) -> None:
    docker("run", "-d", "--name", "home", "busybox", "sleep", "999")
    refused = engine.docker("exec", "--user", "nobody-here", "home", "id", check=False)
    assert refused.returncode == 1
    assert "unable to find user nobody-here" in refused.stderr + refused.stdout


def test_users_are_looked_up_in_the_container_as_it_is_now(docker: Docker) -> None:
    script = "grep -q new /etc/passwd && id && exit; echo 'new:x:77:88::/n:' >> /etc/passwd"
    docker("run", "--name", "grown", "busybox", "sh", "-c", script)
    docker("commit", "grown", "grown:1")
    assert docker("run", "--rm", "-u", "new", "grown:1", "id", "-u").strip() == "77"
    assert docker("run", "--rm", "-u", "new", "grown:1", "sh", "-c", "echo $HOME").strip() == "/n"
    docker("start", "grown")
    docker("run", "-d", "--name", "live", "grown:1", "sleep", "999")
    assert docker("exec", "-u", "new:5", "live", "id", "-g").strip() == "5"
    docker("rm", "-f", "grown", "live")
    docker("rmi", "grown:1")


def test_passwd_may_be_a_link_to_nowhere(engine: Skerry, docker: Docker, tmp_path: Path) -> None:
    secret = tmp_path / "passwd"
    secret.write_text("leaked:x:4321:4321::/:\n")
    script = f"rm /etc/passwd; ln -s {secret} /etc/passwd"
    docker("run", "--name", "linked", "busybox", "sh", "-c", script)
    docker("commit", "linked", "linked:1")
    refused = engine.docker("run", "--rm", "-u", "leaked", "linked:1", "id", check=False)
    assert refused.returncode == 125
    assert "unable to find user leaked" in refused.stderr
    docker("rm", "linked")
    docker("rmi", "linked:1")


def test_volumes_are_filled_from_a_layered_image(docker: Docker) -> None:
    script = "mkdir -p /data/sub; echo text > /data/sub/file; chown -R 7:8 /data; chmod 750 /data"
    docker("run", "--name", "base", "busybox", "sh", "-c", script)
    docker("commit", "-c", "VOLUME /data", "base", "filled:1")
    volumes = docker("volume", "ls", "-q")
    out = docker(
        "run", "--rm", "filled:1", "sh", "-c", "cat /data/sub/file; stat -c %u:%g:%a /data"
    )
    assert out.split() == ["text", "7:8:750"]
    assert docker("volume", "ls", "-q") == volumes, "--rm takes its own volume along"
    docker("run", "--rm", "-v", "keep:/data", "filled:1", "rm", "/data/sub/file")
    assert docker("run", "--rm", "-v", "keep:/data", "filled:1", "ls", "/data/sub") == ""
    docker("volume", "rm", "keep")
    docker("rm", "base")
    docker("rmi", "filled:1")


def test_logs_go_on_across_rotation(docker: Docker) -> None:
    limits = ("--log-opt", "max-size=4k", "--log-opt", "max-file=100")
    docker("run", "--name", "much", *limits, "busybox", "seq", "1000")
    every = [str(number) for number in range(1, 1001)]
    assert docker("logs", "much").split() == every
    assert docker("logs", "--tail", "300", "much").split() == every[-300:]
    first = docker("logs", "-t", "--tail", "1", "much").split()[0]
    assert docker("logs", "--since", first, "much").split()[-1] == "1000"


def test_following_ends_with_the_container(engine: Skerry, docker: Docker) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    docker("run", "-d", "--name", "short", "busybox", "sh", "-c", script)
    assert docker("logs", "-f", "short").split() == ["1", "2", "3"]


def test_two_clients_attached_before_the_start(engine: Skerry, docker: Docker) -> None:
    docker("create", "--name", "both", "-i", "busybox", "sh", "-c", "echo out; echo err >&2")
    results: list[str] = []

    def attach() -> None:
        words = [DOCKER, "-H", engine.host, "start", "-a", "both"]
        made = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        results.append(made.stdout)

    threads = [threading.Thread(target=attach) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "out\n" in results


def test_input_is_as_long_as_it_likes(engine: Skerry, docker: Docker) -> None:
    data = os.urandom(1 << 20) * 8
    words = [DOCKER, "-H", engine.host, "run", "--rm", "-i", "busybox", "md5sum"]
    made = subprocess.run(words, input=data, capture_output=True, timeout=120, check=True)
    own = subprocess.run(["md5sum"], input=data, capture_output=True, check=True)
    assert made.stdout == own.stdout


def test_detach_keys_leave_the_program_running(engine: Skerry, docker: Docker) -> None:
    docker("run", "-dit", "--name", "shell", "busybox", "cat")
    parent, child = pty.openpty()
    words = [DOCKER, "-H", engine.host, "attach", "shell"]
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child)
    os.close(child)
    # Before the client has put its terminal into raw mode the keys would not reach it.
    until(lambda: not termios.tcgetattr(parent)[3] & termios.ICANON)
    os.write(parent, b"hello\n")
    seen = b""
    while seen.count(b"hello") < 2:
        assert select.select([parent], [], [], 120)[0]
        seen += os.read(parent, 1000)
    os.write(parent, b"\x10\x11")
    until(lambda: process.poll() is not None)
    os.close(parent)
    assert docker("inspect", "-f", "{{.State.Status}}", "shell").strip() == "running"


def test_copies_see_volumes_whether_it_runs_or_not(docker: Docker, tmp_path: Path) -> None:
    docker("create", "--name", "holder", "-v", "held:/held", "busybox", "sleep", "999")
    (tmp_path / "file").write_text("text")
    docker("cp", f"{tmp_path}/file", "holder:/held/one")
    docker("start", "holder")
    assert docker("exec", "holder", "cat", "/held/one") == "text"
    docker("cp", f"{tmp_path}/file", "holder:/held/two")
    docker("kill", "holder")
    docker("cp", "holder:/held", str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["one", "two"]
    docker("rm", "holder")
    docker("volume", "rm", "held")


def test_a_link_in_a_container_does_not_lead_out(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    script = f"ln -s {tmp_path} /way; ln -s {tmp_path}/secret /file; sleep 999"
    docker("run", "-d", "--name", "sly", "busybox", "sh", "-c", script)
    until(lambda: "file" in docker("exec", "sly", "ls", "/"))
    (tmp_path / "mine").write_text("mine")
    for _ in ("running", "stopped"):
        with pytest.raises(MissingPiece):
            docker("cp", "-L", "sly:/file", str(tmp_path / "got"))
        with pytest.raises(MissingPiece):
            docker("cp", "sly:/way/secret", str(tmp_path / "got"))
        with pytest.raises(MissingPiece):
            docker("cp", str(tmp_path / "mine"), "sly:/way/")
        docker("kill", "sly", check=False)
    assert sorted(os.listdir(tmp_path)) == ["mine", "secret"]


def test_stats_count(docker: Docker) -> None:
    docker(
        "run",
        "-d",
        "--name",
        "busy",
        "--memory",
        "64m",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    )
    line = docker(
        "stats", "--no-stream", "--format", "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}", "busy"
    )
    assert re.fullmatch(r"[1-9]\d*\.\d+% [\d.]+[KM]iB / 64MiB 1\n", line), line


def test_restart_policies(docker: Docker) -> None:
    script = "test -e /tried && exit 0; touch /tried; exit 3"
    docker(
        "run", "-d", "--name", "again", "--restart", "on-failure:3", "busybox", "sh", "-c", script
    )
    form = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}"
    until(lambda: docker("inspect", "-f", form, "again").strip() == "exited 1 0")


def test_health(docker: Docker) -> None:
    check = ("--health-cmd", "test -e /fine", "--health-interval", "100ms", "--health-retries", "1")
    docker("run", "-d", "--name", "sick", *check, "busybox", "sleep", "999")
    form = "{{.State.Health.Status}}"
    until(lambda: docker("inspect", "-f", form, "sick").strip() == "unhealthy")
    docker("exec", "sick", "touch", "/fine")
    until(lambda: docker("inspect", "-f", form, "sick").strip() == "healthy")
