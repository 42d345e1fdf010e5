"""Other tools read our root as the OCI image layout that it is, and we read what they write."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skerry.base.oci_image import Descriptor
from skerry.store import Store, open_store, referrers
from skerry.trust import sbom

pytestmark = pytest.mark.root


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"needs {program}")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo(*arguments: str) -> str:
    return run("skopeo", "--insecure-policy", *arguments)


def listing(folder: Path) -> list[tuple[str, Any]]:
    """Every path with what distinguishes it."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        size = status.st_size if path.is_file() and not path.is_symlink() else 0
        found.append((str(path.relative_to(folder)), status.st_mode, status.st_uid, size))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with one image of two layers and two names."""
    if not shutil.which("busybox"):
        pytest.skip("needs busybox-static")
    with open_store(str(tmp_path_factory.mktemp("layout") / "root")) as opened:
        base = opened.bootstrap.busybox()
        overlay = opened.snapshots.prepare("c", base)
        Path(overlay.upper, "etc").mkdir()
        Path(overlay.upper, "etc/added").write_text("added")
        opened.images.commit(base, "c", {"Cmd": ["sh"], "Labels": {"a": "b"}}, tags=["team/app:v1"])
        opened.images.tag("team/app:v1", "localhost:5000/app:v2")
        yield opened


@pytest.mark.parametrize("name", ["busybox:latest", "team/app:v1", "localhost:5000/app:v2"])
def test_skopeo_inspects(store: Store, name: str) -> None:
    need("skopeo")
    about = json.loads(skopeo("inspect", f"oci:{store.root}:{name}"))
    image = store.images.get(name)
    assert about["Digest"] == image.manifest
    assert about["Layers"] == list(image.blobs)
    assert about["Os"] == "linux"
    config = json.loads(skopeo("inspect", "--config", f"oci:{store.root}:{name}"))
    assert config["rootfs"]["diff_ids"] == list(image.layers)


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "dir"])
def test_skopeo_copies_out_and_we_take_it_back(store: Store, tmp_path: Path, kind: str) -> None:
    need("skopeo")
    image = store.images.get("team/app:v1")
    target = tmp_path / "copy"
    name = "" if kind == "dir" else ":team/app:v1"
    skopeo("copy", f"oci:{store.root}:team/app:v1", f"{kind}:{target}{name}")
    if kind == "dir":
        assert (target / image.blobs[1][7:]).exists()
        return
    with open_store(str(tmp_path / "other")) as other:
        if kind == "oci":
            (loaded,) = other.images.import_layout(str(target))
        else:
            with target.open("rb") as file:
                (loaded,) = other.images.load(file)
        assert loaded.tags == ("team/app:v1",)
        assert loaded.layers == image.layers
        assert loaded.config["Labels"] == {"a": "b"}
        for diff_id in loaded.layers:
            assert listing(Path(other.layers.path(diff_id))) == listing(
                Path(store.layers.path(diff_id))
            )
        other.gc.collect()
        assert other.images.list() == [loaded]
        assert len(other.blobs.all()) == len(set(loaded.content()))


def test_umoci_lists_and_unpacks(store: Store, tmp_path: Path) -> None:
    need("umoci")
    listed = run("umoci", "ls", "--layout", store.root).split()
    assert sorted(listed) == ["busybox:latest", "localhost:5000/app:v2", "team/app:v1"]
    bundle = tmp_path / "bundle"
    run("umoci", "unpack", "--image", f"{store.root}:busybox:latest", str(bundle))
    (diff_id,) = store.images.get("busybox").layers
    ours = Path(store.layers.path(diff_id))
    assert listing(bundle / "rootfs") == listing(ours)
    stat = run("umoci", "stat", "--image", f"{store.root}:team/app:v1", "--json")
    assert len(json.loads(stat)["history"]) == 2


def test_the_layout_holds_after_removals(tmp_path: Path) -> None:
    need("skopeo")
    with open_store(str(tmp_path / "root")) as store:
        store.bootstrap.busybox(tag="one")
        store.images.tag("one", "two")
        store.images.remove("one")
        store.gc.collect()
        about = json.loads(skopeo("inspect", f"oci:{store.root}:two:latest"))
        assert about["Digest"] == store.images.get("two").manifest


def test_docker_takes_our_layout_and_we_take_dockers_archive(
    tmp_path: Path, request: pytest.FixtureRequest, store: Store
) -> None:
    """docker load reads what we save; what docker saves comes back."""
    need("skopeo", "docker", "dockerd")
    dockerd = request.getfixturevalue("dockerd")
    packed = tmp_path / "out.tar"
    packed.write_bytes(b"".join(store.images.save(["team/app:v1"])))
    about = json.loads(skopeo("inspect", f"oci-archive:{packed}"))
    assert about["Digest"] == store.images.get("team/app:v1").manifest
    docker = ["docker", "-H", dockerd.host]
    run(*docker, "load", "-i", str(packed))
    back = tmp_path / "back.tar"
    run(*docker, "save", "-o", str(back), "team/app:v1")
    with open_store(str(tmp_path / "other")) as other, back.open("rb") as file:
        (loaded,) = other.images.load(file)
        assert loaded.tags == ("team/app:v1",)
        assert loaded.layers == store.images.get("team/app:v1").layers


def test_referrers_are_in_nobodys_way(store: Store, tmp_path: Path) -> None:
    """Other tools find the images of a layout that holds more than images."""
    need("skopeo", "umoci")
    image = store.images.get("team/app:v1")
    subject = Descriptor(image.media_type, image.manifest, image.manifest_size)
    made = sbom.attachment(sbom.SPDX, b"{}", subject)
    digest = referrers.add(store.images, made.manifest, list(made.blobs))
    archive = tmp_path / "app.tar"
    with archive.open("wb") as file:
        file.writelines(store.images.save(["team/app:v1"], "oci-archive", referrers=True))
    about = json.loads(skopeo("inspect", f"oci-archive:{archive}:team/app:v1"))
    assert about["Digest"] == image.manifest
    layout = tmp_path / "layout"
    layout.mkdir()
    run("tar", "xf", str(archive), "-C", str(layout))
    assert run("umoci", "ls", "--layout", str(layout)).split() == ["team/app:v1"]
    run("umoci", "gc", "--layout", str(layout))
    assert (layout / "blobs/sha256" / digest[7:]).exists()
    skopeo("copy", f"oci:{layout}:team/app:v1", f"docker-archive:{tmp_path}/docker.tar:team/app:v1")
