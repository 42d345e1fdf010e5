"""Networks as the docker CLI and docker-py see them."""

import json
from collections.abc import Callable, Iterator

import docker as docker_py
import pytest
from bench.daemons import Daemon

from .conftest import Docker

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing", "no_networks")]
Complaint = Callable[..., tuple[int, str]]


@pytest.fixture
def no_networks(daemon: Daemon) -> Iterator[None]:
    daemon.docker("network", "prune", "-f")
    yield
    daemon.remove_containers()
    daemon.docker("network", "prune", "-f", check=False)


def test_the_three_that_are_always_there(docker: Docker) -> None:
    listed = docker("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    assert set(listed) == {"bridge bridge", "host host", "none null"}
    assert docker("network", "ls", "-q", "--filter", "type=custom") == ""


def test_a_network_of_ones_own(docker: Docker, complaint: Complaint) -> None:
    options = (
        "--subnet",
        "10.222.0.0/24",
        "--label",
        "a=b",
        "--opt",
        "com.docker.network.driver.mtu=1400",
    )
    made = docker("network", "create", *options, "t-own")
    found = json.loads(docker("network", "inspect", "t-own"))[0]
    assert found["Id"] == made
    assert found["IPAM"]["Config"] == [{"Subnet": "10.222.0.0/24", "Gateway": "10.222.0.1"}]
    assert found["Labels"] == {"a": "b"}
    assert docker("network", "ls", "-q", "--filter", "label=a=b") == made[:12]
    code, said = complaint("network", "create", "t-own")
    assert (code, "network with name t-own already exists" in said) == (1, True)
    code, said = complaint("network", "create", "--subnet", "10.222.0.128/25", "t-two")
    assert (code, "Pool overlaps with other one on this address space" in said) == (1, True)
    docker("run", "-d", "--name", "t-one", "--network", "t-own", "busybox", "sleep", "1000")
    assert "mtu 1400" in docker("exec", "t-one", "ip", "link", "show", "eth0")
    members = json.loads(docker("network", "inspect", "t-own"))[0]["Containers"]
    assert [each["Name"] for each in members.values()] == ["t-one"]
    code, said = complaint("network", "rm", "t-own")
    assert (code, "has active endpoints" in said) == (1, True)
    docker("rm", "-f", "t-one")
    assert docker("network", "rm", "t-own") == "t-own"
    code, said = complaint("network", "rm", "bridge")
    assert (code, "bridge is a pre-defined network and cannot be removed" in said) == (1, True)
    code, said = complaint("network", "inspect", "t-own")
    assert (code, "network t-own not found" in said) == (1, True)


def test_inspect_and_ps_tell_of_ports(docker: Docker) -> None:
    publish = ("-p", "127.0.0.1:0:80", "-p", "127.0.0.1:0:53/udp", "--expose", "99")
    docker("run", "-d", "--name", "t-web", *publish, "busybox", "sleep", "1000")
    settings = docker.inspect("t-web")["NetworkSettings"]
    assert settings["Ports"]["99/tcp"] is None
    assert len(settings["SandboxID"]) == len(settings["EndpointID"]) == 64
    port = settings["Ports"]["80/tcp"][0]
    assert port["HostIp"] == "127.0.0.1"
    assert docker("port", "t-web", "80/tcp") == f"127.0.0.1:{port['HostPort']}"
    assert settings["Networks"]["bridge"]["IPAddress"] == settings["IPAddress"] != ""
    shown = docker("ps", "--format", "{{.Ports}}", "--filter", "name=t-web")
    assert f"127.0.0.1:{port['HostPort']}->80/tcp" in shown
    assert "99/tcp" in shown
    assert docker("ps", "-q", "--filter", "publish=80") != ""
    assert docker("ps", "-q", "--filter", "publish=81") == ""
    docker("stop", "-t", "0", "t-web")
    stopped = docker.inspect("t-web")["NetworkSettings"]
    assert (stopped["Ports"], stopped["IPAddress"]) == ({}, "")


def test_legacy_links(docker: Docker) -> None:
    docker(
        "run",
        "-d",
        "--name",
        "t-db",
        "--expose",
        "5432",
        "-e",
        "SECRET=1",
        "busybox",
        "sleep",
        "99",
    )
    address = docker.inspect("t-db")["NetworkSettings"]["IPAddress"]
    out = docker("run", "--rm", "--link", "t-db:db", "busybox", "sh", "-c", "env; cat /etc/hosts")
    assert f"DB_PORT_5432_TCP=tcp://{address}:5432" in out
    assert "DB_ENV_SECRET=1" in out
    assert f"{address}\tdb " in out


def test_events_and_docker_py(daemon: Daemon, docker: Docker) -> None:
    client = docker_py.DockerClient(base_url=daemon.host)
    try:
        start = docker("info", "--format", "{{.SystemTime}}")
        network = client.networks.create("t-py", driver="bridge", labels={"x": "y"})
        container = client.containers.run(
            "busybox", "sleep 1000", detach=True, network="t-py", ports={"80/tcp": None}
        )
        container.reload()
        assert container.ports["80/tcp"][0]["HostPort"].isdigit()
        client.networks.get("bridge").connect(container)
        container.reload()
        assert set(container.attrs["NetworkSettings"]["Networks"]) == {"t-py", "bridge"}
        network.disconnect(container)
        container.remove(force=True)
        network.remove()
        end = docker("info", "--format", "{{.SystemTime}}")
        span = ("--since", start, "--until", end, "--filter", "type=network")
        form = ("--format", "{{.Action}} {{.Actor.Attributes.name}}")
        lines = docker("events", *span, *form).splitlines()
        assert lines == [
            "create t-py",
            "connect t-py",
            "connect bridge",
            "disconnect t-py",
            "disconnect bridge",
            "destroy t-py",
        ]
        assert client.networks.prune()["NetworksDeleted"] is None
    finally:
        client.close()
