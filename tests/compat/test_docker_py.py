"""docker-py, which testcontainers and many scripts stand on, unchanged against the engine."""

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing")]


@pytest.fixture(scope="module")
def client(daemon: Any) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=daemon.host, timeout=120)
    yield made
    made.close()


@pytest.fixture
def running(client: docker.DockerClient, listening: Callable[[str], None]) -> Iterator[Any]:
    """A container that does nothing until it gets SIGTERM."""
    made = client.containers.run(
        "busybox", "sleep 1000", detach=True, init=True, network_mode="none"
    )
    listening(made.id)
    yield made
    made.remove(force=True)


def run(client: docker.DockerClient, command: object, **options: Any) -> bytes:
    told: bytes = client.containers.run(
        "busybox", command, remove=True, network_mode="none", **options
    )
    return told


class TestClient:
    def test_version_is_negotiated(self, client: docker.DockerClient) -> None:
        assert client.ping() is True
        assert client.version()["Os"] == "linux"
        assert client.info()["OSType"] == "linux"
        assert client.df()["Images"]

    def test_unversioned_and_versioned_paths(self, daemon: Any) -> None:
        for version in (None, "1.41"):
            other = docker.APIClient(base_url=daemon.host, version=version)
            assert other.version()["ApiVersion"]
            other.close()


class TestRun:
    def test_output(self, client: docker.DockerClient) -> None:
        assert run(client, ["echo", "hi"]) == b"hi\n"
        assert run(client, "sh -c 'echo err >&2'", stderr=True, stdout=False) == b"err\n"

    def test_failure_carries_code_and_stderr(self, client: docker.DockerClient) -> None:
        with pytest.raises(docker.errors.ContainerError) as caught:
            run(client, ["sh", "-c", "echo why >&2; exit 3"])
        assert caught.value.exit_status == 3
        assert caught.value.stderr == b"why\n"

    def test_streamed_output(self, client: docker.DockerClient) -> None:
        assert b"".join(run(client, "seq 3", stream=True)) == b"1\n2\n3\n"

    def test_options(self, client: docker.DockerClient, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        (tmp_path / "file").write_text("bound")
        out = run(
            client,
            ["sh", "-c", "cat /m/file; echo; echo $A; pwd; id -u; hostname"],
            environment={"A": "b"},
            volumes={str(tmp_path): {"bind": "/m", "mode": "ro"}},
            working_dir="/tmp",
            user="12",
            hostname="box",
            mem_limit="64m",
            pids_limit=30,
            read_only=True,
            tmpfs={"/t": "size=1m"},
            cap_drop=["ALL"],
            ulimits=[docker.types.Ulimit(name="nofile", soft=64, hard=64)],
        )
        assert out == b"bound\nb\n/tmp\n12\nbox\n"

    def test_unknown_image(self, client: docker.DockerClient) -> None:
        with pytest.raises((docker.errors.ImageNotFound, docker.errors.APIError)):
            client.containers.create("nosuchimage:x", "true")

    def test_command_not_found_leaves_a_created_container(
        self, client: docker.DockerClient
    ) -> None:
        made = client.containers.create("busybox", "/no/such", network_mode="none")
        try:
            with pytest.raises(docker.errors.APIError, match="no such file"):
                made.start()
            made.reload()
            assert made.status == "created"
            assert made.attrs["State"]["ExitCode"] == 127
        finally:
            made.remove()


class TestContainers:
    def test_life(self, client: docker.DockerClient, running: Any) -> None:
        running.reload()
        assert running.status == "running"
        assert running.id in [one.id for one in client.containers.list()]
        running.pause()
        running.reload()
        assert running.status == "paused"
        running.unpause()
        running.stop()
        assert running.wait()["StatusCode"] == 143
        running.start()
        running.kill()
        assert running.wait()["StatusCode"] == 137
        running.restart()
        running.rename("py-renamed")
        assert client.containers.get("py-renamed").id == running.id
        running.update(mem_limit="64m", memswap_limit="64m")
        running.reload()
        assert running.attrs["HostConfig"]["Memory"] == 64 << 20

    def test_wait_for_a_condition(self, client: docker.DockerClient) -> None:
        made = client.containers.create("busybox", "sh -c 'exit 4'", network_mode="none")
        made.start()
        assert made.wait(condition="not-running")["StatusCode"] == 4
        made.remove()
        with pytest.raises(docker.errors.NotFound):
            made.reload()

    def test_errors_have_the_right_status(self, client: docker.DockerClient, running: Any) -> None:
        with pytest.raises(docker.errors.NotFound):
            client.containers.get("none")
        with pytest.raises(docker.errors.APIError) as conflict:
            running.remove()
        assert conflict.value.status_code == 409
        with pytest.raises(docker.errors.APIError) as bad:
            client.containers.create("busybox", "true", name="/bad name/")
        assert bad.value.status_code == 400

    def test_list_filters(self, client: docker.DockerClient) -> None:
        made = client.containers.create("busybox", "true", labels={"py": "yes"})
        try:
            found = client.containers.list(all=True, filters={"label": "py=yes"})
            assert [one.id for one in found] == [made.id]
            assert client.containers.list(filters={"label": "py=yes"}) == []
            assert client.containers.list(all=True, filters={"label": ["py=no"]}) == []
        finally:
            made.remove()

    def test_logs(self, client: docker.DockerClient) -> None:
        made = client.containers.run(
            "busybox", "sh -c 'echo out; echo err >&2'", detach=True, network_mode="none"
        )
        made.wait()
        assert made.logs(stdout=True, stderr=False) == b"out\n"
        assert made.logs(stdout=False, stderr=True) == b"err\n"
        assert b"".join(made.logs(stream=True, follow=True, stderr=False)) == b"out\n"
        assert made.logs(tail=0) == b""
        assert made.logs(timestamps=True).startswith(b"20")
        made.remove()

    def test_top_stats_diff(self, running: Any) -> None:
        assert any("sleep 1000" in " ".join(row) for row in running.top()["Processes"])
        told = running.stats(stream=False)
        assert told["memory_stats"]["usage"] > 0
        assert told["cpu_stats"]["cpu_usage"]["total_usage"] > 0
        assert told["pids_stats"]["current"] >= 2
        first = next(running.stats(decode=True))
        assert first["read"]
        running.exec_run("touch /new")
        assert {"Path": "/new", "Kind": 1} in running.diff()

    def test_attach_socket(self, client: docker.DockerClient) -> None:
        made = client.containers.create(
            "busybox", "cat", stdin_open=True, tty=True, network_mode="none"
        )
        made.start()
        link = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        link._sock.settimeout(120)
        link._sock.sendall(b"ping\n")
        seen = b""
        while seen.count(b"ping") < 2:
            seen += link._sock.recv(100)
        made.resize(20, 70)
        link.close()
        made.remove(force=True)

    def test_archives(self, running: Any) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo("deep/file")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        assert running.put_archive("/tmp", packed.getvalue()) is True
        assert running.exec_run("cat /tmp/deep/file").output == b"abc"
        chunks, stat = running.get_archive("/tmp/deep")
        assert stat["name"] == "deep"
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            assert sorted(tar.getnames()) == ["deep", "deep/file"]
        with pytest.raises(docker.errors.NotFound):
            running.get_archive("/none")


class TestExec:
    def test_code_and_output(self, running: Any) -> None:
        told = running.exec_run(["sh", "-c", "echo $A; exit 6"], environment={"A": "b"})
        assert (told.exit_code, told.output) == (6, b"b\n")
        assert running.exec_run("pwd", workdir="/etc", user="nobody").output == b"/etc\n"

    def test_streams_apart(self, running: Any) -> None:
        told = running.exec_run("sh -c 'echo out; echo err >&2'", demux=True)
        assert told.output == (b"out\n", b"err\n")

    def test_streamed(self, running: Any) -> None:
        assert b"".join(running.exec_run("seq 3", stream=True).output) == b"1\n2\n3\n"

    def test_socket_and_inspect(self, client: docker.DockerClient, running: Any) -> None:
        made = client.api.exec_create(running.id, "cat", stdin=True, tty=True)["Id"]
        link = client.api.exec_start(made, socket=True, tty=True)
        link._sock.settimeout(120)
        link._sock.sendall(b"ping\n")
        assert b"ping" in link._sock.recv(100)
        assert client.api.exec_inspect(made)["Running"] is True
        client.api.exec_resize(made, 20, 70)
        link.close()

    def test_detached(self, running: Any, until: Any) -> None:
        running.exec_run("touch /detached", detach=True)
        until(lambda: running.exec_run("test -e /detached").exit_code == 0, "the file")


class TestImages:
    def test_list_get_tag_remove(self, client: docker.DockerClient) -> None:
        image = client.images.get("busybox")
        assert "busybox:latest" in image.tags
        assert image.tag("py-tagged", "v1") is True
        assert client.images.get("py-tagged:v1").id == image.id
        assert client.images.list(name="py-tagged")[0].id == image.id
        client.images.remove("py-tagged:v1")
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get("py-tagged:v1")
        assert image.history()

    def test_commit(self, client: docker.DockerClient, running: Any) -> None:
        running.exec_run("sh -c 'echo kept > /kept'")
        image = running.commit("py-committed", "v2", message="why", author="me")
        out = client.containers.run(image.id, "cat /kept", remove=True, network_mode="none")
        assert out == b"kept\n"
        client.images.remove("py-committed:v2")

    def test_prune_keeps_what_is_tagged(self, client: docker.DockerClient) -> None:
        assert "SpaceReclaimed" in client.images.prune()
        assert client.images.get("busybox")


class TestEvents:
    def test_past_events(self, client: docker.DockerClient) -> None:
        made = client.containers.create("busybox", "true", network_mode="none")
        made.start()
        made.wait()
        made.remove()
        # The engine's clock and ours are one; `until` in the past ends the stream at once.
        seen = client.api.events(
            since=0, until=int(time.time()) + 1, filters={"container": made.id}, decode=True
        )
        actions = [event["Action"] for event in seen]
        assert [a for a in actions if a in ("create", "start", "die", "destroy")] == [
            "create",
            "start",
            "die",
            "destroy",
        ]
        assert client.containers.prune()["SpaceReclaimed"] >= 0
