"""`skerry registry serve --store`: the engine's images as a registry, for skopeo and oras."""

import contextlib
import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import oras.client
import pytest
from bench.daemons import Skerry
from bench.ports import free_port
from tests.compat.test_registry_server import Server, layout, push_and_kill, run, server

pytestmark = [pytest.mark.root]
__all__ = ["layout", "server"]


@contextlib.contextmanager
def served(engine: Skerry, *options: str, port: int = 0) -> Iterator[str]:
    """The address, while the command runs."""
    words = ["registry", "serve", "--store", "--listen", f"127.0.0.1:{port}", *options]
    command = [str(Path(__file__).resolve().parents[2] / ".venv/bin/skerry"), "-H", engine.host]
    with subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"127\.0\.0\.1:\d+", line)
            assert found, line
            yield found[0]
        finally:
            process.kill()


def skopeo(*words: str) -> str:
    return run("skopeo", "--insecure-policy", *words)


def test_the_engines_images_are_repositories(engine: Skerry, layout: Path, tmp_path: Path) -> None:
    engine.docker("tag", "busybox", "team/tagged:7")
    with served(engine) as place:
        tags = skopeo("list-tags", "--tls-verify=false", f"docker://{place}/team/tagged")
        assert '"7"' in tags
        for name in ("busybox", "library/busybox"):
            target = f"oci:{tmp_path}/{name.replace('/', '-')}:t"
            skopeo("copy", "--src-tls-verify=false", f"docker://{place}/{name}:latest", target)
        config = skopeo("inspect", "--tls-verify=false", "--raw", "--config",
                        f"docker://{place}/busybox:latest")  # fmt: skip
        image = engine.docker("inspect", "-f", "{{.Id}}", "busybox").stdout.strip()
        assert image == f"sha256:{hashlib.sha256(config.encode()).hexdigest()}"
        # A push becomes an image that runs; one that was deleted keeps its containers.
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:t",
               f"docker://{place}/pushed/app:1")  # fmt: skip
        said = engine.docker("run", "--rm", "pushed/app:1", "/bin/busybox", "echo", "it runs")
        assert said.stdout == "it runs\n"
        again = f"oci:{tmp_path}/again:t"
        skopeo("copy", "--src-tls-verify=false", f"docker://{place}/pushed/app:1", again)
        skopeo("delete", "--tls-verify=false", f"docker://{place}/pushed/app:1")
        assert engine.docker("image", "inspect", "pushed/app:1", check=False).returncode == 1
        busy = engine.skerry("registry", "serve", "--store", "--listen", "127.0.0.1:0", check=False)
        assert busy.returncode == 1 and "another registry server" in busy.stderr
    engine.docker("rmi", "team/tagged:7")


def test_read_only(engine: Skerry, layout: Path) -> None:
    with served(engine, "--read-only") as place:
        place = f"docker://{place}/refused/app:1"
        done = subprocess.run(
            ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:t", place],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "read-only" in done.stderr
    assert engine.docker("image", "inspect", "refused/app:1", check=False).returncode == 1


@pytest.mark.parametrize("store", [False, True], ids=["folder", "store"])
def test_oras(engine: Skerry, server: Server, tmp_path: Path, *, store: bool) -> None:
    with served(engine) if store else contextlib.nullcontext(server.place) as place:
        client = oras.client.OrasClient(insecure=True, hostname=place)
        content = tmp_path / "notes.txt"
        content.write_text("an artifact, no image")
        target = f"{place}/team/artifact:v1"
        client.push(target=target, files=[str(content)], disable_path_validation=True)
        back = tmp_path / "back"
        found = client.pull(target=target, outdir=str(back))
        assert [Path(path).read_text() for path in found] == ["an artifact, no image"]
        assert "v1" in client.get_tags(f"{place}/team/artifact")


class Hub:
    """An engine that serves its images, killed as one."""

    def __init__(self, engine: Skerry) -> None:
        self.port = free_port()
        self._engine = engine
        self._serving = contextlib.ExitStack()

    def start(self) -> None:
        """The engine, then its registry."""
        self._engine.start()
        self._serving.enter_context(served(self._engine, port=self.port))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """The engine first: the command that asked for the registry sees it go."""
        self._engine.stop(how)
        self._serving.close()


def test_kill_of_the_engine_loses_nothing_acknowledged() -> None:
    engine = Skerry()
    hub = Hub(engine)
    try:
        hub.start()
        # An image without a name is no repository's any more, so every image has its own here.
        push_and_kill(hub, kills=3, tags=1 << 20)
    finally:
        hub.stop()
        engine.close()
