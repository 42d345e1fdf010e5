"""Snapshots, restores, forks and differences through a running engine, and across its death."""

import io
import json
import os
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import footprint
from bench.daemons import Skerry

from skerry.base.errors import Conflict, InvalidInput, NotFound, SkerryError
from skerry.sdk import Container, Engine
from skerry.sdk.file_words import content_of

pytestmark = [pytest.mark.root]

SEED = int(os.environ.get("SKERRY_TEST_SEED", "0")) or random.randrange(1, 10**6)
ROUNDS = 4


@pytest.fixture
def client(engine: Skerry) -> Iterator[Engine]:
    with Engine(engine.host, timeout=120) as made:
        yield made


@pytest.fixture
def box(client: Engine) -> Iterator[Container]:
    made = client.containers.start("busybox", "sleep 1000", name="history", init=True)
    yield made
    for each in client.containers.list(all=True):
        each.remove(force=True, volumes=True)


def sh(container: Container, script: str) -> str:
    done = container.exec(["sh", "-c", script])
    assert done.exit_code == 0, done
    return done.stdout.decode()


def take(client: Engine, name: str = "", container: str = "history") -> str:
    target = f"/skerry/snapshots?container={container}&name={name}"
    return str(client.client.post(target)["Id"])


def restore(client: Engine, reference: str, *, force: bool = True) -> None:
    client.client.post(f"/skerry/snapshots/{reference}/restore?force={int(force)}")


def listed(client: Engine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.client.get("/skerry/snapshots")
    return found


def fork(client: Engine, count: int, **more: object) -> list[dict[str, str]]:
    words = "".join(f"&{name}={value}" for name, value in more.items())
    made: list[dict[str, str]] = client.client.post(
        f"/skerry/fork?container=history&count={count}{words}"
    )
    return made


def layers(engine: Skerry) -> list[str]:
    return os.listdir(engine.root / "frozen")


@pytest.mark.parametrize("running", [True, False])
def test_a_tree_of_states(client: Engine, box: Container, running: bool) -> None:
    def at(script: str) -> str:
        box.start()
        out = sh(box, script)
        if not running:
            box.stop(timeout=0)
        return out

    at("echo 1 > /state")
    one = take(client, "one")
    at("echo 2 > /state; echo x > /only-two; rm /etc/passwd")
    two = take(client, "two")
    restore(client, "one", force=running)
    assert box.status == ("running" if running else "exited")
    assert at("cat /state; ls /only-two 2>&1; wc -l < /etc/passwd").split()[0] == "1"
    at("echo 3 > /state")
    three = take(client, "three")
    parents = {each["Id"]: each["Parent"] for each in listed(client)}
    assert parents == {one: "", two: one, three: one}
    restore(client, two, force=running)
    assert at("cat /state /only-two") == "2\nx\n"
    restore(client, "history:three", force=running)
    assert at("cat /state; ls -a / | grep -c only || true").splitlines()[0] == "3"
    assert [each["Current"] for each in listed(client)] == [False, False, True]
    client.client.delete("/skerry/snapshots/one")
    assert {each["Id"]: each["Parent"] for each in listed(client)} == {two: "", three: ""}
    restore(client, "two", force=running)
    assert at("cat /state") == "2\n"


def test_a_restore_asks_first(client: Engine, box: Container) -> None:
    take(client, "one")
    with pytest.raises(Conflict, match="is running"):
        restore(client, "one", force=False)
    box.pause()
    with pytest.raises(Conflict, match="is paused"):
        restore(client, "one", force=False)
    restore(client, "one")
    assert box.status == "running"
    with pytest.raises(Conflict):
        take(client, "one")
    for wrong in ("x" * 300, "a/b", "-"):
        with pytest.raises(InvalidInput):
            take(client, wrong)
    with pytest.raises(NotFound):
        take(client, "a1", "nosuch")
    with pytest.raises(NotFound):
        restore(client, "nosuch")


def test_one_that_is_removed_at_its_end_survives_a_restore(client: Engine, box: Container) -> None:
    other = client.containers.start("busybox", "sleep 1000", name="rm", init=True, auto_remove=True)
    sh(other, "echo 1 > /state")
    take(client, "one", "rm")
    sh(other, "echo 2 > /state")
    restore(client, "rm:one")
    assert sh(other, "cat /state") == "1\n"
    gone = client.client.open("POST", f"/containers/{other.id}/wait?condition=removed")
    other.kill()
    assert gone.json()["StatusCode"] == 137
    gone.connection.close()
    assert listed(client) == []


def test_what_is_written_meanwhile_is_seen_at_one_instant(client: Engine, box: Container) -> None:
    # Each round of the writer leaves both files alike; a copy of a moving tree would catch them
    # apart now and then.
    script = "n=0; while :; do n=$((n+1)); echo $n > /a; echo $n > /b; done"
    busy = client.containers.start("busybox", ["sh", "-c", script], name="busy")
    sh(busy, "until [ -s /b ]; do sleep 0.01; done")
    for number in range(5):
        take(client, f"p{number}", "busy")
        found = client.client.get(f"/skerry/diff?from=history&to=busy:p{number}")
        assert {each["Path"] for each in found} >= {"/a", "/b"}
    busy.kill()
    for number in range(5):
        restore(client, f"busy:p{number}")
        a, b = (int(content_of(busy.get_archive(path), path) or b"0") for path in ("/a", "/b"))
        # `echo` empties the file before it writes.
        assert a - b in (0, 1) or 0 in (a, b)


def test_forks_are_systems_of_their_own(client: Engine, engine: Skerry, box: Container) -> None:
    sh(box, "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; echo data > /data")
    sh(box, "mkdir -p /etc/skerry/after-fork.d /etc/ssh; echo old > /etc/ssh/ssh_host_ed25519_key")
    sh(box, "echo old > /etc/ssh/ssh_host_ed25519_key.pub; chmod 600 /etc/ssh/*_key")
    hook = "/etc/skerry/after-fork.d/10-note"
    sh(box, f"printf '#!/bin/sh\\nid -u > /hooked\\n' > {hook}; chmod +x {hook}")
    made = fork(client, 3)
    assert [each["Name"] for each in made] == ["history-1", "history-2", "history-3"]
    assert not any(each["Error"] or each["Warning"] for each in made)
    copies = [client.containers.get(each["Id"]) for each in made]
    everyone = [box, *copies]
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key"):
        assert len({sh(each, f"cat {path}") for each in everyone}) == 4
    assert all(len(sh(each, "cat /etc/machine-id")) == 33 for each in copies)
    assert "OPENSSH PRIVATE KEY" in sh(copies[0], "cat /etc/ssh/ssh_host_ed25519_key")
    assert sh(copies[0], "stat -c %a /etc/ssh/ssh_host_ed25519_key") == "600\n"
    assert len({sh(each, "hostname") for each in everyone}) == 4
    assert [sh(each, "cat /hooked /data") for each in copies] == ["0\ndata\n"] * 3
    sh(copies[0], "echo mine > /data")
    assert sh(copies[1], "cat /data") == sh(box, "cat /data") == "data\n"
    changes = client.client.get("/skerry/diff?from=history-2&to=history-1")
    wanted = {"/data", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key"}
    assert {each["Path"] for each in changes} == wanted | {"/etc/ssh/ssh_host_ed25519_key.pub"}
    (data,) = [each for each in changes if each["Path"] == "/data"]
    assert (data["Kind"], data["Before"], data["After"]) == (0, 5, 5)
    assert [each["Name"] for each in fork(client, 1, name="other", start=0)] == ["other-1"]
    assert client.containers.get("other-1").status == "created"
    box.remove(force=True)
    assert sh(copies[2], "cat /data") == "data\n"
    image = copies[0].commit("kept:1")
    assert client.containers.run("kept:1", "cat /data").stdout == b"mine\n"
    for each in client.containers.list(all=True):
        each.remove(force=True)
    client.images.get(image).remove(force=True)
    assert layers(engine) == []


def test_a_failing_hook_is_told(client: Engine, box: Container) -> None:
    hook = "/etc/skerry/after-fork.d/10-fail"
    sh(box, f"mkdir -p {os.path.dirname(hook)}; printf '#!/bin/sh\\necho no luck; exit 3' > {hook}")
    sh(box, f"chmod +x {hook}")
    (made,) = fork(client, 1)
    assert made["Error"] == ""
    assert "exit code 3: no luck" in made["Warning"]
    assert client.containers.get(made["Id"]).status == "running"
    for count in (0, -1, 1001):
        with pytest.raises(InvalidInput):
            fork(client, count)


def test_volumes_of_forks(client: Engine, box: Container, tmp_path: Path) -> None:
    volumes = ["/own", f"{tmp_path}:/shared"]
    first = client.containers.start(
        "busybox", "sleep 1000", name="vols", volumes=volumes, init=True
    )
    sh(first, "echo 1 > /own/file; echo 1 > /shared/file")
    (made,) = client.client.post("/skerry/fork?container=vols")
    copy = client.containers.get(made["Id"])
    sh(copy, "echo 2 >> /own/file; echo 2 >> /shared/file")
    assert sh(first, "cat /own/file /shared/file") == "1\n1\n2\n"
    assert sh(copy, "cat /own/file") == "1\n2\n"


def test_the_account_is_true(client: Engine, engine: Skerry, box: Container) -> None:
    sh(box, "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null")
    take(client, "one")
    usage = client.system.usage()
    assert usage["categories"]["snapshots"]["bytes"] > 8 << 20
    assert listed(client)[0]["Size"] >= 4 << 20
    client.client.delete("/skerry/snapshots/one")
    assert layers(engine) == []


def test_killed_at_any_instant(own_engine: Skerry) -> None:
    """kill -9 while snapshots, restores and forks go on: each is whole or absent, nothing leaks."""
    chance = random.Random(SEED)
    engine = own_engine
    engine.stop()
    before = footprint.take(engine.folders)
    engine.start()
    with Engine(engine.host, timeout=120) as client:
        start = client.containers.start
        start("busybox", "sleep 1000", name="history", init=True, network="none")
        sh(client.containers.get("history"), "echo 0 > /a; echo 0 > /b")
    for _ in range(ROUNDS):
        worker = threading.Thread(target=_work, args=(engine.host, chance.random()))
        worker.start()
        time.sleep(chance.uniform(0.05, 0.4))  # the instant of the kill is the input, not a wait
        assert engine.process is not None
        engine.process.kill()
        engine.process.wait()
        worker.join(60)
        engine.start()
        with Engine(engine.host, timeout=120) as client:
            _check(client, engine)
    with Engine(engine.host, timeout=120) as client:
        for each in client.containers.list(all=True):
            each.remove(force=True)
        assert listed(client) == []
        assert layers(engine) == []
    engine.stop()
    left = footprint.settle(before, engine.folders)
    assert not left, f"seed {SEED}: left behind:\n" + "\n".join(left)


def _work(host: str, number: float) -> None:
    """Change, keep, go back, copy, until the engine is gone."""
    try:
        with Engine(host, timeout=120) as client:
            box = client.containers.get("history")
            for step in range(50):
                sh(box, f"echo {number}{step} > /a; echo {number}{step} > /b")
                kept = take(client)
                fork(client, 2, name=f"f{step}")
                restore(client, kept)
                client.client.delete(f"/skerry/snapshots/{listed(client)[0]['Id']}")
                for each in client.containers.list(all=True):
                    if each.id != box.id:
                        each.remove(force=True)
    except (SkerryError, AssertionError, OSError):
        return


def _check(client: Engine, engine: Skerry) -> None:
    box = client.containers.get("history")
    box.start()
    known = {each["Id"] for each in listed(client)}
    assert known <= set(layers(engine)), f"seed {SEED}"
    for id_ in known:
        restore(client, id_)
        a, b = sh(box, "cat /a; cat /b").split()
        assert a == b, f"seed {SEED}"
    for each in client.containers.list(all=True):
        if each.id != box.id:
            each.start()
            a, b = sh(each, "cat /a; cat /b").split()
            assert a == b, f"seed {SEED}"
            each.remove(force=True)
    assert sh(box, "echo on") == "on\n"


def export(client: Engine, reference: str, query: str = "") -> bytes:
    response = client.client.open("GET", f"/skerry/snapshots/{reference}/export{query}")
    try:
        return response.read(1 << 30)
    finally:
        response.connection.close()


def import_(client: Engine, data: bytes, name: str = "") -> dict[str, Any]:
    response = client.client.open("POST", f"/skerry/snapshots/import?name={name}", data)
    try:
        made: dict[str, Any] = response.json()
        return made
    finally:
        response.connection.close()


def test_a_snapshot_travels_as_a_file(client: Engine, own_engine: Skerry, box: Container) -> None:
    sh(box, "echo data > /data; rm /etc/passwd; ln /data /same; mkdir /home; touch /home/x")
    take(client, "one")
    sh(box, "rm /same; echo more >> /data; rm -r /home; mkdir /home")
    restore(client, "one")
    sh(box, "rm /same; echo more >> /data; rm -r /home; mkdir /home")
    take(client, "two")
    data = export(client, "history:two")
    with Engine(own_engine.host, timeout=120) as other:
        for image in other.images.list():
            image.remove(force=True)
        made = import_(other, data)
        assert (made["ContainerName"], made["Name"], made["Parent"]) == ("history", "two", "")
        assert made["Current"]
        copy = other.containers.get("history")
        assert copy.status == "created"
        copy.start()
        assert sh(copy, "cat /data; ls /home; ls /same /etc/passwd 2>&1 | wc -l") == (
            "data\nmore\n2\n"
        )
        again = import_(other, export(other, "two", "?image=0"), "second")
        second = other.containers.get(again["ContainerName"])
        second.start()
        assert sh(second, "cat /data") == "data\nmore\n"
        with pytest.raises(Conflict):
            import_(other, data, "second")
        before = sorted(os.listdir(own_engine.root / "frozen"))
        for damaged in (data[:-20000], data[: len(data) // 2], b"", bytes(4096)):
            with pytest.raises(InvalidInput):
                import_(other, damaged, "third")
        assert sorted(os.listdir(own_engine.root / "frozen")) == before
        assert [each.name for each in other.containers.list(all=True)] == ["second", "history"]


def test_an_archive_opens_nothing_to_the_host(
    client: Engine, engine: Skerry, box: Container
) -> None:
    risky = client.containers.create(
        "busybox",
        "true",
        name="risky",
        privileged=True,
        volumes=["/etc:/host"],
        memory=64 << 20,
        cap_add=["SYS_ADMIN"],
        host_config={"PidMode": "host", "Devices": []},
    )
    take(client, "one", "risky")
    data = export(client, "risky:one")
    hostile = json.dumps({"Privileged": True, "Binds": ["/:/host"], "PidMode": "host"})
    for changed in (data, forged(data, json.loads(hostile))):
        made = import_(client, changed, "tame")
        host = client.containers.get("tame").inspect()["HostConfig"]
        assert not host.get("Privileged")
        assert not host.get("Binds")
        assert not host.get("CapAdd")
        assert host.get("PidMode", "") == ""
        client.containers.get(made["ContainerName"]).remove()
    assert host["Memory"] in (0, 64 << 20)
    assert risky.status == "created"


def forged(data: bytes, host: dict[str, Any]) -> bytes:
    """The archive with another HostConfig."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name.endswith(".json"):
                head = json.loads(content)
                head["about"]["container"]["host"] = host
                content = json.dumps(head).encode()
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return out.getvalue()
