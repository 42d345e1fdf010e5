"""The scripts in the environment's bin folder."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CONTRIB = Path(__file__).resolve().parents[3] / "contrib"


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launchers", CONTRIB / "install_launchers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(installer: ModuleType, folder: Path, entry: str, python: Path | None = None) -> Path:
    """A launcher of a stand-in for the command line, whose `entry` has this body."""
    package = folder / "src" / "skerry" / "cli"
    package.mkdir(parents=True)
    (package / "start.py").write_text(f"import os, sys, time\ndef entry():\n    {entry}\n")
    template = (CONTRIB / "launcher.in").read_text()
    path = folder / "skerry"
    interpreter = python or Path(sys.executable)
    path.write_text(installer.launcher(template, interpreter, folder / "src", "skerry"))
    path.chmod(0o755)
    return path


def test_code_and_words_come_through(installer: ModuleType, tmp_path: Path) -> None:
    script = make(installer, tmp_path, "print('said', sys.argv); return 7")
    done = subprocess.run([script, "a b"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "said ['skerry', 'a b']\n")


def test_a_folder_with_spaces(installer: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    python = folder / "python"
    python.symlink_to(sys.executable)
    script = make(installer, folder, "print(sys.argv[1:], sys.flags.isolated); return 3", python)
    done = subprocess.run([script, "x y"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "['x y'] 1\n", "")


def test_nobody_reads(installer: ModuleType, tmp_path: Path) -> None:
    script = make(installer, tmp_path, "print('x' * 10); return 0")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([script], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_without_an_output(installer: ModuleType, tmp_path: Path) -> None:
    script = make(installer, tmp_path, "return 0")
    assert subprocess.run(["sh", "-c", f"{script} >&- 2>&-"], check=False).returncode == 0


def test_an_interrupt_has_no_traceback(installer: ModuleType, tmp_path: Path) -> None:
    script = make(installer, tmp_path, "os.write(1, b'here'); time.sleep(30)")
    process = subprocess.Popen([script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(4) == b"here"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == b""
    assert process.returncode == 130
