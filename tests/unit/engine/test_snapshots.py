"""A container's history as data, and what a copy's record is."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.engine import forks, identity, snapshot
from skerry.engine.record import MountPoint, Record
from skerry.engine.snapshot import Snapshot
from skerry.machine.guest.identity import RENEWED

A, B = "a" * 64, "b" * 64


def point(id_: str, name: str, parent: str = "", container: str = A, at: int = 0) -> Snapshot:
    return Snapshot(id_, name, container, at, parent=parent)


def test_references() -> None:
    found = [point("1" * 64, "one"), point("12" * 32, "two"), point("3" * 64, "one", container=B)]
    names = {A: "web", B: "db"}

    def find(reference: str) -> str:
        return snapshot.find(found, reference, names).id

    assert find("two") == find("12") == find("web:two") == "12" * 32
    assert find("db:one") == find("3") == find(f"{B[:12]}:one") == "3" * 64
    for ambiguous in ("one", "1"):
        with pytest.raises(InvalidInput):
            find(ambiguous)
    for missing in ("none", "db:two", "", "web:", ":", "9"):
        with pytest.raises(NotFound):
            find(missing)


def test_names() -> None:
    assert snapshot.free_name([], "") == "s1"
    assert snapshot.free_name([point("1", "s2")], "") == "s3"
    assert snapshot.free_name([point("1", "x")], "own") == "own"
    with pytest.raises(Conflict):
        snapshot.free_name([point("1", "x")], "x")


@given(st.lists(st.integers(-1, 30), max_size=30))
def test_a_tree_holds_each_once(parents: list[int]) -> None:
    points = [
        point(str(number), str(number), parent="" if above < 0 else str(above))
        for number, above in enumerate(parents)
        if above < number
    ]
    walked = list(snapshot.walk(snapshot.tree(points)))
    assert sorted(each.id for _, each in walked) == sorted(each.id for each in points)
    depth = {each.id: level for level, each in walked}
    known = set(depth)
    for each in points:
        expected = depth[each.parent] + 1 if each.parent in known else 0
        assert depth[each.id] == expected


@pytest.mark.parametrize(
    "data",
    [{}, {"version": 2, "id": "x"}, {"version": 1}, {"version": "1"}, {"version": 1, "id": 3}],
)
def test_damaged_records(data: dict[str, object]) -> None:
    with pytest.raises(SystemFault):
        snapshot.from_plain(data)


def test_what_a_copy_takes_over() -> None:
    original = Record(
        id=A,
        name="web",
        image="busybox",
        image_id="sha256:x",
        created_at=1,
        config={"Hostname": "web", "MacAddress": "02:00:00:00:00:01", "Labels": {"k": "v"}},
        host={
            "Memory": 1,
            "ContainerIDFile": "/x",
            "PortBindings": {
                "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
                "1/udp": None,
            },
        },
        network={"net": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "Aliases": ["w"]}},
        mounts=[
            MountPoint("volume", "/a", source="/s", name="n", anonymous=True),
            MountPoint("volume", "/b", source="/t", name="named"),
        ],
        ever_started=True,
    )
    copy = forks.derived(original, "web-3")
    assert copy.id != A
    assert copy.config == {"Hostname": "web-3", "Labels": {"k": "v", identity.FORK_OF: A}}
    binding = {"HostIp": "127.0.0.1", "HostPort": ""}
    assert copy.host == {"Memory": 1, "PortBindings": {"80/tcp": [binding], "1/udp": None}}
    assert copy.network == {"net": {"Aliases": ["w"]}}
    assert [(each.name, each.source, each.copy_up) for each in copy.mounts] == [
        ("", "", False),
        ("named", "/t", True),
    ]
    assert copy.state.status == "created"
    assert original.config["Hostname"] == "web"
    assert original.host["PortBindings"]["80/tcp"][0]["HostPort"] == "8080"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_host_keys_are_what_ssh_reads(kind: str, tmp_path: Path) -> None:
    private, public = identity.new_host_key(kind)
    path = tmp_path / "key"
    path.write_bytes(private)
    path.chmod(0o600)
    told = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(path)], capture_output=True, check=True, timeout=30
    )
    assert told.stdout.split()[:2] == public.split()[:2]
    assert identity.new_host_key(kind)[1] != public


def test_a_machines_agent_replaces_every_file_that_its_first_start_carries() -> None:
    fresh = identity.contents(path for path in identity.ALL if "_rsa_" not in path)
    assert len(fresh) == len(identity.ALL) - 1 + 2
    assert {*fresh, *identity.ALL} <= set(RENEWED)
    assert fresh["/etc/machine-id"] == fresh["/var/lib/dbus/machine-id"]
