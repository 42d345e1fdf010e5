"""Fixtures of the machines' tests."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import footprint
from bench.daemons import Skerry
from tests.kernel.machines import media
from tests.kernel.machines.commands import Machines


@pytest.fixture(scope="session")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc (and disk) with the tiny guest."""
    try:
        return media.hybrid(tmp_path_factory.mktemp("medium"))
    except (RuntimeError, FileNotFoundError) as error:
        pytest.skip(str(error))


def remains(machines: Machines, before: footprint.Footprint) -> list[str]:
    """What is there now and was not before, the engine itself apart: it may be a later one."""
    engine = machines.engine
    deadline = time.monotonic() + 120
    while True:
        now = footprint.take(engine.folders, [engine.run_root])
        left = [
            line
            for line in now.beyond(before)
            if "autostarted" not in line and " -m skerry engine" not in line
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


@pytest.fixture
def vm(own_engine: Skerry) -> Iterator[Machines]:
    """An engine's machines; nothing of them is left afterwards."""
    before = footprint.take(own_engine.folders, [own_engine.run_root])
    machines = Machines(own_engine)
    yield machines
    names = machines("ls", "--format", "{{.Name}}").split()
    if names:
        machines("rm", "-f", *names)
    left = remains(machines, before)
    assert not left, "left behind:\n" + "\n".join(left)
    assert os.listdir(own_engine.root / "vms") == []


DHCP = """interface {0}
start 192.0.2.77
end 192.0.2.77
max_leases 1
option subnet 255.255.255.0
option lease 3600
lease_file {1}/leases
pidfile {1}/pid
"""


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[str]:
    """The name of a bridge of the host, and of a network namespace plugged into it, where a server
    gives out 192.0.2.77 by DHCP."""
    name = f"skt{os.getpid():x}"[:11]
    commands = (
        f"netns add {name}",
        f"link add {name} type bridge",
        f"link add {name}h type veth peer name {name}g netns {name}",
        f"link set {name}h master {name} up",
        f"link set {name} up",
        f"-n {name} addr add 192.0.2.1/24 dev {name}g",
        f"-n {name} link set {name}g up",
    )
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
    (tmp_path / "dhcp").write_text(DHCP.format(f"{name}g", tmp_path))
    inside = ["ip", "netns", "exec", name]
    server = subprocess.Popen(
        [*inside, "busybox", "udhcpd", "-f", str(tmp_path / "dhcp")], stderr=subprocess.DEVNULL
    )
    yield name
    server.kill()
    server.wait()
    subprocess.run(["ip", "link", "del", name], check=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
