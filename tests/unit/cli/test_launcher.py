"""The scripts in the environment's bin folder."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CONTRIB = REPOSITORY / "contrib"
START = REPOSITORY / "src/skerry/cli/start.py"


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launchers", CONTRIB / "install_launchers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quick(installer: ModuleType, tmp_path: Path) -> Path:
    """The interpreter that `skerry` starts with."""
    (tmp_path / "lib").mkdir()
    path: Path = installer.quick_python(tmp_path / "lib/skerry", CONTRIB / "start")
    return path


def make(installer: ModuleType, folder: Path, entry: str, python: Path | None = None) -> Path:
    """A launcher of a stand-in for the command line, whose `entry` has this body."""
    package = folder / "src" / "skerry" / "cli"
    package.mkdir(parents=True)
    stand_in = f"import os, time\ndef entry():\n    {entry}\n"
    begin, last, end = START.read_text().partition('if __name__ == "__main__":')
    (package / "start.py").write_text(f"{begin}{stand_in}{last}{end}")
    path = folder / "skerry"
    interpreter = python or Path(sys.executable)
    path.write_text(installer.launcher("", interpreter, folder / "src", "skerry"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_code_and_words_come_through(
    installer: ModuleType, tmp_path: Path, long: bool, named: bool
) -> None:
    """By the first line alone where it is short enough, and when an interpreter is named."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = tmp_path / ("x" * 200) if long else Path(short)
        folder.mkdir(exist_ok=True)
        script = make(installer, folder, "print('said', sys.argv); return 7")
        assert script.read_text().startswith(f"#!{sys.executable} -ISEc") is not long
        words = [sys.executable, script] if named else [script]
        done = subprocess.run([*words, "a b"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "said ['skerry', 'a b']\n")


def test_where_things_are(installer: ModuleType, quick: Path, tmp_path: Path) -> None:
    script = make(installer, tmp_path, "print(sys.executable, *sys.path[:2]); return 0", quick)
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        f"{tmp_path}/bin/python",
        str(CONTRIB / "start"),
        str(tmp_path / "src"),
    ]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "print('é'.encode(), b'\\xc3\\xa9'.decode(), 'encodings.utf_8' in sys.modules)",
            "b'\\xc3\\xa9' é False",
        ),
        ("print('é'.encode('latin-1'), 'é'.encode('idna'))", "b'\\xe9' b'xn--9ca'"),
        ("import encodings; print(encodings.aliases.aliases['u8'])", "utf_8"),
        ("import encodings; print(hasattr(encodings, 'nonsense'))", "False"),
        ("import encodings.utf_16; print(encodings.utf_16.encode('a')[1])", "1"),
        (
            "import codecs; print(codecs.lookup('utf-8').name, codecs.lookup('U8').name)",
            "utf-8 utf-8",
        ),
    ],
)
def test_its_encodings_are_the_standard_ones(quick: Path, code: str, said: str) -> None:
    done = subprocess.run(
        [quick, "-ISEXutf8", "-c", f"import sys; {code}"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == said


def test_a_codec_that_does_not_exist(quick: Path) -> None:
    code = "try: ''.encode('nonsense')\nexcept LookupError as error: print(error)"
    done = subprocess.run([quick, "-ISEc", code], capture_output=True, text=True, check=True)
    assert done.stdout == "unknown encoding: nonsense\n"


def test_a_locale_that_is_not_utf_8(quick: Path) -> None:
    code = "import sys; print(sys.getfilesystemencoding())"
    environment = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [quick, "-Xutf8=0", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    bare = [Path(sys.executable).resolve(), "-ISEXutf8=0", "-c", code]
    expected = subprocess.run(bare, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == expected.stdout


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
    assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 130
