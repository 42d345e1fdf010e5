"""The API over TCP: the docker CLI with --tlsverify, and who is not let in."""

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from bench.daemons import DOCKER, PYTHON, Skerry
from bench.ports import free_port

from .certificates import CLIENT, SERVER, Authority

pytestmark = [pytest.mark.root]
TLS_FILES = ("tlscacert", "tlscert", "tlskey")


class Remote(Skerry):
    """An engine that listens on a port of loopback as well."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.address = f"127.0.0.1:{free_port()}"
        self.options = options

    def command(self) -> list[str]:
        return [*super().command(), "--host", f"tcp://{self.address}", *self.options]


def tls_options(folder: Path) -> list[str]:
    names = (("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem"))
    return [word for option, name in names for word in (option, str(folder / name))]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("ours")


@pytest.fixture(scope="module")
def remote(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = authority.issue(tmp_path_factory.mktemp("tls") / "engine", SERVER)
    with Remote("--tlsverify", *tls_options(folder)) as running:
        yield running


@pytest.fixture
def certificates(authority: Authority, tmp_path: Path) -> Path:
    return authority.issue(tmp_path / "client", CLIENT)


def cli(
    remote: Remote, options: list[str], *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "DOCKER_CONFIG": str(remote.home / "none")}
    command = [DOCKER, "-H", f"tcp://{remote.address}", *options, *words]
    return subprocess.run(
        command, env=env, input=stdin, capture_output=True, check=False, timeout=30
    )


def test_the_docker_cli(remote: Remote, certificates: Path) -> None:
    options = ["--tlsverify", *tls_options(certificates)]
    assert cli(remote, options, "version").returncode == 0
    # The end of the input is not the end of the output, whatever TLS makes of it.
    count = ["run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "wc -c; seq 100000"]
    done = cli(remote, options, *count, stdin=b"x" * 3_000_000)
    assert done.stdout.split()[0] == b"3000000", done.stderr
    assert done.stdout.split()[-1] == b"100000"
    assert len(done.stdout.split()) == 100001


def test_docker_py(remote: Remote, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # requests would prefer them to the authority that it is given.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    config = docker.tls.TLSConfig(
        client_cert=(str(certificates / "cert.pem"), str(certificates / "key.pem")),
        ca_cert=str(certificates / "ca.pem"),
        verify=True,
    )
    client = docker.DockerClient(f"https://{remote.address}", tls=config)
    said = client.containers.run("busybox", "echo far", network_mode="none", remove=True)
    assert said == b"far\n"
    client.close()


def test_who_is_not_let_in(remote: Remote, certificates: Path, tmp_path: Path) -> None:
    options = ["--tls", "--tlscacert", str(certificates / "ca.pem")]
    assert cli(remote, options, "ps").returncode == 1
    plain = cli(remote, [], "ps")
    assert plain.returncode == 1
    assert b"Client sent an HTTP request to an HTTPS server." in plain.stderr
    stranger = Authority("ours").issue(tmp_path / "stranger", CLIENT)
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(stranger / "cert.pem", stranger / "key.pem")
    host, port = remote.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=120) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(raw, server_hostname=host) as wrapped,
    ):
        wrapped.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wrapped.recv(100) == b""
        raise ConnectionError
    # One that says nothing holds nobody up.
    with socket.create_connection((host, int(port))):
        assert cli(remote, ["--tlsverify", *tls_options(certificates)], "ps").returncode == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "without TLS"),
        (["--tlsverify"], "--tlsverify needs --tlscacert"),
        (["--tlsverify", *(f"--{n}=/x" for n in TLS_FILES)], "authority /x"),
        (["--host", "tcp://nowhere"], "tcp://address:port"),
    ],
)
def test_what_is_refused(options: list[str], complaint: str, tmp_path: Path) -> None:
    folders = ["--root", str(tmp_path / "r"), "--run-root", str(tmp_path / "x")]
    command = [str(PYTHON), "-m", "skerry", "engine", *folders]
    command += ["--host", "tcp://127.0.0.1:1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_tcp_when_it_is_asked_for() -> None:
    with Remote("--plain-tcp") as running:
        assert cli(running, [], "ps").returncode == 0
