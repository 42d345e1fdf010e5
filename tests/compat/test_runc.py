"""The same mistakes given to runc and to skerry-runtime: same exit code, same cause named."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kernel.oci import Change, Runtime, Spec

RUNC = shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(RUNC is None, reason="needs the Debian package runc"),
]


@pytest.fixture
def pair(tmp_path: Path, busybox_rootfs: Path) -> Iterator[tuple[Runtime, Runtime]]:
    """Ours and runc."""
    ours, theirs = tmp_path / "ours", tmp_path / "runc"
    ours.mkdir()
    theirs.mkdir()
    made = (Runtime(ours, busybox_rootfs), Runtime(theirs, busybox_rootfs, str(RUNC)))
    yield made
    for one in made:
        one.close()


class Mistake(NamedTuple):
    """A run that fails; `cause` is in both messages."""

    name: str
    args: list[str]
    change: Change
    cause: str


def nothing(spec: Spec) -> None:
    """The default configuration."""


def process(**fields: Any) -> Change:
    return lambda spec: spec["process"].update(fields)


def linux(**fields: Any) -> Change:
    return lambda spec: spec["linux"].update(fields)


def mount(**fields: Any) -> Change:
    return lambda spec: spec["mounts"].append(fields)


def at(index: int, **fields: Any) -> Change:
    return lambda spec: spec["linux"]["namespaces"][index].update(fields)


MISTAKES = [
    Mistake("missing program", ["nosuch"], nothing, "executable file not found in $PATH"),
    Mistake("missing path", ["/nosuch"], nothing, "no such file or directory"),
    Mistake("not executable", ["/etc/passwd"], nothing, "permission denied"),
    Mistake("forbidden to the user", ["/root/x"], process(user={"uid": 5, "gid": 5}), "/root/x"),
    Mistake("cwd is a file", ["/bin/true"], process(cwd="/etc/passwd"), "not a directory"),
    Mistake("empty cwd", ["/bin/true"], process(cwd=""), "Cwd property must not be empty"),
    Mistake("missing source", ["/bin/true"],
            mount(destination="/tmp", type="bind", source="/nowhere", options=["bind"]),
            "/nowhere"),
    Mistake("unknown file system", ["/bin/true"],
            mount(destination="/tmp", type="nofs", source="x"), "no such device"),
    Mistake("bad tmpfs option", ["/bin/true"],
            mount(destination="/tmp", type="tmpfs", source="x", options=["nosuch=1"]),
            "invalid argument"),
    Mistake("inside proc", ["/bin/true"],
            mount(destination="/proc/sys", type="bind", source="/tmp", options=["bind"]),
            "inside /proc"),
    Mistake("bad cpuset", ["/bin/true"], linux(resources={"cpu": {"cpus": "999"}}), "cpuset.cpus"),
    Mistake("sysctl", ["/bin/true"], linux(sysctl={"vm.swappiness": "1"}),
            "is not in a separate kernel namespace"),
    Mistake("missing namespace", ["/bin/true"], at(2, path="/nowhere"), "/nowhere"),
    Mistake("missing root", ["/bin/true"], lambda s: s["root"].update(path="/nowhere"), "/nowhere"),
    Mistake("rlimit", ["/bin/true"],
            process(rlimits=[{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]), "RLIMIT_NOPE"),
    Mistake("hostname", ["/bin/true"], lambda s: s["linux"]["namespaces"].remove({"type": "uts"}),
            "unable to set hostname without a private UTS namespace"),
    Mistake("failing hook", ["/bin/true"],
            lambda s: s.update(hooks={"createRuntime": [{"path": "/bin/false"}]}), "exit status 1"),
    Mistake("missing hook", ["/bin/true"],
            lambda s: s.update(hooks={"createRuntime": [{"path": "/nowhere"}]}), "no such file"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_run_fails_alike(pair: tuple[Runtime, Runtime], mistake: Mistake) -> None:
    ours, theirs = (one.run(mistake.args, mistake.change) for one in pair)
    assert ours.returncode == theirs.returncode != 0
    assert mistake.cause.lower() in theirs.stderr.lower().replace('\\"', '"')
    assert mistake.cause.lower() in ours.stderr.lower()
    assert ours.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("state", "nobody"),
        ("start", "nobody"),
        ("kill", "nobody"),
        ("delete", "nobody"),
        ("exec", "nobody", "true"),
        ("run", "-b", "/nowhere", "name"),
        ("create", "-b", "/", "name"),
        ("frobnicate",),
        ("delete", "--force", "nobody"),
        ("list", "--nosuch"),
    ],
    ids=" ".join,
)
def test_commands_fail_alike(pair: tuple[Runtime, Runtime], words: tuple[str, ...]) -> None:
    ours, theirs = (one.call(*words) for one in pair)
    if words[0] == "frobnicate":  # runc prints its help and is content
        assert ours.returncode == 1
    else:
        assert ours.returncode == theirs.returncode
    assert ours.stderr.count("\n") == (1 if ours.returncode else 0)


@pytest.mark.parametrize(
    "words",
    [
        ("nosuch",),
        ("/nosuch",),
        ("/etc/passwd",),
        ("sh", "-c", "exit 7"),
        ("sh", "-c", "kill -9 $$"),
    ],
    ids=" ".join,
)
def test_exec_ends_alike(pair: tuple[Runtime, Runtime], words: tuple[str, ...]) -> None:
    codes = []
    for one in pair:
        name = one.background(["/bin/sleep", "600"])
        codes.append(one.call("exec", name, *words).returncode)
    assert codes[0] == codes[1]


def test_state_has_the_same_fields(pair: tuple[Runtime, Runtime]) -> None:
    ours, theirs = (one.state(one.background(["/bin/sleep", "600"])) for one in pair)
    assert list(ours) == list(theirs)
    shape = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
    assert shape.fullmatch(ours["created"])


def test_list_and_ps_have_the_same_fields(pair: tuple[Runtime, Runtime]) -> None:
    rows = []
    for one in pair:
        name = one.background(["/bin/sleep", "600"])
        rows.append(json.loads(one.call("list", "-f", "json").stdout)[0])
        header = one.call("list").stdout.splitlines()[0].split()
        assert header == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
        assert len(one.call("ps", name).stdout.splitlines()) == 2
    assert set(rows[0]) == set(rows[1])


def test_both_read_one_spec(pair: tuple[Runtime, Runtime]) -> None:
    """A configuration written by either is run by the other."""
    for writer in pair:
        folder = writer.folder / "spec"
        folder.mkdir()
        subprocess.run([writer.program, "spec", "-b", str(folder)], check=True, timeout=120)
        config = json.loads((folder / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/true"]}
        config["root"]["path"] = str(writer.rootfs)
        (folder / "config.json").write_text(json.dumps(config))
        for reader in pair:
            done = reader.call("run", "-b", str(folder), reader.new_id())
            assert done.returncode == 0, done.stderr
