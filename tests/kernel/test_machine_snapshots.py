"""Machines kept with their memory, taken back, and forked while they run."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from bench.daemons import Skerry
from tests.kernel import machine_kit, tls

from skerry.base.errors import Conflict, InvalidInput, MachineFault, NotFound, SkerryError
from skerry.engine import after_fork
from skerry.sdk import Container, Engine
from skerry.store import snapshot_archive

pytestmark = [pytest.mark.root]

COUNT = "n=0; while sleep 0.1; do n=$((n+1)); echo $n > /dev/shm/count; done"
"""A program whose state is in memory alone: after a fresh start it would count from 0 again."""


@pytest.fixture(scope="module")
def client(engine: Skerry) -> Iterator[Engine]:
    with Engine(engine.host, timeout=200) as made:
        yield made


@pytest.fixture(scope="module")
def box(client: Engine) -> Iterator[Container]:
    host: dict[str, Any] = {"Runtime": "skerry-vm", "NanoCpus": 10**9}
    options: dict[str, Any] = {"host_config": host, "network": "none"}
    script = f"mkdir -p /dev/shm /etc/skerry/after-fork.d; {COUNT}"
    made = client.containers.start("busybox", ["sh", "-c", script], name="counter", **options)
    yield made
    for each in client.containers.list(all=True):
        each.remove(force=True)
    client.client.post("/networks/prune")


def sh(container: Container, script: str) -> str:
    done = container.exec(["sh", "-c", script])
    assert done.exit_code == 0, done
    return done.stdout.decode().strip()


def count(container: Container) -> int:
    """What the program has counted; it empties the file each time before it writes."""
    path = "/dev/shm/count"
    return int(sh(container, f'until n=$(cat {path}) && [ "$n" ]; do :; done; echo $n'))


def test_a_restore_goes_on_where_it_was(client: Engine, engine: Skerry, box: Container) -> None:
    sh(box, "until [ -s /dev/shm/count ]; do sleep 0.05; done; echo kept > /file")
    boot = sh(box, "echo 1234 > /etc/machine-id; cat /proc/sys/kernel/random/boot_id")
    # What was plugged in is there again.
    cpus = min(2, os.cpu_count() or 1)
    client.client.post("/containers/counter/update", body={"NanoCpus": cpus * 10**9})
    taken = client.client.post("/skerry/snapshots?container=counter&name=one")
    assert (taken["Kind"], taken["Current"]) == ("machine", True)
    assert taken["PauseMs"] > 0
    then = count(box)
    sh(box, "echo more >> /file; rm /etc/machine-id")
    with pytest.raises(Conflict):
        client.client.post("/skerry/snapshots/one/restore")
    client.client.post("/skerry/snapshots/one/restore?force=1")
    assert sh(box, "cat /proc/sys/kernel/random/boot_id") == boot
    assert sh(box, "cat /file /etc/machine-id; nproc") == f"kept\n1234\n{cpus}"
    now = count(box)
    deadline = time.monotonic() + 120
    while count(box) <= max(now, then):
        assert time.monotonic() < deadline
    disk = client.client.post("/skerry/snapshots?container=counter&name=files&disk-only=1")
    assert (disk["Kind"], disk["Parent"]) == ("disk", taken["Id"])
    sh(box, "echo lost > /file")
    client.client.post("/skerry/snapshots/files/restore?force=1")
    assert sh(box, "cat /file") == "kept"
    assert os.listdir(engine.root / "frozen")


DRAW = """BEGIN {
    gen = "/run/skerry/generation"; uuid = "/proc/sys/kernel/random/uuid"; out = "/dev/shm/drawn"
    for (n = 0; n < 200000 && after < 20; n++) {
        g = "none"; getline g < gen; close(gen)
        getline u < uuid; close(uuid)
        print g, u > out; fflush(out)
        if (!n) first = g
        after += g != first
    }
    print "end" > out
}"""
"""Draws random numbers without a pause, and notes in which copy it believed to be before each."""


def test_copies_are_machines_of_their_own(client: Engine, box: Container) -> None:
    key = "/etc/ssh/ssh_host_ed25519_key"
    sh(box, f"echo 1234 > /etc/machine-id; mkdir -p /etc/ssh; echo old > {key}")
    hook = "/etc/skerry/after-fork.d/10-note"
    sh(box, f"printf '#!/bin/sh\\nhostname > /hooked\\n' > {hook}; chmod +x {hook}")
    drawn_at = "/dev/shm/drawn"
    sh(box, f"awk '{DRAW}' > /dev/null 2>&1 & until [ -s /dev/shm/drawn ]; do sleep 0.1; done")
    made = client.client.post("/skerry/fork?container=counter&count=3")
    sh(box, "killall awk")
    assert not any(each["Error"] or each["Warning"] for each in made), made
    copies = [client.containers.get(each["Id"]) for each in made]
    drawn = [
        sh(each, f"until grep end {drawn_at}; do sleep 0.1; done; cat {drawn_at}")
        for each in copies
    ]
    rows = [[row.split() for row in text.splitlines() if " " in row] for text in drawn]
    # Where they were copied stands the same in each: none ran before it was another.
    assert len({sum(word == each[0][0] for word, _ in each) for each in rows}) == 1
    own = [number for each in rows for word, number in each if word != each[0][0]]
    assert len(own) == len(set(own)) == 60
    for path in ("/etc/machine-id", key, "/etc/hostname"):
        assert len({sh(each, f"cat {path}") for each in (box, *copies)}) == 4, path
    random = "head -c 4096 /dev/urandom | md5sum"
    assert len({sh(each, random) for each in (box, *copies)}) == 4
    assert len({sh(each, "cat /proc/sys/kernel/random/uuid") for each in (box, *copies)}) == 4
    for copy in copies:
        assert sh(copy, "cat /hooked") == sh(copy, "hostname") == copy.id[:12]
        assert abs(int(sh(copy, "date +%s")) - int(sh(box, "date +%s"))) < 60
        assert count(copy) > 0
    generation = "cat /run/skerry/generation"
    assert len({sh(each, generation) for each in copies}) == 3
    assert sh(box, f"{generation} 2>&1 || true") not in {sh(each, generation) for each in copies}
    sh(copies[0], "echo mine > /own")
    assert sh(copies[1], "ls /own 2>&1 || true").startswith("ls:")
    copies[0].stop(timeout=0)
    (fresh,) = client.client.post(f"/skerry/fork?container={copies[0].id}&count=1&start=1")
    assert not fresh["Error"], fresh
    copy = client.containers.get(fresh["Id"])
    copies[0].start()
    for each in (copies[0], copy):
        assert sh(each, "cat /own") == "mine"
    for path in ("/etc/machine-id", key):
        assert len({sh(each, f"cat {path}") for each in (*copies, copy)}) == 4, path


def test_copies_answer_on_their_own_addresses(client: Engine, box: Container) -> None:
    """The original goes on on its own, each published port leads to its own copy."""
    del box  # which clears up
    serve = "mkdir -p /run; hostname > /index.html; exec httpd -f -p 80 -h /"
    options: dict[str, Any] = {
        "host_config": {
            "Runtime": "skerry-vm",
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        },
    }
    web = client.containers.create("busybox", ["sh", "-c", serve], name="web", **options)
    client.client.post("/networks/create", body={"Name": "beside"})
    client.client.post("/networks/beside/connect", body={"Container": "web"})
    web.start()
    assert fetch(published(client, web)) == web.id[:12]
    made = client.client.post("/skerry/fork?container=web&count=2")
    assert not any(each["Error"] or each["Warning"] for each in made), made
    machines = [web, *(client.containers.get(each["Id"]) for each in made)]
    for each in machines[1:]:
        sh(each, "hostname > /index.html")
    seen = []
    for each in machines:
        settings = client.client.get(f"/containers/{each.id}/json")["NetworkSettings"]
        second = settings["Networks"]["beside"]["IPAddress"]
        assert f"inet {second}/" in sh(each, "ip addr show eth1")
        card = settings["Networks"]["bridge"]
        address, mac = card["IPAddress"], card["MacAddress"]
        inside = sh(each, "ip addr show eth0; ip route; cat /etc/hosts")
        assert f"inet {address}/" in inside
        assert f"link/ether {mac}" in inside
        assert f"{address}\t{each.id[:12]}" in inside
        assert inside.count("default via") == 1
        assert fetch(published(client, each)) == each.id[:12]
        for other in machines:
            # Also to itself: nobody answers at another's address.
            assert sh(other, f"wget -qO- http://{address}/") == each.id[:12]
        assert sh(web, f"wget -qO- http://{second}/") == each.id[:12]
        seen.append((address, mac, published(client, each)))
    assert all(len(set(column)) == len(machines) for column in zip(*seen, strict=True))
    _kept_as_an_image(client, machines[1])


def test_copies_share_no_tls_session(
    client: Engine, engine: Skerry, box: Container, tmp_path: Path
) -> None:
    """The original's server and its tickets go on; each copy's was started afresh, as a label says,
    before anybody was told of the copy: it knows no ticket but its own, and no number twice."""
    del box  # which clears up
    (tmp_path / "tls.tar").write_bytes(tls.image(tmp_path))
    engine.skerry("import", str(tmp_path / "tls.tar"), "tls:1")
    options: dict[str, Any] = {
        "host_config": {
            "Runtime": "skerry-vm",
            "PortBindings": {f"{tls.PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        },
        "labels": {after_fork.COMMAND: tls.RENEW},
    }
    words = ["sh", "-c", tls.SUPERVISED]
    server = client.containers.start("tls:1", words, name="tls", **options)
    sh(server, f"until {tls.LISTENS}; do sleep 0.05; done")
    talk = tls.Client()
    before = talk.connect(published(client, server, tls.PORT))
    assert not before.resumed
    made = client.client.post("/skerry/fork?container=tls&count=2")
    assert not any(each["Error"] or each["Warning"] for each in made), made
    machines = [server, *(client.containers.get(each["Id"]) for each in made)]
    ports = [published(client, each, tls.PORT) for each in machines]
    assert [talk.connect(port, before.session).resumed for port in ports] == [True, False, False]
    seen = [talk.connect(port) for port in ports]
    assert len({each.random for each in (before, *seen)}) == 4
    assert len({each.share for each in (before, *seen)}) == 4
    for one, at in enumerate(seen):
        for other, port in enumerate(ports):
            assert talk.connect(port, at.session).resumed == (one == other), (one, other)
    for each in machines:
        each.remove(force=True)
    engine.skerry("rmi", "tls:1")


def test_what_a_label_asks_for_is_refused_or_told(
    client: Engine, engine: Skerry, box: Container
) -> None:
    """Before there is a copy when it makes no sense, and when it fails in a copy."""
    del box  # which clears up
    options: dict[str, Any] = {"labels": {after_fork.SIGNAL: "HUNG"}}
    client.containers.create("busybox", ["true"], name="odd", **options)
    with pytest.raises(InvalidInput, match="invalid signal: HUNG"):
        client.client.post("/skerry/fork?container=odd&count=1")
    ports = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
    options = {"labels": {after_fork.COMMAND: "echo no; exit 3"}, "host_config": ports}
    client.containers.start("busybox", "sleep 1000", name="bad", init=True, **options)
    done = engine.skerry("fork", "bad", check=False)
    assert (done.returncode, done.stdout) == (1, "bad-1\n")
    assert done.stderr == f"skerry: bad-1: label {after_fork.COMMAND}: exit code 3: no\n"
    # Nobody is led to it before it has done what it had to.
    copy = client.containers.get("bad-1")
    found = client.client.get("/containers/bad-1/json")["NetworkSettings"]["Ports"]
    assert not any(found.values())
    copy.restart(timeout=0)
    assert published(client, copy) != published(client, client.containers.get("bad"))


def _kept_as_an_image(client: Engine, copy: Container) -> None:
    """What a copy has written is in its image, and in how it differs from a snapshot of it."""
    taken = client.client.post(f"/skerry/snapshots?container={copy.id}&name=before")
    sh(copy, "echo mine > /mine; sync")
    found = client.client.get(f"/skerry/diff?from={taken['Id']}&to={copy.id}")
    assert "/mine" in json.dumps(found)
    client.client.post(f"/commit?container={copy.id}&repo=kept&tag=1", body={})
    with contextlib.suppress(NotFound):
        client.containers.get("thin").remove(force=True)
    thin = client.containers.start("kept:1", "sleep 1000", name="thin", init=True, network="none")
    assert sh(thin, "cat /mine /index.html") == f"mine\n{copy.id[:12]}"


def published(client: Engine, container: Container, port: int = 80) -> int:
    settings = client.client.get(f"/containers/{container.id}/json")["NetworkSettings"]
    return int(settings["Ports"][f"{port}/tcp"][0]["HostPort"])


def fetch(port: int) -> str:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                return str(answer.read().decode().strip())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_container_becomes_a_machine(client: Engine, box: Container) -> None:
    one = client.containers.start("busybox", "sleep 1000", name="tobe", init=True, network="none")
    sh(one, "echo data > /data; rm /etc/passwd")
    with pytest.raises(Conflict):
        client.client.post("/skerry/promote?container=tobe")
    one.stop(timeout=0)
    made = client.client.post("/skerry/promote?container=tobe")
    machine = client.containers.get(made["Name"])
    machine.start()
    kernels = {sh(each, "uname -r") for each in (machine, box)}
    assert kernels != {os.uname().release}
    assert len(kernels) == 1
    assert sh(machine, "cat /data; ls /etc/passwd 2>&1 | grep -c 'No such'") == "data\n1"
    sh(machine, "echo more >> /data")
    one.start()
    assert sh(one, "cat /data") == "data"


def test_volumes_and_binds_are_kept_and_shared(
    client: Engine, box: Container, tmp_path: Path
) -> None:
    """A machine with folders of the host is saved, taken back and forked like any other, as long
    as no program holds one of its files; who does is named, and nothing has changed."""
    del box  # which clears up
    (tmp_path / "file").write_text("bound")
    binds = ["kept:/data", f"{tmp_path}:/bind:ro", f"{tmp_path}/file:/etc/single"]
    options: dict[str, Any] = {
        "host_config": {"Runtime": "skerry-vm", "Binds": binds}, "network": "none",
    }  # fmt: skip
    shared = client.containers.start(
        "busybox", ["sh", "-c", f"mkdir -p /dev/shm; {COUNT}"], name="shared", **options
    )
    look = "cat /data/one /bind/file /etc/single; echo; echo no 2>&- > /bind/x || echo refused"
    table = "grep virtiofs /proc/self/mounts"
    sh(shared, "echo 1 > /data/one; until [ -s /dev/shm/count ]; do sleep 0.05; done")
    mounted = sh(shared, table)
    taken = client.client.post("/skerry/snapshots?container=shared&name=one")
    assert taken["Kind"] == "machine"
    assert sh(shared, look).split("\n") == ["1", "boundbound", "refused"]
    assert sh(shared, table) == mounted
    sh(shared, "echo 2 > /data/one")
    then = count(shared)
    (made,) = client.client.post("/skerry/fork?container=shared&count=1")
    assert not made["Error"], made
    copy = client.containers.get(made["Id"])
    assert count(copy) >= then
    assert sh(copy, look).split("\n") == ["2", "boundbound", "refused"]
    assert sh(copy, table) == mounted
    sh(copy, "echo copy > /data/two")
    assert sh(shared, "cat /data/two") == "copy"
    copy.remove(force=True)
    sh(shared, "{ cd /data; exec 3>>held; exec sleep 1000; } >/dev/null 2>&1 &")
    sh(shared, "until [ -e /data/held ]; do sleep 0.05; done")
    with pytest.raises(Conflict, match=r"process \d+ \(\w+\) uses /data.*lies on a volume"):
        client.client.post("/skerry/snapshots?container=shared&name=two")
    assert sh(shared, look).split("\n") == ["2", "boundbound", "refused"]
    disk = client.client.post("/skerry/snapshots?container=shared&name=disk&disk-only=1")
    assert disk["Kind"] == "disk"
    client.client.post("/skerry/snapshots/shared:one/restore?force=1")
    assert sh(shared, "cat /data/one /data/two") == "2\ncopy"
    assert sh(shared, table) == mounted
    assert count(shared) > 0
    shared.remove(force=True)
    client.client.delete("/volumes/kept")


@pytest.fixture(scope="module")
def other() -> Iterator[Skerry]:
    """An engine with roots of its own, which a test may kill."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts an engine")
    with Skerry() as running:
        machine_kit.provide(running.root)
        yield running


def test_a_machine_goes_on_in_another_engine(
    client: Engine, engine: Skerry, box: Container, other: Skerry, tmp_path: Path
) -> None:
    """Memory and disk come out of one file, or only the disk; what is forged is refused."""
    sh(box, "until [ -s /dev/shm/count ]; do sleep 0.05; done; echo kept > /file; sync")
    boot = sh(box, "cat /proc/sys/kernel/random/boot_id")
    client.client.post("/skerry/snapshots?container=counter&name=whole")
    client.client.post("/skerry/snapshots?container=counter&name=thin&disk-only=1")
    then = count(box)
    whole, thin = tmp_path / "whole.tar", tmp_path / "thin.tar"
    for path in (whole, thin):
        engine.skerry("snapshot", "export", f"counter:{path.stem}", "-o", str(path), timeout=400)
    assert thin.stat().st_size < whole.stat().st_size < 200 << 20
    with Engine(other.host, timeout=200) as there:
        other.skerry("snapshot", "import", str(whole), "--name", "moved", timeout=400)
        moved = there.containers.get("moved")
        assert moved.status != "running"
        there.client.post("/skerry/snapshots/moved:whole/restore")
        assert sh(moved, "cat /file; cat /proc/sys/kernel/random/boot_id") == f"kept\n{boot}"
        assert sh(moved, "busybox md5sum /bin/busybox") == sh(box, "busybox md5sum /bin/busybox")
        deadline = time.monotonic() + 120
        while count(moved) <= then:
            assert time.monotonic() < deadline
        sh(moved, "echo more >> /file")
        # Once more on the way, and as a disk that is started afresh.
        there.client.post("/skerry/snapshots?container=moved&name=again&disk-only=1")
        again = tmp_path / "again.tar"
        other.skerry("snapshot", "export", "moved:again", "-o", str(again), timeout=400)
        moved.remove(force=True)
        for path, expected in ((thin, "kept"), (again, "kept\nmore")):
            other.skerry("snapshot", "import", str(path), "--name", path.stem, timeout=400)
            fresh = there.containers.get(path.stem)
            fresh.start()
            assert sh(fresh, "cat /file") == expected
            fresh.remove(force=True)
        _forged_ones_are_refused(other, whole, tmp_path)
        assert not there.containers.list(all=True)
        assert not list((other.root / "frozen").iterdir())


def _forged_ones_are_refused(other: Skerry, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "opened"
    folder.mkdir()
    with whole.open("rb") as file:
        opened = snapshot_archive.read(iter(lambda: file.read(1 << 20), b""), str(folder))
    backed, long = tmp_path / "backed.qcow2", tmp_path / "long.zst"
    qemu_img = ("qemu-img", "create", "-q", "-f", "qcow2")
    subprocess.run([*qemu_img, "-F", "raw", "-b", "/etc/passwd", str(backed), "64G"], check=True)
    machine = opened.about["machine"]
    long.write_bytes(zstandard.compress(bytes(machine["memory"] + 4096)))
    cases: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({}, {"disk.qcow2": str(backed)}, "refers to another file"),
        ({}, {"disk.qcow2": opened.files["devices"]}, "disk cannot be read"),
        ({}, {"memory.zst": str(long)}, "more memory than its machine has"),
        ({"kit": "0" * 32, "qemu": "6.0.0"}, {}, "QEMU 6.0.0, here is"),
    ]
    for words, files, expected in cases:
        about = {**opened.about, "machine": {**machine, **words}}
        forged = tmp_path / "forged.tar"
        pieces = snapshot_archive.write(about, {**opened.files, **files})
        forged.write_bytes(b"".join(pieces))
        done = other.skerry("snapshot", "import", str(forged), timeout=400, check=False)
        assert done.returncode != 0
        assert expected in done.stderr, done.stderr


def test_killed_while_a_machine_is_kept(other: Skerry) -> None:
    """The engine dies in the middle: the machine goes on, no snapshot is half there, the next is
    whole and has everything."""
    engine = other
    with Engine(engine.host, timeout=200) as client:
        options: dict[str, Any] = {"host_config": {"Runtime": "skerry-vm"}, "network": "none"}
        words = ["sh", "-c", f"mkdir -p /dev/shm; {COUNT}"]
        client.containers.start("busybox", words, name="one", **options)
        sh(client.containers.get("one"), "echo first > /file")
    for delay in (0.05, 0.3):
        worker = threading.Thread(target=_keep, args=(engine.host,))
        worker.start()
        time.sleep(delay)  # the instant of the kill is the input, not a wait
        assert engine.process is not None
        engine.process.kill()
        engine.process.wait()
        worker.join(60)
        engine.start()
        with Engine(engine.host, timeout=200) as client:
            box = client.containers.get("one")
            assert box.status == "running"
            assert sh(box, "cat /file") == "first"
            for each in client.client.get("/skerry/snapshots"):
                folder = engine.root / "frozen" / each["Id"]
                assert (folder / "memory").stat().st_size
                assert (folder / "devices").stat().st_size
    with Engine(engine.host, timeout=200) as client:
        box = client.containers.get("one")
        sh(box, "echo second > /file")
        taken = client.client.post("/skerry/snapshots?container=one&name=whole")
        sh(box, "echo third > /file")
        client.client.post(f"/skerry/snapshots/{taken['Id']}/restore?force=1")
        assert sh(box, "cat /file") == "second"
        box.restart(timeout=0)
        assert sh(box, "cat /file") == "second"
        box.remove(force=True)


def test_qemu_dies_while_its_machine_is_kept(client: Engine, engine: Skerry) -> None:
    """No snapshot is half there, and the disk has what was written before."""
    options: dict[str, Any] = {"host_config": {"Runtime": "skerry-vm"}, "network": "none"}
    box = client.containers.start("busybox", ["sh", "-c", "sleep 1000"], name="frail", **options)
    for round_, delay in enumerate((0.02, 0.15)):
        sh(box, f"echo {round_} > /file; sync")
        before = {each["Id"] for each in client.client.get("/skerry/snapshots?container=frail")}
        qemu = _qemu_of(client, box)
        worker = threading.Thread(target=_keep, args=(engine.host, "frail"))
        worker.start()
        time.sleep(delay)  # the instant of the kill is the input, not a wait
        os.kill(qemu, signal.SIGKILL)
        worker.join(60)
        box.wait()
        for each in client.client.get("/skerry/snapshots?container=frail"):
            if each["Id"] not in before:
                folder = engine.root / "frozen" / each["Id"]
                assert (folder / "memory").stat().st_size
                assert (folder / "devices").stat().st_size
        box.start()
        assert sh(box, "cat /file") == str(round_)
    taken = client.client.post("/skerry/snapshots?container=frail&name=whole")
    sh(box, "echo lost > /file")
    client.client.post(f"/skerry/snapshots/{taken['Id']}/restore?force=1")
    assert sh(box, "cat /file") == "1"
    box.remove(force=True)


def _qemu_of(client: Engine, box: Container) -> int:
    warden = client.client.get(f"/containers/{box.id}/json")["State"]["Pid"]
    for child in Path(f"/proc/{warden}/task/{warden}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().startswith("qemu-system"):
            return int(child)
    raise AssertionError("no QEMU")


def _keep(host: str, name: str = "one") -> None:
    with (
        contextlib.suppress(SkerryError, MachineFault, OSError),
        Engine(host, timeout=120) as client,
    ):
        client.client.post(f"/skerry/snapshots?container={name}")
