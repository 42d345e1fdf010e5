"""Machines kept with their memory, taken back, and forked while they run."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bench.daemons import Skerry

from skerry.base.errors import Conflict, SkerryError
from skerry.sdk import Container, Engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(280)]

COUNT = "n=0; while sleep 0.1; do n=$((n+1)); echo $n > /dev/shm/count; done"
"""A program whose state is in memory alone: after a fresh start it would count from 0 again."""


@pytest.fixture(scope="module")
def client(engine: Skerry) -> Iterator[Engine]:
    with Engine(engine.host, timeout=200) as made:
        yield made


@pytest.fixture(scope="module")
def box(client: Engine) -> Iterator[Container]:
    options: dict[str, Any] = {"host_config": {"Runtime": "skerry-vm"}, "network": "none"}
    script = f"mkdir -p /dev/shm /etc/skerry/after-fork.d; {COUNT}"
    made = client.containers.start("busybox", ["sh", "-c", script], name="counter", **options)
    yield made
    for each in client.containers.list(all=True):
        each.remove(force=True)


def sh(container: Container, script: str) -> str:
    done = container.exec(["sh", "-c", script])
    assert done.exit_code == 0, done
    return done.stdout.decode().strip()


def test_a_restore_goes_on_where_it_was(client: Engine, engine: Skerry, box: Container) -> None:
    sh(box, "until [ -s /dev/shm/count ]; do sleep 0.05; done; echo kept > /file")
    boot = sh(box, "echo 1234 > /etc/machine-id; cat /proc/sys/kernel/random/boot_id")
    taken = client.client.post("/skerry/snapshots?container=counter&name=one")
    assert (taken["Kind"], taken["Current"]) == ("machine", True)
    assert taken["PauseMs"] > 0
    then = int(sh(box, "cat /dev/shm/count"))
    sh(box, "echo more >> /file; rm /etc/machine-id")
    with pytest.raises(Conflict):
        client.client.post("/skerry/snapshots/one/restore")
    client.client.post("/skerry/snapshots/one/restore?force=1")
    assert sh(box, "cat /proc/sys/kernel/random/boot_id") == boot
    assert sh(box, "cat /file /etc/machine-id") == "kept\n1234"
    now = int(sh(box, "cat /dev/shm/count"))
    sh(box, f"until [ $(cat /dev/shm/count) -gt {max(now, then)} ]; do sleep 0.05; done")
    disk = client.client.post("/skerry/snapshots?container=counter&name=files&disk-only=1")
    assert (disk["Kind"], disk["Parent"]) == ("disk", taken["Id"])
    sh(box, "echo lost > /file")
    client.client.post("/skerry/snapshots/files/restore?force=1")
    assert sh(box, "cat /file") == "kept"
    assert os.listdir(engine.root / "frozen")


def test_copies_are_machines_of_their_own(client: Engine, box: Container) -> None:
    key = "/etc/ssh/ssh_host_ed25519_key"
    sh(box, f"echo 1234 > /etc/machine-id; mkdir -p /etc/ssh; echo old > {key}")
    hook = "/etc/skerry/after-fork.d/10-note"
    sh(box, f"printf '#!/bin/sh\\nhostname > /hooked\\n' > {hook}; chmod +x {hook}")
    made = client.client.post("/skerry/fork?container=counter&count=3")
    assert not any(each["Error"] or each["Warning"] for each in made), made
    copies = [client.containers.get(each["Id"]) for each in made]
    for path in ("/etc/machine-id", key, "/etc/hostname"):
        assert len({sh(each, f"cat {path}") for each in (box, *copies)}) == 4, path
    random = "head -c 4096 /dev/urandom | md5sum"
    assert len({sh(each, random) for each in (box, *copies)}) == 4
    assert len({sh(each, "cat /proc/sys/kernel/random/uuid") for each in (box, *copies)}) == 4
    for copy in copies:
        assert sh(copy, "cat /hooked") == sh(copy, "hostname") == copy.id[:12]
        assert abs(int(sh(copy, "date +%s")) - int(sh(box, "date +%s"))) < 60
        assert int(sh(copy, "cat /dev/shm/count")) > 0
    sh(copies[0], "echo mine > /own")
    assert sh(copies[1], "ls /own 2>&1 || true").startswith("ls:")
    copies[0].restart(timeout=0)
    assert sh(copies[0], "cat /own") == "mine"


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


def test_killed_while_a_machine_is_kept(own_engine: Skerry) -> None:
    """The engine dies in the middle: the machine goes on, no snapshot is half there, the next is
    whole and has everything."""
    engine = own_engine
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


def _keep(host: str) -> None:
    with contextlib.suppress(SkerryError, OSError), Engine(host, timeout=60) as client:
        client.client.post("/skerry/snapshots?container=one")
