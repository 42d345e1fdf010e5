"""`docker build` with the classic builder, docker-py's build, and caches in Debian's registry.

With `SKERRY_COMPAT_PEER=dockerd` the first ones run against Debian's dockerd.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.daemons import Daemon, Skerry
from bench.transfer import DebianRegistry
from tests.kernel.building import Client

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("leaves_nothing")]


@pytest.fixture
def build(daemon: Daemon, tmp_path: Path) -> Any:
    """`build(files, "--target", "x")`: what docker said, and its status."""

    def run(files: dict[str, str], *words: str, stdin: bytes = b"") -> tuple[str, int]:
        folder = tmp_path / "context"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        where = words if stdin else (*words, str(folder))
        done = daemon.docker("build", *where, check=False, stdin=stdin)
        return done.stdout + done.stderr, done.returncode

    return run


def run(daemon: Daemon, image: str, *command: str) -> str:
    return str(daemon.docker("run", "--rm", "--network", "none", image, *command).stdout)


def test_the_words_of_the_classic_builder(build: Any, daemon: Daemon) -> None:
    files = {"Dockerfile": 'FROM busybox\nRUN echo hello\nCMD ["true"]\n'}
    said, status = build(files, "-t", "words:1", "--no-cache")
    assert status == 0
    lines = said.splitlines()
    assert "Step 1/3 : FROM busybox" in lines
    assert "hello" in lines
    assert re.search(r"Successfully built [0-9a-f]{12}", said)
    assert "Successfully tagged words:1" in lines
    again, _ = build(files, "-t", "words:1")
    assert " ---> Using cache" in again
    quiet, status = build(files, "-q")
    found = re.search(r"^sha256:[0-9a-f]{64}$", quiet, re.MULTILINE)
    assert found and status == 0
    assert json.loads(daemon.docker("inspect", "words:1").stdout)[0]["Id"] == found[0]
    daemon.docker("rmi", "-f", "words:1")


def test_options(build: Any, daemon: Daemon, tmp_path: Path) -> None:
    files = {
        "sub/Other": "FROM busybox AS first\nARG WHO=nobody\nRUN echo $WHO > /who\nCOPY . /c/\n"
        "FROM first\nRUN false\n",
        "kept": "k",
        "ignored.txt": "i",
        "deep/ignored.txt": "i",
        ".dockerignore": "**/*.txt\n!deep/*.txt\n",
    }
    said, status = build(
        files,
        *("-f", str(tmp_path / "context" / "sub" / "Other"), "--target", "first", "-t", "opts"),
        *("--build-arg", "WHO=me", "--label", "a=b", "--iidfile", str(tmp_path / "iid")),
        *("--add-host", "somewhere:10.9.8.7", "--memory", "200m", "--ulimit", "nofile=99"),
        *("--security-opt", "seccomp=unconfined", "--build-arg", "NOPE=1"),
        *("--cache-from", "not-here:1"),
    )
    assert status == 0, said
    assert "[Warning] One or more build-args [NOPE] were not consumed" in said
    assert run(daemon, "opts", "cat", "/who") == "me\n"
    assert run(daemon, "opts", "ls", "/c", "/c/deep").split() == [
        "/c:", "deep", "kept", "sub", "/c/deep:", "ignored.txt",
    ]  # fmt: skip
    found = json.loads(daemon.docker("inspect", "opts").stdout)[0]
    assert found["Config"]["Labels"]["a"] == "b"
    assert (tmp_path / "iid").read_text() == found["Id"]
    daemon.docker("rmi", "-f", "opts")


def test_a_dockerfile_from_standard_input_beside_a_folder(
    build: Any, daemon: Daemon, tmp_path: Path
) -> None:
    build({"Dockerfile": "FROM none\n", "kept": "k"})
    words = ("-t", "beside", "-f", "-", str(tmp_path / "context"))
    said, status = build({}, *words, stdin=b"FROM busybox\nCOPY kept /\n")
    assert status == 0, said
    assert run(daemon, "beside", "cat", "/kept") == "k"
    daemon.docker("rmi", "-f", "beside")


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("FROM busybox\nRUN exit 7\n", 7, "returned a non-zero code: 7"),
        ("FROM busybox\nCOPY missing /\n", 1, "missing"),
        ("FROM busybox\nNOPE x\n", 1, "unknown instruction: NOPE"),
        ("RUN x\n", 1, "no build stage in current context"),
        ("FROM busybox\nCOPY --from=0 /x /\n", 1, ""),
    ],
)
def test_failures(build: Any, text: str, status: int, words: str) -> None:
    said, code = build({"Dockerfile": text})
    assert words in said
    assert code == status


def test_dockerfiles_and_contexts_from_standard_input(build: Any, daemon: Daemon) -> None:
    said, status = build({}, "-t", "stdin:1", "-", stdin=b"FROM busybox\nRUN echo one > /x\n")
    assert status == 0, said
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in {"Dockerfile": b"FROM busybox\nCOPY f /x\n", "f": b"two\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    said, status = build({}, "-t", "stdin:2", "-", stdin=out.getvalue())
    assert status == 0, said
    for number, text in (("1", "one\n"), ("2", "two\n")):
        assert run(daemon, f"stdin:{number}", "cat", "/x") == text
        daemon.docker("rmi", "-f", f"stdin:{number}")


def test_triggers_of_a_base(build: Any, daemon: Daemon) -> None:
    build({"Dockerfile": "FROM busybox\nONBUILD COPY f /f\nONBUILD RUN cat /f\n"}, "-t", "onb")
    said, status = build({"Dockerfile": "FROM onb\nRUN echo own\n", "f": "triggered\n"}, "-t", "t")
    assert status == 0, said
    assert said.index("triggered") < said.index("own")
    assert not json.loads(daemon.docker("inspect", "t").stdout)[0]["Config"].get("OnBuild")
    daemon.docker("rmi", "-f", "t", "onb")


def test_docker_py(daemon: Daemon) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=daemon.host, version="1.41")
    try:
        text = b"FROM busybox\nARG A\nRUN echo $A\nLABEL x=y\n"
        image, lines = client.images.build(
            fileobj=io.BytesIO(text), tag="pybuilt", buildargs={"A": "said"}, nocache=True, rm=True
        )
        assert image.labels["x"] == "y"
        assert "said\n" in [each.get("stream") for each in lines]
        with pytest.raises(docker.errors.BuildError, match="non-zero code: 5"):
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 5\n"))
        client.images.remove("pybuilt", force=True)
    finally:
        client.close()


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


def test_caches_and_results_in_a_registry(
    engine: Skerry, own_engine: Skerry, registry: DebianRegistry
) -> None:
    here, there = Client(engine.socket), Client(own_engine.socket)
    salt = os.urandom(4).hex()
    text = f"FROM busybox AS a\nRUN echo {salt} > /a\nFROM busybox\nCOPY --from=a /a /b\nRUN cat /b"
    cache = {"Type": "registry", "Ref": f"{registry.name}/cache:1", "Mode": "max"}
    pushed = {"Type": "registry", "Name": f"{registry.name}/image:1"}
    built = here.build(text, CacheTo=[cache, {"Type": "inline"}], Outputs=[pushed])
    assert built.cached == [False, False, False]
    inline = {"Type": "registry", "Ref": f"{registry.name}/image:1"}
    # Inline is what the image's own layers are; what it only copies from is not in it.
    assert there.build(text, CacheFrom=[inline]).cached == [False, True, True]
    there.call("POST", "/build/prune?all=1")
    own_engine.docker("image", "prune", "-f")
    assert there.build(text, CacheFrom=[cache]).cached == [True, True, True]
    assert there.build(f"FROM {registry.name}/image:1\nRUN cat /b; true\n").output == f"{salt}\n"
    none = there.build(text, CacheFrom=[{"Type": "registry", "Ref": f"{registry.name}/none:1"}])
    assert any(each["rule"] == "CacheNotFound" for each in none.of("warning"))
