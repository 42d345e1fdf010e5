"""Builds out of git as people serve it: over https with an authority and a token, over ssh with a
forwarded agent and known hosts; contexts, named contexts and ADD."""

import base64
import http.server
import io
import os
import shutil
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.daemons import Skerry

from .certificates import SERVER, Authority

pytestmark = [pytest.mark.root]
TOKEN = "t0ken"
TEXT = "FROM scratch\nCOPY . /\n"
DEADLINE = 120.0


class Trusting(Skerry):
    """An engine that trusts an authority of ours, and whose clients have a home of their own."""

    def __init__(self, authority: Path) -> None:
        super().__init__()
        self.authority = authority

    def environment(self) -> dict[str, str]:
        mine = dict.fromkeys(("SSL_CERT_FILE", "GIT_SSL_CAINFO"), str(self.authority))
        return super().environment() | mine | {"HOME": str(self.home)}


class Server(http.server.BaseHTTPRequestHandler):
    """Git's own CGI program, git-http-backend(1), and one archive. `private/` wants the token."""

    protocol_version = "HTTP/1.1"
    served = ""

    def do_GET(self) -> None:
        if self.path == "/context.tar":
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                archive.add(f"{self.served}/repo/sub", "sub")
                archive.add(f"{self.served}/repo/Dockerfile", "Dockerfile")
            self._answer(200, {}, packed.getvalue())
            return
        self._git(b"")

    def do_POST(self) -> None:
        self._git(self.rfile.read(int(self.headers["Content-Length"])))

    def _git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        wanted = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if path.startswith("/private/"):
            path = path.removeprefix("/private")
            if self.headers["Authorization"] != f"basic {wanted}":
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
                return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.served,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
            "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers["Content-Type"] or "",
            "CONTENT_LENGTH": str(len(body)),
        }
        command = ["git", "http-backend"]
        done = subprocess.run(command, env=environment, input=body, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._answer(int(fields.pop("Status", "200").split()[0]), fields, content)

    def _answer(self, status: int, fields: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**fields, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository `repo`: a branch `main`, another `other` with the tag `v1` on it,
    and one whose submodule is nowhere."""
    folder = tmp_path_factory.mktemp("git")
    work = folder / "repo"
    (work / "sub").mkdir(parents=True)

    def git(*words: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", "-C", str(work), *who, *words], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (work / "Dockerfile").write_text(TEXT)
    (work / "sub/Dockerfile").write_text(TEXT)
    (work / "sub/f").write_text("main")
    git("add", "-A")
    git("commit", "-qm", "first")
    git("checkout", "-qb", "other")
    (work / "sub/f").write_text("other")
    git("commit", "-qam", "second")
    git("tag", "-am", "one", "v1")
    git("checkout", "-qb", "broken")
    module = '[submodule "m"]\npath = m\nurl = https://127.0.0.1:1/m.git\n'
    (work / ".gitmodules").write_text(module)
    git("add", ".gitmodules")
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")
    git("commit", "-qm", "third")
    git("checkout", "-qf", "main")
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the server's certificate, key and authority."""
    return Authority("git's").issue(tmp_path_factory.mktemp("tls") / "server", SERVER)


@pytest.fixture(scope="module")
def trusting(authority: Path) -> Iterator[Trusting]:
    with Trusting(authority / "ca.pem") as running:
        yield running


@pytest.fixture(scope="module")
def https(served: Path, authority: Path) -> Iterator[str]:
    """The address of the server."""
    handler = type("Handler", (Server,), {"served": str(served)})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


Built = Callable[..., dict[str, bytes]]


@pytest.fixture
def built(trusting: Trusting, tmp_path: Path) -> Built:
    """`built("CONTEXT", "--option", stdin=b"")`: the result's files."""

    def build(*words: str, stdin: bytes = b"") -> dict[str, bytes]:
        place = tmp_path / "out.tar"
        to = ("-o", f"type=tar,dest={place}")
        trusting.skerry("build", *to, *words, stdin=stdin, timeout=120)
        found = {}
        with tarfile.open(place) as archive:
            for each in archive:
                file = archive.extractfile(each) if each.isreg() else None
                if file:
                    found[each.name.removeprefix("./")] = file.read()
        return found

    return build


def refused(trusting: Trusting, *words: str, stdin: bytes = b"") -> str:
    done = trusting.skerry("build", *words, check=False, stdin=stdin, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_https(built: Built, https: str, trusting: Trusting, served: Path) -> None:
    repository = f"{https}/repo/.git"
    assert built(repository) == {
        "Dockerfile": TEXT.encode(), "sub/Dockerfile": TEXT.encode(), "sub/f": b"main"
    }  # fmt: skip
    assert built(f"{repository}#other:sub")["f"] == b"other"
    assert built(f"{https}/context.tar")["sub/f"] == b"main"
    kept = built(repository, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    assert ".git/HEAD" in kept

    line = ["git", "-C", served / "repo", "rev-parse", "v1"]
    tagged = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    kept = built(f"{repository}?tag=v1&checksum={tagged}&keep-git-dir")
    assert (kept["sub/f"], ".git/HEAD" in kept) == (b"other", True)
    assert built(f"{repository}?branch=broken&submodules=0&mtime=commit")["sub/f"] == b"other"
    assert "submodule" in refused(trusting, f"{repository}?branch=broken")

    text = f"FROM scratch\nADD {repository}#other /a/\nADD --keep-git-dir=true {repository} /b/\n"
    found = built("-", stdin=text.encode())
    assert (found["a/sub/f"], found["b/sub/f"]) == (b"other", b"main")
    assert "b/.git/HEAD" in found
    assert not any(name.startswith("a/.git/") for name in found)

    named = ("--build-context", f"x={repository}#other:sub", "--build-context")
    text = "FROM scratch\nCOPY --from=x f /f\nCOPY --from=y sub/f /g\n"
    found = built("-", *named, f"y={https}/context.tar", stdin=text.encode())
    assert found == {"f": b"other", "g": b"main"}

    assert "nowhere" in refused(trusting, f"{repository}#nowhere")
    private = f"{https}/private/repo/.git"
    assert "GIT_AUTH_TOKEN" in refused(trusting, private)
    os.environ["GIT_AUTH_TOKEN"] = TOKEN
    try:
        token = ("--secret", "id=GIT_AUTH_TOKEN")
        assert built(private, *token)["sub/f"] == b"main"
        text = f"FROM scratch\nADD {private}#other:sub /\n"
        assert built("-", *token, stdin=text.encode())["f"] == b"other"
        elsewhere = ("--secret", "id=GIT_AUTH_TOKEN.example.org,env=GIT_AUTH_TOKEN")
        assert "GIT_AUTH_TOKEN" in refused(trusting, private, *elsewhere)
    finally:
        del os.environ["GIT_AUTH_TOKEN"]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not begin"
        time.sleep(0.02)


@pytest.fixture
def sshd(agent: str, tmp_path: Path) -> Iterator[int]:
    """An OpenSSH server on a port of loopback that lets the agent's key in."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("needs the Debian package openssh-server")
    key = tmp_path / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as free:
        port = free.server_address[1]
    options = {
        "AuthorizedKeysFile": str(Path(agent).with_name("key.pub")),
        "HostKey": str(key),
        "ListenAddress": f"127.0.0.1:{port}",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # It wants a /run/sshd, which only an installed service makes.
    own_run = 'mount -t tmpfs none /run && mkdir /run/sshd && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", own_run, program, "-D", "-e", "-f", "/dev/null"]
    log = tmp_path / "sshd.log"
    with log.open("w") as said, subprocess.Popen([*command, *words], stderr=said) as running:
        try:
            until(lambda: "Server listening" in log.read_text(), "sshd")
            yield port
        finally:
            running.terminate()


def test_ssh(
    built: Built, served: Path, sshd: int, agent: str, tmp_path: Path, trusting: Trusting
) -> None:
    url = f"ssh://root@127.0.0.1:{sshd}{served}/repo"
    words = ("--ssh", f"default={agent}")
    known = trusting.home / ".ssh/known_hosts"
    known.parent.mkdir(exist_ok=True)
    key = (tmp_path / "host.pub").read_text()

    known.write_text(f"[127.0.0.1]:{sshd} {key}")
    assert built(url, *words)["sub/f"] == b"main"
    assert built(f"{url}#other:sub", *words)["f"] == b"other"
    text = f"FROM scratch\nADD {url}#other:sub /\nCOPY --from=more sub/f /g\n"
    more = ("--build-context", f"more={url}")
    assert built("-", *words, *more, stdin=text.encode()) == {
        "Dockerfile": TEXT.encode(), "f": b"other", "g": b"main"
    }  # fmt: skip

    denied = refused(trusting, url)
    assert "Permission denied" in denied
    assert "--ssh default" in denied
    # Another key than the known one is somebody else.
    other = Path(agent).with_name("key.pub").read_text()
    known.write_text(f"[127.0.0.1]:{sshd} {other}")
    assert "Host key verification failed" in refused(trusting, url, *words)
    known.unlink()
    assert built(url, *words)["sub/f"] == b"main"
