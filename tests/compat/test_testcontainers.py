"""testcontainers-python: a container with a port, its log, exec, and a crash of the engine."""

import signal
import urllib.request
from typing import Any

import pytest
from bench.daemons import Skerry

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
SERVE = "echo served > /tmp/index.html; echo ready; exec httpd -f -p 80 -h /tmp"


@pytest.fixture
def container(own_engine: Skerry, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's module, which reads its settings from the environment."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    from testcontainers.core import config, container

    # Its reaper is an image of Docker Hub's.
    monkeypatch.setattr(config.testcontainers_config, "ryuk_disabled", True)
    return container


def _fetched(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=20) as answer:
        data: bytes = answer.read()
        return data


def test_a_server_and_a_crash(own_engine: Skerry, container: Any) -> None:
    from testcontainers.core.waiting_utils import wait_for_logs

    web = container.DockerContainer("busybox").with_command(["sh", "-c", SERVE])
    with web.with_exposed_ports(80).with_env("SET", "inside") as running:
        wait_for_logs(running, "ready", timeout=30)
        address = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(80)}/"
        assert _fetched(address) == b"served\n"
        own_engine.stop(signal.SIGKILL)
        assert _fetched(address) == b"served\n"
        own_engine.start()
        assert running.exec(["sh", "-c", "echo $SET"]).output == b"inside\n"
        assert running.get_logs()[0] == b"ready\n"
    assert own_engine.docker("ps", "-aq").stdout == ""
