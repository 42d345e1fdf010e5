"""Escape attempts against `skerry run`: the spawner, the keeper, exec, and copying."""

import http.client
import json
import os
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Skerry
from tests.security.sandbox import PRELUDE
from tests.security.test_default_container import DOCKER_CAPABILITIES
from tests.security.test_entering import HUNTER, SELF_EXE, digest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]

PYTHON = (
    *("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"),
    *("--network", "none"),
)


@pytest.fixture
def run(engine: Skerry) -> Any:
    """`run("--rm", …, "busybox", command…)`: what `skerry run` printed and returned."""

    def call(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return engine.skerry("run", "--rm", *args, check=check)

    return call


@pytest.fixture
def victim(engine: Skerry) -> Iterator[str]:
    """A running container with Python; removed afterwards."""
    ran = engine.skerry("run", "-d", *PYTHON, "busybox", "sleep", "1000")
    name = ran.stdout.strip()
    yield name
    engine.skerry("rm", "-f", name, check=False)


def status_fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))


def test_rights_in_run_and_exec(run: Any, engine: Skerry, victim: str) -> None:
    first = status_fields(run("busybox", "cat", "/proc/self/status").stdout)
    second = status_fields(engine.skerry("exec", victim, "cat", "/proc/self/status").stdout)
    for fields in (first, second):
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(fields[name], 16) == DOCKER_CAPABILITIES
        assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
        assert fields["Seccomp"] == "2"


def test_what_narrows_narrows(run: Any) -> None:
    none = status_fields(run("--cap-drop", "ALL", "busybox", "cat", "/proc/self/status").stdout)
    assert int(none["CapBnd"], 16) == int(none["CapEff"], 16) == 0
    user = status_fields(run("--user", "1000", "busybox", "cat", "/proc/self/status").stdout)
    assert int(user["CapEff"], 16) == int(user["CapPrm"], 16) == 0
    option = ("--security-opt", "no-new-privileges")
    locked = status_fields(run(*option, "busybox", "cat", "/proc/self/status").stdout)
    assert locked["NoNewPrivs"] == "1"


def test_a_profile_of_the_users_own_is_in_force(run: Any, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    option = ("--security-opt", f"seccomp={profile}")
    ran = run(*option, "busybox", "mkdir", "/made", check=False)
    assert ran.returncode == 1
    assert "not supported" in ran.stderr
    bad = tmp_path / "bad.json"
    bad.write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
    refused = run("--security-opt", f"seccomp={bad}", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "SCMP_ACT_MAYBE" in refused.stderr


def test_descriptors_of_spawner_and_keeper_stay_outside(engine: Skerry, victim: str) -> None:
    script = "ls /proc/1/fd; echo; ls /proc/self/fd"
    ran = engine.skerry("exec", victim, "sh", "-c", script)
    assert ran.stdout.split() == ["0", "1", "2", "0", "1", "2", "3"]


def test_no_descriptor_as_working_folder(run: Any, engine: Skerry, victim: str) -> None:
    """CVE-2024-21626, in both ways in."""
    for number in range(3, 16):
        folder = f"/proc/self/fd/{number}"
        shell = ("sh", "-c", "cat ../../../../../../../etc/shadow; pwd -P")
        for ran in (
            run("-w", folder, "busybox", *shell, check=False),
            engine.skerry("exec", "-w", folder, victim, *shell, check=False),
        ):
            assert ran.returncode != 0
            assert "root:" not in ran.stdout


def test_programs_that_execute_themselves_again(engine: Skerry, victim: str) -> None:
    """CVE-2019-5736 with `#!/proc/self/exe`, in run and in exec."""
    before = digest()
    write = ("exec", "-e", f"SCRIPT={SELF_EXE}", victim)
    engine.skerry(*write, "sh", "-c", 'printf "%s" "$SCRIPT" > /evil; chmod +x /evil')
    ran = engine.skerry("exec", victim, "/evil", check=False)
    assert "WRITABLE" not in ran.stdout
    assert ran.stdout.startswith("safe") or ran.returncode
    image = engine.skerry("commit", victim, "evil:latest").stdout
    assert image
    try:
        again = engine.skerry("run", "--rm", *PYTHON, "evil", "/evil", check=False)
        assert "WRITABLE" not in again.stdout
        assert again.stdout.startswith("safe") or again.returncode
    finally:
        engine.skerry("rmi", "-f", "evil:latest", check=False)
    assert digest() == before


@pytest.mark.parametrize("caps", [(), ("--cap-add", "SYS_PTRACE")], ids=["default", "ptrace"])
def test_the_interpreter_cannot_be_overwritten(engine: Skerry, caps: tuple[str, ...]) -> None:
    before = digest()
    script = PRELUDE + HUNTER
    command = ("busybox", "/usr/bin/python3", "-I", "-S", "-c", script)
    name = engine.skerry("run", "-d", *PYTHON, *caps, *command).stdout.strip()
    try:
        for _ in range(15):
            engine.skerry("exec", name, "true")
        engine.skerry("exec", name, "touch", "/tmp/stop")
        assert engine.skerry("wait", name).stdout.strip() == "0"
        folder = engine.home / "found"
        engine.skerry("cp", f"{name}:/tmp/found", str(folder))
        assert "writable" not in json.loads(folder.read_text())
    finally:
        engine.skerry("rm", "-f", name, check=False)
    assert digest() == before


def test_killing_everything_stays_inside(engine: Skerry, run: Any, victim: str) -> None:
    run("busybox", "sh", "-c", "kill -9 -1; kill -9 2 3 4 5; true", check=False)
    assert engine.skerry("exec", victim, "true").returncode == 0


def test_a_fork_bomb_leaves_the_engine_answering(engine: Skerry, run: Any) -> None:
    script = "i=0; while [ $i -lt 200 ]; do sleep 30 & i=$((i+1)); done"
    ran = run("--pids-limit", "40", "busybox", "sh", "-c", script, check=False)
    assert "fork" in ran.stderr
    assert engine.skerry("ps").returncode == 0


def test_out_of_memory_is_told_and_kills_no_one_else(engine: Skerry, victim: str) -> None:
    bomb = "x=x; while true; do x=$x$x$x; done"
    limit = ("--memory", "32m", "--memory-swap", "32m")
    name = engine.skerry("run", "-d", *limit, "busybox", "sh", "-c", bomb).stdout.strip()
    try:
        assert engine.skerry("wait", name).stdout.strip() == "137"
        state = json.loads(engine.skerry("inspect", name).stdout)[0]["State"]
        assert state["OOMKilled"] is True
        assert engine.skerry("exec", victim, "true").returncode == 0
    finally:
        engine.skerry("rm", "-f", name, check=False)


def test_endless_output_is_rotated(engine: Skerry) -> None:
    """Lines without end, more than a log may hold, and nobody reads."""
    options = ("--log-opt", "max-size=1m", "--log-opt", "max-file=2")
    script = "yes 0123456789 | tr -d '\\n' | head -c 12000000"
    name = engine.skerry("run", "-d", *options, "busybox", "sh", "-c", script).stdout.strip()
    try:
        assert engine.skerry("wait", name).stdout.strip() == "0"
        logs = list((engine.root / "containers").glob(f"{name}*/*-json.log*"))
        assert logs
        assert sum(log.stat().st_size for log in logs) < 3_000_000
    finally:
        engine.skerry("rm", "-f", name, check=False)


def test_copying_follows_no_link_out(engine: Skerry, victim: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("untouched")
    links = f"ln -s {outside} /out; ln -s {secret} /leak; ln -s ../../../../..{outside} /climb"
    engine.skerry("exec", victim, "sh", "-c", links)
    payload = tmp_path / "payload"
    payload.write_text("written")
    for target in ("/out/made", "/climb/made", "/leak", f"/../../../..{outside}/made"):
        engine.skerry("cp", str(payload), f"{victim}:{target}", check=False)
        assert [p.name for p in outside.iterdir()] == ["secret"], target
        assert secret.read_text() == "untouched", target
    for source in ("/leak", "/out/secret", "/climb/secret"):
        copy = tmp_path / "copy"
        engine.skerry("cp", "-L", f"{victim}:{source}", str(copy), check=False)
        if copy.is_file() and not copy.is_symlink():
            assert copy.read_text() != "untouched", source
        copy.unlink(missing_ok=True)


def test_a_hostile_archive_stays_inside(engine: Skerry, victim: str, tmp_path: Path) -> None:
    """Members that climb, absolute ones, and a link followed by a member beneath it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tmp_path / "evil.tar"
    data = tmp_path / "data"
    data.write_text("written")
    with tarfile.open(archive, "w") as tar:
        for name in (f"../../../../../../..{outside}/one", f"{outside}/two", "link/three"):
            if name == "link/three":
                link = tarfile.TarInfo("link")
                link.type, link.linkname = tarfile.SYMTYPE, str(outside)
                tar.addfile(link)
            info = tar.gettarinfo(str(data))
            info.name = name
            with data.open("rb") as file:
                tar.addfile(info, file)
    body = archive.read_bytes()
    answer = request(engine, "PUT", f"/containers/{victim}/archive?path=/tmp", body)
    assert answer[0] in (200, 400, 403, 500)
    assert list(outside.iterdir()) == []
    assert request(engine, "GET", "/_ping")[0] == 200


def request(engine: Skerry, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One raw request to the engine; status 0 when it hung up."""
    connection = http.client.HTTPConnection("localhost", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(engine.socket)
    kind = "application/x-tar" if path.endswith("/tmp") else "application/json"
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "huge"])
def test_the_images_user_files_are_read_with_care(engine: Skerry, kind: str) -> None:
    """/etc/passwd as a FIFO must not hang the engine, as a link not read the host's."""
    make = {
        "fifo": "rm /etc/passwd; mkfifo /etc/passwd",
        "link": "rm /etc/passwd; ln -s ../../../../../../../../proc/1/environ /etc/passwd",
        "folder": "rm /etc/passwd; mkdir /etc/passwd",
        "huge": "rm /etc/passwd; dd if=/dev/zero of=/etc/passwd bs=1M count=0 seek=500",
    }[kind]
    name = engine.skerry("run", "-d", "busybox", "sh", "-c", make).stdout.strip()
    engine.skerry("wait", name)
    tag = f"passwd-{kind}:latest"
    try:
        engine.skerry("commit", name, tag)
        ran = engine.skerry("run", "--rm", "--user", "somebody", tag, "id", check=False)
        assert ran.returncode == 125
        assert engine.skerry("ps").returncode == 0
        show = ("grep", "Uid", "/proc/self/status")
        number = engine.skerry("run", "--rm", "--user", "7:8", tag, *show, check=False)
        assert "7" in number.stdout or number.returncode == 125
    finally:
        engine.skerry("rm", "-f", name, check=False)
        engine.skerry("rmi", "-f", tag, check=False)


@pytest.mark.parametrize(
    "path",
    [
        "/containers/..%2f..%2f..%2fetc/json",
        "/containers/%2e%2e/json",
        "/containers/a%00b/json",
        "/images/..%2f..%2fetc%2fpasswd/json",
        "/containers/" + "a" * 5000 + "/json",
        "/containers/json?filters=" + "[" * 4000,
        "/containers/json?limit=99999999999999999999999",
        "/containers/json?filters=%7B%22name%22%3A%5B%22%28a%2B%29%2B%24%22%5D%7D",
    ],
)
def test_names_in_paths_lead_nowhere(engine: Skerry, path: str) -> None:
    status, body = request(engine, "GET", path)
    assert status in (0, 200, 400, 404, 414), body
    assert b"root:" not in body
    assert b"Traceback" not in body
    assert request(engine, "GET", "/_ping")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{" * 5000,
        b"[" * 500_000,
        b'{"Image": 5}',
        b'{"Image": "busybox", "HostConfig": {"Binds": ["../x:/y"]}}',
        b'{"Image": "busybox", "HostConfig": {"Binds": [5, null, {}]}}',
        b'{"Image": "busybox", "HostConfig": {"CgroupParent": "../../../x"}}',
        b'{"Image": "busybox", "HostConfig": {"Memory": -5}}',
        b'{"Image": "busybox", "HostConfig": {"Sysctls": {"../../x": "1"}}}',
        b'{"Image": "busybox", "HostConfig": {"CapAdd": ["FLY"]}}',
        b'{"Image": "busybox", "HostConfig": {"LogConfig": {"Config": {"max-size": "-9"}}}}',
        b'{"Image": "busybox", "Env": "A=B"}',
        b'{"Image": "busybox", "Cmd": [1, 2]}',
        b'{"Image": "busybox", "User": "a\\u0000b"}',
        b'{"Image": "busybox", "WorkingDir": "relative"}',
        b"\xff\xfe\x00",
    ],
)
def test_malformed_bodies_are_refused_in_words(engine: Skerry, body: bytes) -> None:
    status, answer = request(engine, "POST", "/containers/create", body)
    if status == 201:
        made = json.loads(answer)["Id"]
        status, answer = request(engine, "POST", f"/containers/{made}/start")
        request(engine, "DELETE", f"/containers/{made}?force=1")
    assert status in (400, 404, 413), (status, answer)
    assert json.loads(answer)["message"]
    assert b"Traceback" not in answer
    assert request(engine, "GET", "/_ping")[0] == 200


@pytest.mark.parametrize("name", ["../../evil", "a/b", ".hidden", "a b", "", "x" * 300, "a\n"])
def test_container_names_are_no_paths(engine: Skerry, name: str) -> None:
    from urllib.parse import quote

    body = b'{"Image": "busybox"}'
    status, answer = request(
        engine, "POST", f"/containers/create?name={quote(name, safe='')}", body
    )
    if name == "":
        assert status == 201
        request(engine, "DELETE", f"/containers/{json.loads(answer)['Id']}?force=1")
    else:
        assert status == 400, answer


def test_sockets_and_state_are_the_engines_alone(engine: Skerry, victim: str) -> None:
    """Nobody but root reaches the engine, a keeper, a layer's setuid programs or the records."""
    assert os.stat(engine.socket).st_mode & 0o007 == 0
    for private in (engine.root, engine.root / "containers", engine.run_root / "containers"):
        assert os.stat(private).st_mode & 0o007 == 0, private
    assert os.stat(engine.root / "skerry.db").st_mode & 0o077 == 0
    for folder, folders, files in os.walk(engine.run_root):
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            assert mode & 0o002 == 0, os.path.join(folder, name)


def test_other_containers_are_not_in_sight(engine: Skerry, run: Any, victim: str) -> None:
    script = "find /sys/fs/cgroup -maxdepth 4; cat /proc/self/cgroup /proc/mounts; ps; hostname"
    seen = run("busybox", "sh", "-c", script).stdout
    assert victim[:12] not in seen


def test_masks_hold_in_an_executed_process_too(engine: Skerry, victim: str) -> None:
    script = "cat /proc/keys /proc/timer_list; echo 0 > /proc/sys/vm/swappiness"
    ran = engine.skerry("exec", victim, "sh", "-c", script, check=False)
    assert ran.stdout == ""
    assert "Read-only" in ran.stderr


def test_a_hostile_tree_neither_hangs_nor_ends_the_engine(engine: Skerry, tmp_path: Path) -> None:
    """Deeper than Python's stack, names that are no text, nodes and links in odd places."""
    make = (
        "cd /tmp; i=0; while [ $i -lt 1200 ]; do mkdir d && cd d; i=$((i+1)); done; cd /tmp; "
        "touch \"$(printf '\\377\\376')\" \"$(printf 'a\\nb')\"; mkfifo fifo; mknod dev b 8 0; "
        "ln -s /etc/shadow link; ln -s loop loop; touch -- --help"
    )
    name = engine.skerry("run", "-d", "busybox", "sh", "-c", make).stdout.strip()
    assert engine.skerry("wait", name).stdout.strip() == "0"
    changes = engine.skerry("diff", name).stdout
    assert "A /tmp/fifo" in changes
    for command in (
        ("export", "-o", str(tmp_path / "out.tar"), name),
        ("cp", f"{name}:/tmp", str(tmp_path / "copy")),
        ("commit", name, "hostile-tree"),
    ):
        ran = engine.skerry(*command, check=False)
        assert "internal" not in ran.stderr
        assert "Traceback" not in ran.stderr
    assert not (tmp_path / "copy/link").is_file()
    engine.skerry("rm", "-f", name)
    engine.skerry("rmi", "-f", "hostile-tree", check=False)
    assert engine.skerry("ps", "-aq", "--no-trunc").stdout.count(name) == 0
    engine.skerry("system", "prune", "-f")
    # What was put there meanwhile goes beside.
    deadline = time.monotonic() + 120
    while list((engine.root / "trash").iterdir()):
        assert time.monotonic() < deadline, "the trash is not emptied"
        time.sleep(0.1)
