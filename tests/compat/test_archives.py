"""Archives and `skerry copy` between us and docker, skopeo, podman and umoci."""

import io
import json
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from bench.daemons import Dockerd, Skerry, short_folder
from bench.ports import free_port

from skerry.sdk import Engine

pytestmark = pytest.mark.root
Cli = Callable[..., str]


def run(*command: str, stdin: bytes = b"") -> str:
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def skopeo(*arguments: str) -> str:
    return run("skopeo", "--insecure-policy", *arguments)


@pytest.fixture(scope="module")
def skerry(engine: Skerry) -> Cli:
    """`skerry("save", …, code=0)`: what it prints; `error=True` gives standard error."""

    def call(*words: str, code: int = 0, stdin: bytes = b"", error: bool = False) -> str:
        done = engine.skerry(*words, check=False, stdin=stdin)
        assert done.returncode == code, f"{words}: {done.returncode}: {done.stderr or done.stdout}"
        assert "Traceback" not in done.stderr
        return (done.stderr if error else done.stdout).strip()

    return call


@pytest.fixture(scope="module")
def image(skerry: Cli) -> Iterator[str]:
    """An image of two layers under its own name."""
    name = f"team/archived-{os.getpid()}:v1"
    container = skerry("create", "busybox", "sh")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        info = tarfile.TarInfo("added")
        info.size = 5
        out.addfile(info, io.BytesIO(b"added"))
    skerry("cp", "-", f"{container}:/", stdin=tar.getvalue())
    skerry("commit", "-c", 'CMD ["cat", "/added"]', container, name)
    skerry("rm", container)
    yield name
    skerry("rmi", "-f", name)


def identity(skerry: Cli, name: str) -> str:
    return skerry("inspect", "--format", "{{.Id}}", name)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst"])
@pytest.mark.parametrize("layout", ["docker-archive", "oci-archive"])
def test_save_for_skopeo_and_back(
    skerry: Cli, image: str, tmp_path: Path, layout: str, name: str
) -> None:
    path = tmp_path / name
    skerry("save", "--format", layout, "-o", str(path), image)
    config = json.loads(skopeo("inspect", "--config", f"{layout}:{path}:{image}")) if (
        name == "a.tar"
    ) else {}  # fmt: skip
    assert config.get("config", {}).get("Cmd", ["cat", "/added"]) == ["cat", "/added"]
    before = identity(skerry, image)
    skerry("rmi", "-f", image)
    assert f"Loaded image: {image}" in skerry("load", "-i", str(path))
    assert identity(skerry, image) == before
    assert skerry("run", "--rm", "--network", "none", image) == "added"


def test_docker_loads_ours_and_we_load_dockers(
    skerry: Cli, image: str, dockerd: Dockerd, tmp_path: Path
) -> None:
    """Several images in one archive, both ways, by pipe."""
    path = tmp_path / "many.tar"
    skerry("save", "-o", str(path), image, "busybox")
    said = dockerd.docker("load", "-i", str(path)).stdout
    assert f"Loaded image: {image}" in said
    assert identity(skerry, image) in dockerd.docker("inspect", image).stdout
    back = tmp_path / "back.tar"
    dockerd.docker("save", "-o", str(back), image, "busybox")
    said = skerry("load", "-q", stdin=back.read_bytes())
    assert f"Loaded image: {image}" in said
    assert "Loaded image: busybox:latest" in said
    host = f"unix://{dockerd.socket}"
    skerry("copy", "--docker-host", host, f"skerry:{image}", "docker-daemon:copied:v3")
    assert identity(skerry, image) in dockerd.docker("inspect", "copied:v3").stdout
    target = tmp_path / "layout"
    skerry("copy", "--docker-host", host, "docker-daemon:copied:v3", f"oci:{target}:v3")
    about = json.loads(skopeo("inspect", "--config", f"oci:{target}:v3"))
    assert about["config"]["Cmd"] == ["cat", "/added"]
    dockerd.docker("rmi", "-f", image, "copied:v3")


def test_dockers_own_client(engine: Skerry, skerry: Cli, image: str, tmp_path: Path) -> None:
    """docker save, load, export and import against this engine."""
    saved, tree = tmp_path / "saved.tar", tmp_path / "tree.tar"
    engine.docker("save", "-o", str(saved), image)
    before = identity(skerry, image)
    engine.docker("rmi", "-f", image)
    assert f"Loaded image: {image}" in engine.docker("load", "-i", str(saved)).stdout
    assert identity(skerry, image) == before
    container = engine.docker("create", image).stdout.strip()
    engine.docker("export", "-o", str(tree), container)
    engine.docker("rm", container)
    made = engine.docker("import", "-c", 'CMD ["cat", "/added"]', str(tree), "imported:v1").stdout
    assert made.strip() == identity(skerry, "imported:v1")
    assert engine.docker("run", "--rm", "--network", "none", "imported:v1").stdout == "added"
    engine.docker("rmi", "imported:v1")
    broken = engine.docker("import", "-", "broken:v1", stdin=b"x" * 600, check=False)
    assert broken.returncode == 1
    assert "root file system" in broken.stderr


def test_podman_loads_ours(
    skerry: Cli, image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "a.tar"
    skerry("save", "-o", str(path), image)
    runroot = short_folder("sk-")
    request.addfinalizer(lambda: shutil.rmtree(runroot, ignore_errors=True))
    podman = [
        *("podman", "--root", str(tmp_path / "root"), "--runroot", str(runroot)),
        *("--storage-driver", "vfs"),
    ]
    assert image in run(*podman, "load", "-i", str(path))
    assert json.loads(run(*podman, "inspect", image))[0]["Config"]["Cmd"] == ["cat", "/added"]
    back = tmp_path / "back.tar"
    run(*podman, "save", "-o", str(back), image)
    assert "Loaded image" in skerry("load", "-i", str(back))
    oci = tmp_path / "oci.tar"
    run(*podman, "save", "--format", "oci-archive", "-o", str(oci), image)
    assert "Loaded image" in skerry("load", "-i", str(oci))
    run(*podman, "rmi", "-fa")


def test_a_layout_for_umoci_and_skopeo(skerry: Cli, image: str, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    skerry("copy", f"skerry:{image}", f"oci:{layout}:v1")
    skerry("copy", f"skerry:{image}", f"oci:{layout}:v2")
    assert sorted(run("umoci", "ls", "--layout", str(layout)).split()) == ["v1", "v2"]
    run("umoci", "unpack", "--image", f"{layout}:v2", str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/rootfs/added").read_text() == "added"
    skopeo("copy", f"oci:{layout}:v1", f"docker-archive:{tmp_path / 'd.tar'}:x/y:v3")
    skerry("copy", f"docker-archive:{tmp_path / 'd.tar'}", f"oci:{layout}:back")
    skopeo("copy", f"oci:{layout}:back", f"dir:{tmp_path / 'dir'}")
    skerry("copy", f"oci:{layout}:back", "skerry:from-layout:v1")
    assert identity(skerry, "from-layout:v1") == identity(skerry, image)
    skerry("rmi", "from-layout:v1")


def test_what_passes_through_leaves_nothing(
    engine: Skerry, skerry: Cli, image: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    foreign = tmp_path / "foreign.tar"
    with tarfile.open(foreign, "w") as out:
        info = tarfile.TarInfo("only-here")
        out.addfile(info, io.BytesIO())
    skerry("import", str(foreign), "foreign:v1")
    skerry("copy", "skerry:foreign:v1", f"oci-archive:{one}")
    skerry("rmi", "foreign:v1")
    before = skerry("images", "-aq")
    skerry("copy", f"oci-archive:{one}", f"docker-archive:{two}:other:v9")
    assert skerry("images", "-aq") == before
    digest = json.loads(skopeo("inspect", f"oci-archive:{one}"))["Layers"][0]
    layers = [path.name for path in engine.home.rglob("blobs/sha256/*")]
    assert layers
    assert digest[7:] not in layers


def test_an_unified_tarball_goes_out_and_in(skerry: Cli, image: str, tmp_path: Path) -> None:
    path = tmp_path / "unified.tar"
    skerry("save", "--format", "lxc", "-o", str(path), image)
    with tarfile.open(path) as tar:
        assert tar.getnames()[:2] == ["metadata.yaml", "rootfs"]
        file = tar.extractfile("metadata.yaml")
        assert file
        metadata = yaml.safe_load(file)
        assert tar.getmember("rootfs/added").size == 5
        assert tar.getmember("rootfs/bin/sh").isfile() or tar.getmember("rootfs/bin/sh").islnk()
    assert metadata["architecture"] in ("x86_64", "aarch64")
    assert metadata["creation_date"] > 0
    packed = lzma.compress(path.read_bytes(), preset=0)
    assert "Loaded image: unified:v1" in skerry("load", "--tag", "unified:v1", stdin=packed)
    said = skerry("run", "--rm", "--network", "none", "unified:v1", "cat", "/added")
    assert said == "added"
    skerry("rmi", "unified:v1")


def test_the_sdk(engine: Skerry, skerry: Cli, image: str) -> None:
    with Engine(engine.host) as client:
        packed = b"".join(client.images.save(image, format="lxc", compression="zstd"))
        assert client.images.load(packed, tag="by-sdk:v1") == ["by-sdk:v1"]
        client.images.remove("by-sdk:v1")


def test_export_and_import(skerry: Cli, image: str, tmp_path: Path) -> None:
    container = skerry("create", image)
    path = tmp_path / "tree.tar"
    skerry("export", "-o", str(path), container)
    skerry("rm", container)
    skerry("import", "-c", 'CMD ["cat", "/added"]', "-m", "flat", str(path), "flat:v1")
    assert skerry("run", "--rm", "--network", "none", "flat:v1") == "added"
    assert skerry("history", "--format", "{{.Comment}}", "flat:v1") == "flat"
    rootfs = tmp_path / "rootfs.tar"
    skerry("save", "--format", "rootfs", "-o", str(rootfs), image)
    with tarfile.open(rootfs) as one, tarfile.open(path) as other:
        ours = {os.path.normpath(name) for name in one.getnames()}
        assert {os.path.normpath(name) for name in other.getnames()} - ours <= {
            *("dev", "proc", "sys", ".dockerenv", "etc", "etc/hosts", "etc/hostname"),
            *("etc/resolv.conf",),
        }
    skerry("rmi", "flat:v1")


def test_import_fetches_what_a_url_names(engine: Skerry, skerry: Cli, busybox_tar: Path) -> None:
    serve = partial(SimpleHTTPRequestHandler, directory=str(busybox_tar.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{busybox_tar.name}"
            id_ = skerry("import", url, "fetched:ours").strip()
            engine.docker("import", "--change", "CMD echo on", url, "fetched:docker")
            missing = skerry("import", f"{url}x", code=1, error=True)
        finally:
            server.shutdown()
            thread.join()
    assert "the server answers 404" in missing
    assert skerry("image", "inspect", "-f", "{{.Id}}", "fetched:ours").strip() == id_
    assert engine.docker("run", "--rm", "--network", "none", "fetched:docker").stdout == "on\n"
    skerry("rmi", "fetched:ours", "fetched:docker")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["load"], "image archive: the archive ends too early"),
        (["import", "-", "x:y"], "root file system: the archive ends too early"),
        (["copy", "oci-archive:-", "skerry:x"], "image archive: the archive ends too early"),
        (["copy", "nonsense", "skerry:x"], "names no place"),
        (["copy", "skerry:none-such", "oci:/tmp/x"], "No such image: none-such"),
        (["copy", "skerry:busybox", "oci-archive:/no/such/x"], "there is no folder /no/such"),
        (["import", "ftp://example.com/x.tar"], "only http and https are fetched"),
        (["import", "http://127.0.0.1:1/x.tar"], "http://127.0.0.1:1/x.tar"),
        (["save", "--format", "zip", "busybox"], "cannot write images as 'zip'"),
    ],
)
def test_one_clear_line(skerry: Cli, words: list[str], reason: str) -> None:
    said = skerry(*words, code=1, stdin=b"this is no archive", error=True)
    assert reason in said
    assert not Path("/tmp/x/index.json").exists()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry on a port of loopback: `host:port`."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(address):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def test_copies_to_and_from_a_registry(
    skerry: Cli, image: str, registry: str, tmp_path: Path
) -> None:
    skerry("copy", f"skerry:{image}", f"docker://{registry}/a/b:v1")
    archive = tmp_path / "a.tar"
    skerry("copy", f"docker://{registry}/a/b:v1", f"oci-archive:{archive}:name:v2")
    skerry("copy", f"oci-archive:{archive}:name:v2", f"docker://{registry}/c/d:v3")
    digests = {
        json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry}/{name}"))["Digest"]
        for name in ("a/b:v1", "c/d:v3")
    }
    assert len(digests) == 1
    skerry("copy", f"docker://{registry}/c/d:v3", "skerry:from-registry:v1")
    assert identity(skerry, "from-registry:v1") == identity(skerry, image)
    skerry("rmi", "from-registry:v1")
    missing = f"docker://{registry}/a/none:v1"
    said = skerry("copy", missing, f"oci-archive:{tmp_path / 'none'}", code=1, error=True)
    assert f"{registry}/a/none:v1: not found" in said
    assert not (tmp_path / "none").exists()
