"""The engine as a process: service manager, inherited sockets, rights, the end on idleness."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import PYTHON, answers

pytestmark = [pytest.mark.root]

Start = Callable[..., subprocess.Popen[bytes]]


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def start(short_tmp: Path) -> Iterator[Start]:
    """`start(*options, env=…, **Popen arguments)`: an engine in `short_tmp`."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*options: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        process = subprocess.Popen(
            [
                *(str(PYTHON), "-m", "skerry", "engine", "--root", f"{short_tmp}/root"),
                *("--run-root", f"{short_tmp}/run", *options),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            **more,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=120)


def test_the_service_manager_is_told(start: Start, short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{short_tmp}/notify")
        manager.settimeout(120)
        process = start(env={"NOTIFY_SOCKET": f"{short_tmp}/notify"})
        assert manager.recv(1000).startswith(b"READY=1")
        assert answers(f"{short_tmp}/run/skerry.sock")
        pid_file = short_tmp / "run/engine.pid"
        assert int(pid_file.read_text()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert manager.recv(1000) == b"STOPPING=1"
        assert process.wait(120) == 0
        assert not pid_file.exists()
        assert not (short_tmp / "run/skerry.sock").exists()


def test_a_socket_that_was_handed_over(start: Start, short_tmp: Path) -> None:
    path = f"{short_tmp}/inherited"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        # The shell gives its own pid to the engine, as a service manager does.
        script = 'exec 3<&"$1"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        process = subprocess.Popen(
            [
                *("bash", "-c", script, "bash", str(listening.fileno())),
                *(str(PYTHON), "-m", "skerry", "engine", "--root", f"{short_tmp}/root"),
                *("--run-root", f"{short_tmp}/run"),
            ],
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
    try:
        until(lambda: answers(path))
        assert not (short_tmp / "run/skerry.sock").exists()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert Path(path).exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_activation_by_the_service_managers_own_tool(short_tmp: Path) -> None:
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("needs systemd-socket-activate")
    path = f"{short_tmp}/activated.sock"
    command = [tool, "-l", path, str(PYTHON), "-m", "skerry", "engine"]
    command += ["--root", f"{short_tmp}/root", "--run-root", f"{short_tmp}/run"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            # The first client starts the engine, and waits in the queue meanwhile.
            until(lambda: answers(path))
            assert not (short_tmp / "run/skerry.sock").exists()
            assert (short_tmp / "run/engine.pid").read_text().strip() == str(process.pid)
            process.terminate()
            assert process.wait(120) == 0
        finally:
            process.kill()


def test_the_units_are_good(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    folder = Path(__file__).resolve().parents[2] / "contrib/systemd"
    manual = folder.parents[1] / "docs/engine.md"
    for unit in folder.iterdir():
        text = unit.read_text().replace("/opt/skerry/.venv/bin/python", str(PYTHON))
        (tmp_path / unit.name).write_text(
            text.replace("file:/usr/share/doc/skerry/engine.md", f"file:{manual}")
        )
    units = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run([tool, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_rights_of_socket_and_folders(start: Start, short_tmp: Path) -> None:
    process = start(env={"PATH": ""}, umask=0o077)
    path = short_tmp / "run/skerry.sock"
    until(lambda: answers(str(path)))
    # Files of containers are for their users; and helpers are found.
    assert "\nUmask:\t0022\n" in Path(f"/proc/{process.pid}/status").read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    for folder in ("root", "root/containers", "run/containers"):
        mode = stat.S_IMODE((short_tmp / folder).stat().st_mode)
        assert not mode & 0o007, (folder, oct(mode))


def test_an_idle_engine_ends(start: Start) -> None:
    process = start("--idle-exit", "0.3")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_a_stale_socket_is_replaced(start: Start, short_tmp: Path) -> None:
    path = short_tmp / "run/skerry.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    start()
    until(lambda: answers(str(path)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "tcp://1.2.3.4:5"], "will not listen on"),
        (["--root", "/proc/nothing"], "cannot make"),
        (["--root", "/dev/null"], "/dev/null/engine.json: Not a directory"),
        (["--host", "unix:///proc/nothing/socket"], "cannot listen on"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    start: Start, options: list[str], words: str
) -> None:
    process = start(*options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert words in err.decode()
    assert b"Traceback" not in err
