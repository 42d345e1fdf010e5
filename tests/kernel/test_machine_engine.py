"""Containers in machines through the engine and the docker CLI: what a container can, they can."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker as dockerpy
import pytest
from bench.daemons import Skerry
from bench.ports import free_port
from tests.kernel import machine_kit

from skerry.machine import orderly

pytestmark = [pytest.mark.root]

VM = ("--runtime", "skerry-vm")
PATIENCE = 180.0


@pytest.fixture(scope="module")
def machines() -> Iterator[Skerry]:
    """An engine of this module's own, with a kit."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Skerry() as running:
        machine_kit.provide(running.root)
        yield running


@pytest.fixture
def docker(machines: Skerry) -> Iterator[Callable[..., str]]:
    """`docker("run", …)`: what it printed; containers go at the test's end."""

    def call(*args: str, **options: Any) -> str:
        return machines.docker(*args, timeout=PATIENCE, **options).stdout

    yield call
    machines.remove_containers()


Docker = Callable[..., str]


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def warden_of(docker: Docker, name: str) -> int:
    return int(docker("inspect", "-f", "{{.State.Pid}}", name))


def qemu_of(docker: Docker, name: str) -> int:
    """The machine's QEMU: the child of its warden that is one."""
    warden = warden_of(docker, name)
    for child in Path(f"/proc/{warden}/task/{warden}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().startswith("qemu-system"):
            return int(child)
    raise AssertionError("no QEMU")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_every_way_of_asking_gives_a_kernel_of_its_own(machines: Skerry, docker: Docker) -> None:
    assert "skerry-vm" in json.loads(docker("info", "-f", "{{json .Runtimes}}"))
    host = os.uname().release
    low = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    script = f"uname -r; id -u; echo $A; pwd; hostname; cat {low}; exit 7"
    options = ("-e", "A=b", "-w", "/tmp", "-u", "1000", "-h", "guest", "--network", "none")
    done = machines.docker(
        "run", "--rm", *VM, *options, "busybox", "sh", "-c", script, check=False, timeout=PATIENCE
    )
    release, *rest = done.stdout.splitlines()
    assert (done.returncode, rest) == (7, ["1000", "b", "/tmp", "guest", "0"])
    assert release != host
    ours = machines.skerry(
        "run", "--rm", "--isolation", "vm", "busybox", "uname", "-r", timeout=180
    )
    assert ours.stdout.strip() == release


def test_networks_names_and_ports_are_shared_with_containers(docker: Docker) -> None:
    serve = "echo $(hostname) > /index.html; exec httpd -f -p 80 -h /"
    docker("network", "create", "shared")
    try:
        docker("run", "-d", "--name", "thin", "--net", "shared", "busybox", "sh", "-c", serve)
        port = free_port()
        docker(
            *("run", "-d", "--name", "thick", *VM, "--net", "shared", "-p", f"127.0.0.1:{port}:80"),
            *("-h", "thick-host", "busybox", "sh", "-c", serve),
        )
        seen = docker("exec", "thick", "sh", "-c", "nslookup thin; ip -4 addr show eth0; ip route")
        address = docker(
            "inspect", "-f", "{{.NetworkSettings.Networks.shared.IPAddress}}", "thick"
        ).strip()
        thin = docker(
            "inspect", "-f", "{{.NetworkSettings.Networks.shared.IPAddress}}", "thin"
        ).strip()
        assert f"Address: {thin}" in seen
        assert f"inet {address}/" in seen
        assert "default via" in seen
        page = docker("exec", "thick", "wget", "-qO-", f"http://{thin}/")
        assert page.strip() == docker("exec", "thin", "hostname").strip()
        fetch = ("exec", "thin", "wget", "-qO-", f"http://{address}/")
        until(lambda: docker(*fetch, check=False).strip() == "thick-host", "it does not serve")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
            assert answer.read().strip() == b"thick-host"
        _networks_change_while_it_runs(docker, f"http://127.0.0.1:{port}/")
        docker("rm", "-f", "thin", "thick")
    finally:
        docker("network", "rm", "shared", check=False)


def test_more_networks_than_a_machine_has_ports(docker: Docker) -> None:
    names = [f"many{at}" for at in range(7)]
    try:
        for name in names:
            docker("network", "create", name)
        addresses = {}
        for name, wall in (("thin", ()), ("wide", VM)):
            docker("create", "--name", name, *wall, "--net", names[0], "busybox", "sleep", "1000")
            for network in names[1:]:
                docker("network", "connect", network, name)
            docker("start", name)
            found = json.loads(docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name))
            addresses[name] = [found[network]["IPAddress"] for network in names]
        rows = docker("exec", "wide", "ip", "-o", "-4", "addr").splitlines()
        cards = {row.split()[1]: row.split()[3].partition("/")[0] for row in rows}
        assert cards.pop("lo") == "127.0.0.1"
        assert set(cards) == {f"eth{at}" for at in range(7)}
        assert set(cards.values()) == set(addresses["wide"])
        # Each leads to its own network.
        ask = " && ".join(f"ping -c 1 -W 60 {each}" for each in addresses["thin"])
        docker("exec", "wide", "sh", "-c", ask)
        docker("rm", "-f", "thin", "wide")
    finally:
        docker("network", "rm", *names, check=False)


def _networks_change_while_it_runs(docker: Docker, published: str) -> None:
    """`thick` gets a second network with an alias, loses its first, and gets it again."""
    docker("network", "create", "late")
    try:
        docker("network", "connect", "late", "thin")
        docker("network", "connect", "--alias", "also", "late", "thick")
        ask = ("exec", "thin", "wget", "-qO-", "http://also/")
        assert docker(*ask).strip() == "thick-host"
        where = "{{.NetworkSettings.Networks.late.IPAddress}}"
        address = docker("inspect", "-f", where, "thick").strip()
        assert f"inet {address}/" in docker("exec", "thick", "ip", "-4", "addr", "show", "eth1")
        assert address in docker("exec", "thick", "cat", "/etc/hosts")
        docker("network", "disconnect", "shared", "thick")
        seen = docker("exec", "thick", "sh", "-c", "ip -4 addr; ip route; cat /proc/net/dev")
        assert "eth0" not in seen
        assert seen.count("default via") == 1
        assert docker(*ask).strip() == "thick-host"
        with urllib.request.urlopen(published, timeout=120) as answer:
            assert answer.read().strip() == b"thick-host"
        docker("network", "connect", "shared", "thick")
        assert docker("exec", "thin", "wget", "-qO-", "http://thick/").strip()
        named = docker("exec", "thick", "sh", "-c", "ip -4 addr show eth0; nslookup thin")
        assert "inet " in named
    finally:
        docker("network", "disconnect", "-f", "late", "thick", check=False)
        docker("network", "disconnect", "-f", "late", "thin", check=False)
        docker("network", "rm", "late", check=False)


def test_volumes_binds_and_tmpfs(machines: Skerry, docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    script = (
        "cat /bind/file; echo guest > /bind/made; chown 7:8 /bind/made; echo kept > /volume/v;"
        "echo no > /one 2>/dev/null || echo refused; mount | grep -c ' /t type tmpfs';"
        "echo no > /x 2>/dev/null || echo root-is-read-only"
    )
    docker("volume", "create", "kept")
    try:
        said = docker(
            *("run", "--rm", *VM, "--read-only", "-v", f"{tmp_path}:/bind", "-v", "kept:/volume"),
            *("-v", f"{tmp_path}/file:/one:ro", "--tmpfs", "/t", "busybox", "sh", "-c", script),
        )
        assert said.split() == ["host", "refused", "1", "root-is-read-only"]
        made = tmp_path / "made"
        assert (made.read_text(), made.stat().st_uid, made.stat().st_gid) == ("guest\n", 7, 8)
        assert docker("run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/v") == "kept\n"
        # A spare machine takes a container with volumes as well.
        spare = spare_of(machines, shares=True)
        script = "cat /v/v; echo spare >> /v/v; exec sleep 1000"
        docker(
            "run", "-d", "--name", "of-spare", *VM, "-v", "kept:/v", "busybox", "sh", "-c", script
        )
        assert qemu_of(docker, "of-spare") == spare["Pid"]
        assert lines_of(docker, "of-spare", 1) == ["kept"]
        assert docker("exec", "of-spare", "cat", "/v/v") == "kept\nspare\n"
        docker("rm", "-f", "of-spare")
        until_gone(machines, spare)
    finally:
        docker("volume", "rm", "kept", check=False)


def test_files_go_in_and_out_running_and_stopped(machines: Skerry, docker: Docker) -> None:
    script = "rm /etc/group; mkdir /d; echo one > /d/made; exec sleep 1000"
    options = ("--net", "none", "--storage-opt", "size=64m")
    docker("run", "-d", "--name", "files", *VM, *options, "busybox", "sh", "-c", script)
    until(lambda: docker("exec", "files", "cat", "/d/made", check=False), "it makes no file")
    changes = "A /d\nA /d/made\nC /etc\nD /etc/group\n"
    assert "".join(sorted(docker("diff", "files").splitlines(keepends=True))) == changes
    for stopped, name in ((False, "running"), (True, "stopped")):
        if stopped:
            docker("stop", "-t", "1", "files")
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"in\n"))
        machines.docker("cp", "-", "files:/d", stdin=raw.getvalue(), timeout=PATIENCE)
        out = docker("cp", f"files:/d/{name}", "-")
        with tarfile.open(fileobj=io.BytesIO(out.encode())) as archive:
            content = archive.extractfile(name)
            assert content is not None
            assert content.read() == b"in\n"
        if not stopped:
            _long_files_come_whole(machines, docker)
    docker("commit", "files", "committed")
    look = "ls /d; ls /etc/group; :"
    listed = docker("run", "--rm", "--net", "none", "committed", "sh", "-c", look)
    assert listed.split() == ["made", "running", "stopped"]
    docker("start", "files")
    assert docker("exec", "files", "ls", "/d").split() == ["made", "running", "stopped"]
    fill = "dd if=/dev/zero of=/big bs=1M count=80 2>&1; stat -c %s /big; rm /big"
    *_, said, _, _, size = docker("exec", "files", "sh", "-c", fill).splitlines()
    assert "No space left on device" in said
    assert 32 << 20 < int(size) <= 64 << 20
    docker("exec", "files", "sh", "-c", "echo late:x:77:88::/:/bin/sh >> /etc/passwd")
    found = docker("exec", "-u", "late", "files", "sh", "-c", "id -u; id -g")
    assert found.split() == ["77", "88"]
    done = machines.docker("exec", "-u", "nobody-knows", "files", "true", check=False)
    assert "unable to find user nobody-knows" in done.stdout
    assert done.returncode == 126
    titles, row = docker("top", "files").splitlines()[:2]
    assert titles.split()[:3] == ["UID", "PID", "PPID"]
    assert "sleep 1000" in row
    docker("rmi", "-f", "committed", check=False)


def _long_files_come_whole(machines: Skerry, docker: Docker) -> None:
    """What is asked for, through links and under another name, and nothing else of that length."""
    make = "cd /; mkdir -p long/in; yes | head -c 300000 | tee long/in/a > b; ln b long/c"
    docker("exec", "files", "sh", "-c", f"{make}; ln -s in long/link")
    for asked, names in (
        ("/long", {"long/in/a", "long/c"}),
        ("/long/link/a", {"a"}),
        ("/b", {"b"}),
    ):
        out = docker("cp", f"files:{asked}", "-")
        with tarfile.open(fileobj=io.BytesIO(out.encode())) as archive:
            whole = {each.name: archive.extractfile(each) for each in archive if each.isreg()}
            assert {name: file.read() for name, file in whole.items() if file} == dict.fromkeys(
                names, b"y\n" * 150_000
            ), asked
    until(lambda: not os.listdir(machines.root / "tmp"), "what was looked at stays")
    docker("exec", "files", "rm", "-r", "/long", "/b")


def spares_of(machines: Skerry) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machines.skerry("info", "-f", "json").stdout)[
        "SpareMachines"
    ]
    return found


def spare_of(machines: Skerry, *, shares: bool = False) -> dict[str, Any]:
    """The engine's spare machine, once it is ready; a machine was started before, perhaps by the
    engine before."""

    def ready() -> dict[str, Any] | None:
        fit = (spare for spare in spares_of(machines) if spare["Shares"] or not shares)
        return next((spare for spare in fit if spare["Ready"]), None)

    found: dict[str, Any] = until(ready, "no spare machine gets ready", PATIENCE)
    return found


def traces_of(machines: Skerry, spare: dict[str, Any]) -> list[Path]:
    """What is a spare's own on the host."""
    top, id_ = Path("/sys/fs/cgroup"), spare["ID"]
    places = [*top.glob(f"skerry/{id_}"), *top.glob(f"*/skerry/{id_}")]
    return [*places, *(machines.run_root / "containers").glob(id_)]


def until_gone(machines: Skerry, spare: dict[str, Any], *, qemu: bool = True) -> None:
    if qemu:
        until(lambda: not Path(f"/proc/{spare['Pid']}").exists(), "the spare's QEMU stays")
    until(lambda: not traces_of(machines, spare), "traces of a spare stay")


def lines_of(docker: Docker, name: str, count: int) -> list[str]:
    """What a container has written, once it is so many lines."""

    def written() -> list[str]:
        found = docker("logs", name).splitlines()
        return found if len(found) == count else []

    lines: list[str] = until(written, "the program says too little", PATIENCE)
    return lines


def test_a_container_gets_the_spare_machine_and_shares_nothing_with_the_next(
    machines: Skerry, docker: Docker
) -> None:
    script = (
        "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid; hostname;"
        "ip link show eth0 | grep -o 'ether [^ ]*'; date +%s; ls / | grep -c made; sleep 1000"
    )

    def adopted(name: str) -> list[str]:
        spare = spare_of(machines)
        assert spare["OwnMemory"] > 0
        options = ("-d", "--name", name, "-h", f"host-{name}", *VM)
        docker("run", *options, "busybox", "sh", "-c", script)
        assert qemu_of(docker, name) == spare["Pid"]
        lines = lines_of(docker, name, 6)
        mac = docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.MacAddress}}", name)
        assert lines[2:4] == [f"host-{name}", f"ether {mac.strip()}"]
        assert abs(int(lines[4]) - time.time()) < 60
        assert lines[5] == "0", "the rehearsal's file is there"
        until_gone(machines, spare, qemu=False)
        group = Path(f"/proc/{spare['Pid']}/cgroup").read_text()
        assert f"/skerry/{docker('inspect', '-f', '{{.Id}}', name).strip()}" in group
        assert spare["ID"] not in group
        return lines

    docker("run", "--rm", *VM, "busybox", "true")
    first, second = adopted("first"), adopted("second")
    assert not set(first[:4]) & set(second[:4])
    # From here on they are machines as any other.
    address = docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "first")
    docker("exec", "second", "ping", "-c", "1", "-W", "20", address.strip())
    machines.skerry("snapshot", "create", "second", "--name", "of-a-spare", timeout=PATIENCE)
    docker("exec", "second", "touch", "/later")
    machines.skerry("snapshot", "restore", "--force", "of-a-spare", timeout=PATIENCE)
    assert "later" not in docker("exec", "second", "ls", "/")


def test_a_spare_that_hangs_or_died_is_passed_over(machines: Skerry, docker: Docker) -> None:
    start = ("run", "-d", *VM, "--net", "none", "busybox", "sleep", "1000")
    docker(*start)
    spare = spare_of(machines)
    os.kill(spare["Pid"], signal.SIGSTOP)
    id_ = docker(*start).strip()
    assert qemu_of(docker, id_) != spare["Pid"]
    assert docker("exec", id_, "echo", "well") == "well\n"
    until_gone(machines, spare)
    other = spare_of(machines)
    os.kill(other["Pid"], signal.SIGKILL)
    docker(*start)
    until_gone(machines, other)


def test_no_spare_outlives_its_engine_the_next_has_one_and_the_setting_turns_them_off(
    machines: Skerry, docker: Docker
) -> None:
    start = ("run", "--rm", *VM, "--net", "none", "busybox", "true")
    settings = machines.root / "engine.json"
    docker(*start)
    for how in (signal.SIGKILL, signal.SIGTERM):
        # The second engine has one from its start: it was told what was asked for.
        spare = spare_of(machines)
        assert traces_of(machines, spare)
        machines.stop(how)
        until_gone(machines, spare)
        if how == signal.SIGTERM:
            settings.write_text(json.dumps({"vm-spares": 0}))
        machines.start()
    docker(*start)
    assert spares_of(machines) == []
    settings.unlink()
    machines.stop()
    machines.start()


def test_two_machines_without_a_spare_share_no_randomness_either(docker: Docker) -> None:
    script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid; date +%s"
    command = ("run", "-d", *VM, "--net", "none", "busybox", "sh", "-c", script)
    # One after the other: at most one of them finds a spare.
    ids = [docker(*command).strip() for _ in range(3)]
    seen = [lines_of(docker, id_, 3) for id_ in ids]
    for at in (0, 1):
        assert len({lines[at] for lines in seen}) == 3
    assert all(abs(int(lines[2]) - time.time()) < 60 for lines in seen)


def test_qemu_is_in_jail(docker: Docker) -> None:
    docker("run", "-d", "--name", "jailed", *VM, "--net", "none", "busybox", "sleep", "1000")
    pid = qemu_of(docker, "jailed")
    status = status_of(pid)
    assert len(set(status["Uid"].split())) == 1
    assert int(status["Uid"].split()[0]) >= 0x70000000
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    root = Path(f"/proc/{pid}/root")
    assert not (root / "root").exists()
    assert not (root / "etc/passwd").exists()
    assert sorted(path.name for path in (root / "proc").iterdir() if path.name.isdigit()) == ["1"]
    with pytest.raises(OSError, match="Read-only"):
        (root / "file").write_text("x")
    allowed = re.compile(
        r"(pipe|socket|anon_inode):|/dev/(null|net/tun)|/memfd:skerry-template"
        r"|.*/(disk\.qcow2|blank\.raw|state|[0-9a-f]+\.erofs)( \(deleted\))?$"
    )
    for fd in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        assert allowed.match(target), target
    # The memory that all clones share cannot be written to through what QEMU has of it.
    memory = next(
        fd for fd in os.listdir(f"/proc/{pid}/fd") if "memfd" in os.readlink(f"/proc/{pid}/fd/{fd}")
    )
    handle = os.open(f"/proc/{pid}/fd/{memory}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(handle, b"x", 0)
    os.close(handle)


@pytest.mark.parametrize("victim", ["qemu", "warden"])
def test_a_machine_that_is_killed_is_reported_dead_and_leaves_a_whole_disk(
    machines: Skerry, docker: Docker, victim: str
) -> None:
    script = "while :; do date > /f; sync; touch /synced; done"
    id_ = docker("run", "-d", *VM, "--net", "none", "busybox", "sh", "-c", script).strip()
    qemu, warden = qemu_of(docker, id_), warden_of(docker, id_)
    until(lambda: docker("exec", id_, "ls", "/synced", check=False), "it writes nothing")
    os.kill(qemu if victim == "qemu" else warden, signal.SIGKILL)
    until(
        lambda: docker("inspect", "-f", "{{.State.Status}}", id_).strip() == "exited", "it goes on"
    )
    until(lambda: not Path(f"/proc/{qemu}").exists(), "QEMU goes on")
    state = json.loads(docker("inspect", "-f", "{{json .State}}", id_))
    if victim == "qemu":
        assert "QEMU has ended" in state["Error"]
    assert state["ExitCode"] != 0
    (disk,) = machines.root.glob(f"snapshots/{id_}/disk.qcow2")
    # 3 is for clusters that nobody uses: space, not data (qemu-img(1)).
    checked = subprocess.run(["qemu-img", "check", "-q", str(disk)], check=False)
    assert checked.returncode in (0, 3)
    if victim == "warden":
        # To be read it is opened, and closed in good order: it is checked before.
        assert "A /f" in docker("diff", id_).splitlines()
        assert subprocess.run(["qemu-img", "check", "-q", str(disk)], check=False).returncode == 0
    docker("start", id_)
    until(lambda: docker("exec", id_, "cat", "/f", check=False), "its file has gone")
    docker("stop", "-t", "1", id_)
    checked = subprocess.run(["qemu-img", "check", str(disk)], check=False, capture_output=True)
    # A QEMU whose host's disk takes very long is killed in the end, and the mark says so.
    assert checked.returncode == 0 or (checked.returncode == 3 and orderly.is_marked(str(disk))), (
        checked
    )


def test_after_a_pause_the_clock_is_right(docker: Docker) -> None:
    id_ = docker("run", "-d", *VM, "--net", "none", "busybox", "sleep", "1000").strip()
    docker("pause", id_)
    paused = time.monotonic()
    until(lambda: time.monotonic() - paused > 3, "time stands still")
    docker("unpause", id_)
    before = time.time()
    said = int(docker("exec", id_, "date", "+%s"))
    assert before - 2 < said <= time.time()


def test_a_machine_id_is_the_containers_own(docker: Docker) -> None:
    make = "echo 0123456789abcdef0123456789abcdef > /etc/machine-id"
    docker("run", "--name", "maker", "--net", "none", "busybox", "sh", "-c", make)
    docker("commit", "maker", "with-id")
    try:
        id_ = docker("run", "-d", *VM, "--net", "none", "with-id", "sleep", "1000").strip()
        assert docker("exec", id_, "cat", "/etc/machine-id") == f"{id_[:32]}\n"
        assert docker("diff", id_) == ""
        docker("rm", "-f", id_)
    finally:
        docker("rmi", "-f", "with-id", check=False)


def test_machines_outlive_the_engine(machines: Skerry, docker: Docker) -> None:
    id_ = docker("run", "-d", *VM, "--net", "none", "busybox", "sleep", "1000").strip()
    qemu = qemu_of(docker, id_)
    machines.stop(signal.SIGKILL)
    assert Path(f"/proc/{qemu}").exists()
    machines.start()
    assert docker("exec", id_, "echo", "still here") == "still here\n"
    assert qemu_of(docker, id_) == qemu
    docker("rm", "-f", id_)
    until(lambda: not Path(f"/proc/{qemu}").exists(), "QEMU goes on")


def test_what_a_machine_cannot_share_is_refused(machines: Skerry, docker: Docker) -> None:
    docker("run", "-d", "--name", "apart", *VM, "--net", "none", "busybox", "sleep", "1000")
    for options in (("--pid", "container:apart"), ("--net", "container:apart")):
        done = machines.docker("run", "--rm", *options, "busybox", "true", check=False)
        assert done.returncode == 125
        assert "in a machine" in done.stderr
    done = machines.docker("run", "--rm", *VM, "--net", "host", "busybox", "true", check=False)
    assert "cannot share the host's network" in done.stderr


def test_what_machines_have_made_is_accounted_and_pruned(machines: Skerry, docker: Docker) -> None:
    # Earlier tests' images have gone, their disks go with the first prune.
    machines.skerry("image", "prune", "-f")
    docker("run", "--name", "maker", "--net", "none", "busybox", "touch", "/of-its-own")
    docker("commit", "maker", "own-chain")
    docker("rm", "maker")
    docker("run", "--rm", *VM, "--net", "none", "own-chain", "true")
    running = docker("run", "-d", *VM, "--net", "none", "busybox", "sleep", "1000").strip()
    layers = machines.root / "machines/layers"
    both = len(list(layers.glob("*.erofs")))
    docker("rmi", "own-chain")
    table = machines.skerry("system", "df").stdout
    rows = {cells[0]: cells[1:] for cells in map(re.compile(" {2,}").split, table.splitlines())}
    assert rows["Machine kits"][0] != "0B"
    assert rows["Machine templates"][0] != "0B"
    assert rows["Machine disks"][1] != "0B"
    freed = machines.skerry("image", "prune", "-f").stdout
    assert "space: 0B" not in freed
    assert len(list(layers.glob("*.erofs"))) == both - 1
    # What runs has kept what it needs, and the next one starts.
    assert docker("exec", running, "echo", "on") == "on\n"
    assert docker("run", "--rm", *VM, "--net", "none", "busybox", "echo", "new") == "new\n"
    templates = list((machines.root / "templates").glob("*"))
    docker("rm", "-f", running)
    machines.skerry("image", "prune", "-f")
    assert templates
    assert not list((machines.root / "templates").glob("*"))
    assert docker("run", "--rm", *VM, "--net", "none", "busybox", "echo", "again") == "again\n"


def _memory_seen(docker: Docker, name: str) -> int:
    """KiB of memory that the guest's kernel has."""
    return int(docker("exec", name, "grep", "MemTotal", "/proc/meminfo").split()[1])


def test_docker_py_asks_for_a_machine(machines: Skerry, docker: Docker) -> None:
    client = dockerpy.DockerClient(base_url=machines.host, timeout=int(PATIENCE), version="auto")
    container = client.containers.create(
        "busybox", ["sh", "-c", "sleep 1000"], runtime="skerry-vm", network_mode="none",
        environment={"A": "b"}, mem_limit="64m", nano_cpus=1_000_000_000,
    )  # fmt: skip
    try:
        container.start()
        code, (out, err) = container.exec_run(
            ["sh", "-c", "uname -r; echo $A >&2; exit 4"], demux=True
        )
        assert code == 4
        assert out.decode().strip() != os.uname().release
        assert err == b"b\n"
        stats = container.stats(stream=False)
        assert 0 < stats["memory_stats"]["usage"] < stats["memory_stats"]["limit"] == 64 << 20
        assert any("sleep 1000" in " ".join(row) for row in container.top()["Processes"])
        container.update(mem_limit="96m")
        limit = container.exec_run(["cat", "/sys/fs/cgroup/memory.max"]).output
        assert int(limit) == 96 << 20
        # More processors than it began with are plugged in.
        count = 2 if (os.cpu_count() or 1) > 1 else 1
        docker("update", "--cpus", str(count), container.id)
        assert container.exec_run(["nproc"]).output == f"{count}\n".encode()
        # More memory as well; what lies there is the copy's too.
        before = _memory_seen(docker, container.id)
        container.update(mem_limit="600m")
        most = _memory_seen(docker, container.id)
        assert most - before == 768 << 10
        fill = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=8 2>/dev/null; md5sum /dev/shm/x"
        filled = docker("exec", container.id, "sh", "-c", fill)
        copy = machines.skerry("fork", container.id, timeout=PATIENCE).stdout.strip()
        assert docker("exec", copy, "nproc") == f"{count}\n"
        assert docker("exec", copy, "md5sum", "/dev/shm/x") == filled
        assert _memory_seen(docker, copy) == most
        docker("rm", "-f", copy)
        docker("exec", container.id, "rm", "/dev/shm/x")
        container.update(mem_limit="96m")
        until(
            lambda: _memory_seen(docker, container.id) <= most - (256 << 10),
            "the guest gives nothing back", PATIENCE,
        )  # fmt: skip
        container.kill("TERM")
        container.kill()
        assert container.wait()["StatusCode"] == 137
    finally:
        client.close()


PROJECT = """
version: "2.4"
services:
  thick:
    image: busybox
    runtime: skerry-vm
    restart: on-failure:3
    network_mode: none
    volumes: [runs:/runs]
    command: ["sh", "-c", "rm -f /pid; echo run >>/runs/all; sleep 600 & echo $$! > /pid; wait $$!"]
    healthcheck: {test: "test -s /pid", interval: 1s, timeout: 60s, retries: 60}
volumes: {runs: {}}
"""


def test_compose_health_and_restart_policies(
    machines: Skerry, docker: Docker, tmp_path: Path
) -> None:
    """A service behind the wall becomes healthy, is started again when it fails, and goes."""
    if not shutil.which("docker-compose"):
        pytest.skip("needs the Debian package docker-compose")
    (tmp_path / "docker-compose.yml").write_text(PROJECT)

    def compose(*words: str) -> None:
        subprocess.run(
            ["docker-compose", "--ansi", "never", "-p", "walled", *words],
            cwd=tmp_path,
            env={**machines.environment(), "COMPOSE_HTTP_TIMEOUT": "180"},
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )

    def state(what: str) -> str:
        return docker("inspect", "-f", f"{{{{{what}}}}}", "walled_thick_1").strip()

    compose("up", "-d")
    try:
        until(lambda: state(".State.Health.Status") == "healthy", "it is not healthy", 150)
        # The shell ends with the code of a killed child, which is a failure; it may take the exec
        # along.
        docker("exec", "walled_thick_1", "sh", "-c", "kill -9 $(cat /pid)", check=False)
        seen = ("exec", "walled_thick_1", "cat", "/runs/all")
        again = "run\nrun\n"
        until(lambda: docker(*seen, check=False) == again, "it does not start again", 150)
        assert state(".RestartCount") == "1"
        until(lambda: state(".State.Health.Status") == "healthy", "it stays ill", 150)
    finally:
        compose("down", "-v", "-t", "1")
    assert "walled" not in docker("ps", "-a") + docker("volume", "ls")
