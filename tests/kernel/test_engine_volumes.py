"""Volumes on a real kernel: devices, parts of volumes, images as mounts, archives, a crash."""

import io
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Skerry, mounts_below

pytestmark = [pytest.mark.root]
Docker = Callable[..., str]


@pytest.fixture
def docker(engine: Skerry, no_leaks: None) -> Iterator[Docker]:
    """`docker("run", …)`: what it printed; the test's containers and volumes go at its end."""

    def call(*args: str, **options: Any) -> str:
        done = engine.docker(*args, **options)
        return done.stdout + (done.stderr if done.returncode else "")

    yield call
    engine.remove_containers()
    engine.docker("volume", "prune", "-af")


def data(engine: Skerry, name: str) -> Path:
    return engine.root / "volumes" / name / "_data"


def mounted(engine: Skerry) -> list[str]:
    return mounts_below(engine.root / "volumes")


def test_a_bound_device_is_mounted_while_it_is_used(
    docker: Docker, engine: Skerry, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("far")
    options = ("-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind,ro")
    docker("volume", "create", *options, "far")
    assert '"o":"bind,ro"' in docker("volume", "inspect", "-f", "{{json .Options}}", "far")
    assert mounted(engine) == []
    docker("run", "-d", "--name", "one", "-v", "far:/far", "busybox", "sleep", "999")
    docker("run", "-d", "--name", "two", "-v", "far:/far", "busybox", "sleep", "999")
    assert docker("exec", "one", "cat", "/far/file") == "far"
    refused = docker("exec", "two", "touch", "/far/new", check=False)
    assert "Read-only file system" in refused
    assert mounted(engine) == [str(data(engine, "far"))]
    docker("rm", "-f", "one")
    assert mounted(engine) == [str(data(engine, "far"))]
    docker("kill", "two")
    docker("rm", "two")
    assert mounted(engine) == []
    docker("volume", "rm", "far")
    assert (tmp_path / "file").read_text() == "far"


def test_a_tmpfs_device_and_one_that_is_not_there(docker: Docker, engine: Skerry) -> None:
    tmpfs = ("type=volume,src=ram,dst=/ram,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"
             '"volume-opt=o=size=1m,uid=7"')  # fmt: skip
    script = "stat -c %u /ram; df -k /ram | tail -1"
    shown = docker("run", "--rm", "--mount", tmpfs, "busybox", "sh", "-c", script)
    assert shown.split()[:3] == ["7", "tmpfs", "1024"]
    options = ("-o", "type=none", "-o", "device=/nowhere/at/all", "-o", "o=bind")
    docker("volume", "create", *options, "lost")
    failed = docker("run", "--rm", "-v", "lost:/x", "busybox", "true", check=False)
    assert "failed to mount local volume" in failed
    assert "no such file or directory" in failed
    assert mounted(engine) == []


def test_options_that_cannot_be(docker: Docker) -> None:
    for options, complaint in (
        (["-o", "o=bind"], 'missing required option: "device"'),
        (["-o", "color=red"], 'invalid option: "color"'),
        (["-o", "type=none", "-o", "device=rel", "-o", "o=bind"], "absolute"),
    ):
        assert complaint in docker("volume", "create", *options, check=False)


def test_a_quota_or_an_honest_word(docker: Docker, engine: Skerry) -> None:
    """Where the root's file system keeps projects the quota holds; elsewhere the error says so."""
    said = engine.docker("volume", "create", "-o", "size=1m", "small", check=False)
    if said.returncode:
        assert "quota size requested but no quota support" in said.stderr
        assert not (engine.root / "volumes/small").exists()
        return
    fill = "dd if=/dev/zero of=/v/x bs=1M count=4"
    full = docker("run", "--rm", "-v", "small:/v", "busybox", "sh", "-c", fill, check=False)
    assert "No space left" in full or "quota exceeded" in full


def test_a_part_of_a_volume_never_leads_out(docker: Docker, engine: Skerry) -> None:
    make = "mkdir -p /v/a/b; echo in > /v/a/b/f; ln -s ../../../../etc /v/out; ln -s a/b /v/in"
    docker("run", "--rm", "-v", "parts:/v", "busybox", "sh", "-c", make)

    def show(part: str, path: str, **options: Any) -> str:
        mount = f"type=volume,src=parts,dst=/p,volume-subpath={part}"
        return docker("run", "--rm", "--mount", mount, "busybox", "cat", path, **options)

    assert show("a/b", "/p/f") == "in\n"
    assert show("in", "/p/f") == "in\n"
    # One file of it, mounted over a file.
    assert show("a/b/f", "/p") == "in\n"
    assert "no such file or directory" in show("out", "/p/passwd", check=False)
    assert "relative path within the volume" in show("../x", "/p/f", check=False)


def test_an_image_as_a_mount(docker: Docker, engine: Skerry) -> None:
    docker("run", "--name", "more", "busybox", "sh", "-c", "mkdir /s; echo two > /s/layer")
    docker("commit", "more", "two-layers:v1")
    whole = "type=image,src=two-layers:v1,dst=/i"
    script = "cat /i/s/layer; test -e /i/bin/busybox; touch /i/x"
    shown = docker("run", "--mount", whole, "busybox", "sh", "-c", script, check=False)
    assert shown.startswith("two\n")
    assert "Read-only file system" in shown
    part = f"{whole},image-subpath=s"
    assert docker("run", "--name", "part", "--mount", part, "busybox", "cat", "/i/layer") == "two\n"
    single = "type=image,src=busybox,dst=/i"
    assert "busybox" in docker("run", "--mount", single, "busybox", "ls", "/i/bin")
    for force in ([], ["-f"]):
        said = engine.docker("rmi", *force, "two-layers:v1", check=False)
        assert said.returncode == 1, said.stdout
    engine.remove_containers()
    docker("rmi", "two-layers:v1")


def test_volumes_from_and_filling(docker: Docker) -> None:
    docker("create", "--name", "holder", "-v", "filled:/etc", "-v", "/anon", "busybox")
    listed = docker("run", "--rm", "--volumes-from", "holder:ro", "busybox", "ls", "/etc")
    assert "passwd" in listed
    refused = docker(
        "run", "--rm", "--volumes-from", "holder:ro", "busybox", "touch", "/anon/x", check=False
    )
    assert "Read-only" in refused
    docker("run", "--rm", "-v", "bare:/etc:nocopy", "busybox", "true")
    assert docker("run", "--rm", "-v", "bare:/v", "busybox", "ls", "-A", "/v") == ""
    # Docker fills an empty volume, new or not.
    docker("run", "--rm", "-v", "bare:/etc", "busybox", "true")
    assert "passwd" in docker("run", "--rm", "-v", "bare:/v", "busybox", "ls", "/v")


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A file system that shares and a private one."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("shared", "private")}
    for name, place in places.items():
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
        subprocess.run(["mount", f"--make-{name}", str(place)], check=True)
        (place / "below").mkdir()
    yield places
    for place in places.values():
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("mode", ["private", "rprivate", "slave", "rslave", "shared", "rshared"])
def test_propagation(docker: Docker, grounds: dict[str, Path], mode: str) -> None:
    """What the kernel says of the mount inside, with a source that shares; and of one that does not
    what Docker says."""
    script = "grep ' /p ' /proc/self/mountinfo"
    run = ("run", "--rm", "-v")
    line = docker(*run, f"{grounds['shared']}/below:/p:{mode}", "busybox", "sh", "-c", script)
    marks = [word.split(":")[0] for word in line.split(" - ")[0].split()[6:]]
    wanted = {"private": [], "slave": ["master"], "shared": ["shared"]}
    kind = mode.removeprefix("r")
    assert marks == wanted[kind]
    alone = grounds["private"]
    told = docker(*run, f"{alone}/below:/p:{mode}", "busybox", "true", check=False)
    if kind == "private":
        assert told == ""
    else:
        words = {"slave": "a shared or slave mount", "shared": "a shared mount"}[kind]
        assert f"path {alone}/below is mounted on {alone} but it is not {words}" in told


def test_archives(docker: Docker, engine: Skerry, tmp_path: Path) -> None:
    docker("run", "--rm", "-v", "source:/v", "busybox", "sh", "-c",
           "echo one > /v/f; ln -s f /v/l; chown 7:8 /v/f; chmod 700 /v; chown 9 /v")  # fmt: skip
    saved = tmp_path / "saved.tar"
    engine.skerry("volume", "export", "-o", str(saved), "source")
    engine.skerry("volume", "import", "target", str(saved))
    script = "stat -c '%u %a' /v; stat -c '%u %g' /v/f; cat /v/l"
    shown = docker("run", "--rm", "-v", "target:/v", "busybox", "sh", "-c", script)
    assert shown == "9 700\n7 8\none\n"
    docker("run", "-d", "--name", "busy", "-v", "target:/v", "busybox", "sleep", "999")
    refused = engine.skerry("volume", "import", "target", str(saved), check=False)
    assert "in use by the running container" in refused.stderr
    docker("rm", "-f", "busy")
    # A cut or hostile archive leaves what was there.
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("fine"))
        tar.addfile(tarfile.TarInfo("../escape"))
    for bad in (saved.read_bytes()[:700], hostile.getvalue()):
        assert engine.skerry("volume", "import", "target", stdin=bad, check=False).returncode
        assert sorted(os.listdir(data(engine, "target"))) == ["f", "l"]
    assert os.listdir(engine.root / "volumes/target") == ["_data"]
    assert engine.skerry("volume", "import", "never", stdin=b"no tar", check=False).returncode
    assert "never" not in docker("volume", "ls", "-q").split()
    engine.skerry("volume", "backup", "-d", str(tmp_path), "source")
    assert (tmp_path / "source.tar").read_bytes() == saved.read_bytes()


def test_a_killed_engine_finds_its_mounts_again(own_engine: Skerry, tmp_path: Path) -> None:
    engine = own_engine
    for name in ("kept", "left"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
        options = ("-o", "type=none", "-o", f"device={tmp_path / name}", "-o", "o=bind")
        engine.docker("volume", "create", *options, name)
        volume = ("-v", f"{name}:/v")
        engine.docker("run", "-d", "--name", name, *volume, "busybox", "sleep", "999")
    pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", "left").stdout)
    engine.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    # What a killed `volume create` or `import` leaves.
    (engine.root / "volumes/nameless/_data").mkdir(parents=True)
    (engine.root / "volumes/kept/_incoming").mkdir()
    engine.start()
    # Whoever kept `left` may still be writing down that it has ended.
    deadline = time.monotonic() + 120
    while mounted(engine) != [str(data(engine, "kept"))]:
        assert time.monotonic() < deadline, mounted(engine)
        time.sleep(0.05)
    assert sorted(os.listdir(engine.root / "volumes")) == ["kept", "left"]
    assert os.listdir(engine.root / "volumes/kept") == ["_data"]
    assert engine.docker("exec", "kept", "cat", "/v/f").stdout == "kept"
    engine.docker("start", "left")
    assert engine.docker("exec", "left", "cat", "/v/f").stdout == "left"
    engine.remove_containers()
    assert mounted(engine) == []
    assert (tmp_path / "kept/f").read_text() == "kept"
