"""Pull, push, login and search by the docker CLI, docker-py and our command line, with Debian's
`docker-registry` on the other side. Run with SKERRY_COMPAT_PEER=dockerd to test the expectations.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from bench.daemons import Daemon, Skerry
from bench.transfer import DebianRegistry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("docker-registry") is None, reason="needs the Debian package docker-registry"
    ),
]


@pytest.fixture(scope="module")
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[DebianRegistry]:
    # bcrypt of "secret", cost 4
    with DebianRegistry(
        "jo:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
    ) as running:
        yield running


@pytest.fixture
def names(daemon: Daemon) -> Iterator[list[str]]:
    """Names to be taken away afterwards."""
    made: list[str] = []
    yield made
    daemon.docker("rmi", "-f", *made, check=False)


@pytest.fixture
def py(daemon: Daemon) -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.DockerClient(base_url=daemon.host)) as client:
        yield client


def ok(daemon: Daemon, *words: str) -> str:
    return daemon.docker(*words).stdout


def refused(daemon: Daemon, *words: str) -> str:
    done = daemon.docker(*words, check=False)
    assert done.returncode != 0
    return done.stderr


def push_busybox(daemon: Daemon, name: str, names: list[str]) -> str:
    """Push busybox under a name; its digest."""
    names.append(name)
    ok(daemon, "tag", "busybox", name)
    last = ok(daemon, "push", name).strip().splitlines()[-1]
    assert last.startswith(f"{name.rpartition(':')[2]}: digest: sha256:")
    return last.split()[2]


class TestDockerCli:
    def test_there_and_back(
        self, daemon: Daemon, registry: DebianRegistry, names: list[str]
    ) -> None:
        name = f"{registry.name}/team/there:v1"
        digest = push_busybox(daemon, name, names)
        ok(daemon, "rmi", name)
        lines = ok(daemon, "pull", name).splitlines()
        assert lines[0] == "v1: Pulling from team/there"
        assert lines[-3] == f"Digest: {digest}"
        assert lines[-1] == name
        assert ok(daemon, "pull", name).splitlines()[-2] == (
            f"Status: Image is up to date for {name}"
        )
        repository = name.rpartition(":")[0]
        found = json.loads(ok(daemon, "image", "inspect", name))[0]
        assert f"{repository}@{digest}" in found["RepoDigests"]
        shown = ok(daemon, "images", "--digests", "--format", "{{.Digest}}", repository)
        assert shown.split() == [digest]

    def test_pushed_again_and_elsewhere(
        self, daemon: Daemon, registry: DebianRegistry, names: list[str]
    ) -> None:
        first, second = f"{registry.name}/again/one:v1", f"{registry.name}/again/two:v1"
        push_busybox(daemon, first, names)
        assert "Layer already exists" in ok(daemon, "push", first)
        names.append(second)
        ok(daemon, "tag", first, second)
        assert "Mounted from again/" in ok(daemon, "push", second)

    def test_by_digest_and_all_tags(
        self, daemon: Daemon, registry: DebianRegistry, names: list[str]
    ) -> None:
        repository = f"{registry.name}/many/tags"
        digest = push_busybox(daemon, f"{repository}:a", names)
        push_busybox(daemon, f"{repository}:b", names)
        ok(daemon, "rmi", f"{repository}:a", f"{repository}:b")
        ok(daemon, "pull", f"{repository}@{digest}")
        found = json.loads(ok(daemon, "image", "inspect", f"{repository}@{digest}"))[0]
        assert f"{repository}:a" not in found["RepoTags"]
        ok(daemon, "rmi", f"{repository}@{digest}")
        ok(daemon, "pull", "-a", "-q", repository)
        shown = ok(daemon, "images", "--format", "{{.Tag}}", repository)
        assert sorted(shown.split()) == ["a", "b"]
        ok(daemon, "push", "-a", "-q", repository)

    def test_run_pulls_what_is_missing(
        self, daemon: Daemon, registry: DebianRegistry, names: list[str]
    ) -> None:
        name = f"{registry.name}/run/missing:v1"
        push_busybox(daemon, name, names)
        ok(daemon, "rmi", name)
        done = daemon.docker("run", "--rm", "--network", "none", name, "echo", "hi")
        assert done.stdout == "hi\n"
        assert f"Unable to find image '{name}' locally" in done.stderr

    def test_what_is_not_there(self, daemon: Daemon, registry: DebianRegistry) -> None:
        name = f"{registry.name}/no/such:v1"
        assert f"manifest for {name} not found: manifest unknown" in refused(daemon, "pull", name)
        said = refused(daemon, "push", name)
        assert f"An image does not exist locally with the tag: {registry.name}/no/such" in said

    def test_login(self, daemon: Daemon, guarded: DebianRegistry, names: list[str]) -> None:
        name = f"{guarded.name}/team/guarded:v1"
        words = ("login", "-u", "jo", "--password-stdin", guarded.name)
        wrong = daemon.docker(*words, stdin=b"wrong", check=False)
        assert wrong.returncode != 0
        assert "unauthorized" in wrong.stderr.lower()
        assert "Login Succeeded" in daemon.docker(*words, stdin=b"secret").stdout
        digest = push_busybox(daemon, name, names)
        ok(daemon, "rmi", name)
        assert digest in ok(daemon, "pull", name)
        ok(daemon, "logout", guarded.name)
        ok(daemon, "rmi", name)
        refused(daemon, "pull", name)
        assert name not in ok(daemon, "images", "--format", "{{.Repository}}:{{.Tag}}")


class TestDockerPy:
    def test_push_and_pull(
        self,
        daemon: Daemon,
        py: docker.DockerClient,
        guarded: DebianRegistry,
        names: list[str],
    ) -> None:
        repository = f"{guarded.name}/py/app"
        names.append(f"{repository}:v2")
        auth = {"username": "jo", "password": "secret"}
        py.images.get("busybox").tag(repository, "v2")
        messages: list[dict[str, Any]] = list(
            py.images.push(repository, tag="v2", auth_config=auth, stream=True, decode=True)
        )
        aux = messages[-1]["aux"]
        assert (aux["Tag"], aux["Digest"][:7]) == ("v2", "sha256:")
        assert aux["Size"] > 100
        py.images.remove(f"{repository}:v2")
        image = py.images.pull(repository, tag="v2", auth_config=auth)
        assert f"{repository}@{aux['Digest']}" in image.attrs["RepoDigests"]
        about = py.images.get_registry_data(f"{repository}:v2", auth_config=auth)
        assert about.id == aux["Digest"]
        assert about.has_platform("linux/amd64")
        py.images.remove(f"{repository}:v2")
        with pytest.raises(docker.errors.APIError):
            py.images.pull(repository, tag="v2", auth_config={"username": "jo", "password": "x"})

    def test_login(self, py: docker.DockerClient, guarded: DebianRegistry) -> None:
        done = py.login("jo", "secret", registry=guarded.name, reauth=True)
        assert done["Status"] == "Login Succeeded"
        with pytest.raises(docker.errors.APIError) as refusal:
            py.login("jo", "wrong", registry=guarded.name, reauth=True)
        assert refusal.value.status_code in (401, 500)


class TestSkerryCli:
    def test_there_and_back(
        self, engine: Skerry, guarded: DebianRegistry, names: list[str]
    ) -> None:
        name = f"{guarded.name}/skerry/app:v1"
        names.append(name)
        engine.docker("tag", "busybox", name)
        assert engine.skerry("push", name, check=False).returncode == 1
        words = ("login", "-u", "jo", "--password-stdin", guarded.name)
        wrong = engine.skerry(*words, stdin=b"wrong\n", check=False)
        assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)
        assert engine.skerry(*words, stdin=b"secret\n").stdout == "Login Succeeded\n"
        config = os.path.join(engine.environment()["DOCKER_CONFIG"], "config.json")
        with open(config) as file:
            assert guarded.name in json.load(file)["auths"]
        assert engine.skerry("push", "-q", name).stdout == f"{name}\n"
        engine.skerry("rmi", name)
        assert engine.skerry("pull", "-q", name).stdout == f"{name}\n"
        engine.skerry("rmi", name)
        lines = engine.skerry("pull", name).stdout.splitlines()
        assert lines[0] == "v1: Pulling from skerry/app"
        assert lines[-2:] == [f"Status: Downloaded newer image for {name}", name]
        found = engine.skerry("search", f"{guarded.name}/app").stdout
        assert "skerry/app" in found
        engine.skerry("logout", guarded.name)
        with open(config) as file:
            assert guarded.name not in json.load(file)["auths"]
        denied = engine.skerry("pull", name, check=False)
        assert denied.returncode == 1
        assert "pull access denied" in denied.stderr

    def test_run_pulls_what_is_missing(
        self, engine: Skerry, registry: DebianRegistry, names: list[str]
    ) -> None:
        name = f"{registry.name}/skerry/run:v1"
        push_busybox(engine, name, names)
        engine.skerry("rmi", name)
        done = engine.skerry("run", "--rm", "--network", "none", name, "echo", "hi")
        assert done.stdout == "hi\n"

    def test_unreachable(self, engine: Skerry) -> None:
        done = engine.skerry("pull", "127.0.0.1:1/no/registry", check=False)
        assert done.returncode == 1
        assert "127.0.0.1:1/no/registry:latest" in done.stderr
