"""The whole command line as a process: exit codes, messages, what it imports."""

import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import skerry
from skerry.cli.registry import every

SOURCE = Path(skerry.__file__).resolve().parents[1]
RUN = "import sys; sys.path.insert(1, sys.argv.pop(1)); from skerry.cli.main import entry; "
PROGRAM = RUN + "sys.exit(entry())"


def cli(*words: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
    """As the launcher starts it."""
    return subprocess.run(
        [sys.executable, "-ISE", "-c", PROGRAM, str(SOURCE), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        input=stdin.decode(),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
    )


class Canned:
    """An engine that gives one answer to every request."""

    def __init__(self, path: Path, status: str, body: bytes) -> None:
        self.host = f"unix://{path}"
        self._answer = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self.requests: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536).decode().partition("\r\n")[0])
                connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Canned]:
    canned = Canned(
        tmp_path / "e.sock", "409 Conflict", b'{"message": "two\\nlines", "hint": "do"}'
    )
    yield canned
    canned.close()


def test_version_and_help() -> None:
    assert cli("--version").stdout == f"skerry version {skerry.__version__}\n"
    shown = cli()
    assert shown.returncode == 0
    assert "run " in shown.stdout
    assert "--host" in shown.stdout
    assert cli("help", "run").stdout == cli("run", "--help").stdout
    assert "--memory" in cli("run", "--help").stdout
    assert "prune" in cli("image").stdout


def test_every_command_has_help() -> None:
    from skerry.cli.help import command_help

    for path, command in every():
        text = command_help(path, command)
        assert text.startswith(f"Usage:  skerry {path}")
        assert all(len(line) <= 132 for line in text.splitlines()), path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nope"], 1, "unknown command: skerry nope"),
        (["imags"], 1, "did you mean images?"),
        (["image", "nope"], 1, "unknown command: skerry image nope"),
        (["run", "--nope", "x"], 125, "unknown flag: --nope"),
        (["run"], 1, "'skerry run' requires at least 1 argument"),
        (["rename", "a"], 1, "requires 2 arguments"),
        (["--nope"], 125, "unknown flag: --nope"),
        (["-H", "tcp://x", "ps"], 1, "cannot use host"),
        (["-H", "unix:///nonexistent/s", "ps"], 1, "no engine listens at /nonexistent/s"),
        (["-H", "unix:///nonexistent/s", "run", "x"], 125, "no engine listens"),
        (["run", "-m", "lots", "x"], 125, "invalid --memory"),
        (["run", "-it", "x"], 1, "the input device is not a TTY"),
        (["inspect", "--type", "cow", "x"], 1, "is not a type"),
        (["ps", "--filter", "x"], 125, "bad format of filter"),
        (["create", "--health-interval", "x", "y"], 125, "invalid --health-interval"),
        (["completion", "tcsh"], 1, "no completion"),
    ],
)
def test_wrong_command_lines(words: list[str], code: int, message: str) -> None:
    done = cli(*words, SKERRY_HOST="unix:///nonexistent/s")
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("skerry: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_engine_error_is_one_line_and_the_hint(refusing: Canned) -> None:
    done = cli("-H", refusing.host, "ps")
    assert (done.returncode, done.stderr) == (1, "skerry: two lines\ndo\n")
    done = cli("run", "x", SKERRY_HOST=refusing.host)
    assert done.returncode == 125
    assert done.stderr == "skerry: two lines\ndo\n\nSee 'skerry run --help'.\n"


def test_every_name_is_tried(refusing: Canned) -> None:
    done = cli("-H", refusing.host, "rm", "a", "b/../c")
    assert done.returncode == 1
    assert done.stderr.count("skerry: two lines") == 2
    assert refusing.requests == [
        "DELETE /containers/a HTTP/1.1",
        "DELETE /containers/b%2F..%2Fc HTTP/1.1",
    ]


def test_an_answer_that_is_no_engines_has_words(tmp_path: Path) -> None:
    for number, body in enumerate((b"[1, 2", b'{"a": 1}', b"[3]", b"null", b'"text"')):
        canned = Canned(tmp_path / f"{number}.sock", "200 OK", body)
        done = cli("-H", canned.host, "ps")
        canned.close()
        assert done.returncode in (1, 125)
        assert done.stderr.startswith("skerry: ")
        assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    body = b"[" + b",".join(
        [b'{"Id": "sha256:%064d", "Created": 0, "Size": 1}' % n for n in range(9000)]
    )
    canned = Canned(tmp_path / "e.sock", "200 OK", body + b"]")
    shell = f'{sys.executable} -ISE -c "{PROGRAM}" {SOURCE} -H {canned.host} images | head -1'
    done = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, timeout=120, check=False
    )
    canned.close()
    assert done.stdout.startswith("REPOSITORY")
    assert done.stderr == ""


def test_debug_shows_where(refusing: Canned) -> None:
    assert "Conflict" in cli("--debug", "-H", refusing.host, "ps").stderr


LOADED = (
    RUN + "import atexit, os; "
    "atexit.register(lambda: os.write(9, ' '.join(sys.modules).encode())); sys.exit(entry())"
)


def test_run_and_exec_import_little(refusing: Canned) -> None:
    """`json`, `re`, `typing`, `socket` and `signal` are 3 to 5 ms each; a whole run is 12."""
    for words in (["run", "--rm", "x"], ["exec", "x", "true"], ["ps"]):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(write, 9)
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 2)
            line = ["-ISE", "-c", LOADED, str(SOURCE), "-H", refusing.host, *words]
            os.execv(sys.executable, [sys.executable, *line])
        os.close(write)
        loaded = b""
        while more := os.read(read, 65536):
            loaded += more
        os.close(read)
        os.waitpid(child, 0)
        modules = set(loaded.decode().split())
        assert "skerry.cli.context" in modules
        heavy = {"json", "re", "typing", "socket", "signal", "enum", "subprocess"}
        assert not modules & heavy, words


def test_names_for_completion_never_complain(tmp_path: Path) -> None:
    done = cli("-H", f"unix://{tmp_path}/none", "__names", "containers")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_prune_asks_on_a_terminal_only(refusing: Canned) -> None:
    done = cli("-H", refusing.host, "system", "prune")
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert refusing.requests == []


def test_no_archive_goes_to_a_terminal(refusing: Canned) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        line = ["-ISE", "-c", PROGRAM, str(SOURCE), "-H", refusing.host, "save", "x"]
        os.execv(sys.executable, [sys.executable, *line])
    shown = b""
    try:
        while more := os.read(fd, 4096):
            shown += more
    except OSError:
        pass
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert b"refusing" in shown
    assert refusing.requests == []
