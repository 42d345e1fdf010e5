"""Starting an engine when none listens."""

import os
import socket
import sys
from pathlib import Path

import pytest

from skerry.base.errors import Forbidden, SystemFault, Unavailable
from skerry.cli import on_demand
from skerry.cli.context import Context
from skerry.cli.on_demand import start_engine
from skerry.sdk.client import Client

FAKE = """#!{python}
import socket, sys, os
words = sys.argv[1:]
assert words[:3] == ["-m", "skerry", "engine"], words
print("starting", words[3:], file=sys.stderr, flush=True)
if os.path.exists({broken!r}):
    print("no space left", file=sys.stderr)
    sys.exit(3)
assert os.getsid(0) == os.getpid()
with open({count!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
path = words[words.index("--host") + 1].removeprefix("unix://")
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(8)
listener.settimeout(120)
listener.accept()
os.unlink(path)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that is an engine: it listens until somebody has connected."""
    program = tmp_path / "python"
    program.write_text(
        FAKE.format(
            python=sys.executable,
            broken=str(tmp_path / "broken"),
            count=str(tmp_path / "count"),
        )
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    for name in ("SKERRY_HOST", "SKERRY_ROOT", "SKERRY_RUN_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_starts_one_and_connects(fake: Path) -> None:
    context = Context(root=str(fake / "root"), run_root=str(fake / "run"))
    assert context.client.path == str(fake / "run/skerry.sock")
    context.close()
    log = (fake / "run/engine.log").read_text()
    assert f"'--root', '{fake}/root'" in log
    assert f"'--run-root', '{fake}/run'" in log
    os.waitpid(int((fake / "count").read_text()), 0)


def test_a_large_log_is_put_aside(fake: Path) -> None:
    (fake / "broken").touch()
    (fake / "run").mkdir()
    (fake / "run/engine.log").write_bytes(b"old\n" * (1 << 19))
    with pytest.raises(Unavailable):
        _ = Context(root="/", run_root=str(fake / "run")).client
    assert (fake / "run/engine.log.1").stat().st_size == 1 << 21
    assert "old" not in (fake / "run/engine.log").read_text()


def test_an_engine_that_cannot_start_is_quoted(fake: Path) -> None:
    (fake / "broken").touch()
    context = Context(root=str(fake / "root"), run_root=str(fake / "run"))
    with pytest.raises(Unavailable, match="ended with code 3") as caught:
        _ = context.client
    assert "no space left" in caught.value.hint


def test_an_engine_that_does_not_listen_is_given_up(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "PATIENCE", 0.2)
    (fake / "python").write_text("#!/bin/sh\necho thinking >&2\nexec sleep 2\n")
    run, socket_path = fake / "run", fake / "run/skerry.sock"
    with pytest.raises(Unavailable, match="does not listen") as caught:
        start_engine("/", str(run), f"unix://{socket_path}", Client(f"unix://{socket_path}"))
    assert "thinking" in caught.value.hint


def test_a_named_engine_is_not_started(fake: Path) -> None:
    context = Context(run_root=str(fake / "run"), host=f"unix://{fake}/other.sock")
    with pytest.raises(Unavailable, match="no engine listens"):
        _ = context.client
    assert not (fake / "run").exists()


def test_a_running_one_is_used(fake: Path) -> None:
    (fake / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fake / "run/skerry.sock"))
        listener.listen(1)
        assert Context(run_root=str(fake / "run")).client
    assert not (fake / "run/engine.log").exists()


def test_a_stale_socket_is_no_engine(fake: Path) -> None:
    (fake / "run").mkdir()
    (fake / "broken").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fake / "run/skerry.sock"))
    with pytest.raises(Unavailable, match="ended with code 3"):
        _ = Context(root="/", run_root=str(fake / "run")).client


def test_a_folder_that_cannot_be_is_said(fake: Path) -> None:
    (fake / "file").touch()
    client = Client(f"unix://{fake}/none.sock")
    with pytest.raises((SystemFault, Forbidden), match="file"):
        start_engine("/", str(fake / "file/run"), client.host, client)
