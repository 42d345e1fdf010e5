"""Fixtures for all tests: root file systems, bundles, running engines, and the leak detector."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# `bench` holds the engines under comparison; the tests start them the same way.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import footprint, images
from bench.daemons import Dockerd, Skerry, remove_folder, short_folder

BundleFactory = Callable[..., Path]


_LONGEST_FIRST = ("kernel", "compat", "security", "unit")


def _area(item: pytest.Item) -> int:
    """Where the item's folder stands in the order of running; unknown ones come last."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that workers end together; skip what is marked `root` when we are not.

    The reason of a skip is shown by `-rs`.
    """
    items.sort(key=_area)
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: it makes namespaces, mounts and cgroups")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox-static with its applet links. Shared: do not write to it."""
    if not os.access(images.BUSYBOX, os.X_OK):
        pytest.skip("needs the Debian package busybox-static")
    return images.make_rootfs(tmp_path_factory.mktemp("busybox") / "rootfs")


@pytest.fixture(scope="session")
def busybox_tar(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tree as a tar file, for `docker import`."""
    target = tmp_path_factory.mktemp("busybox-tar") / "busybox.tar"
    target.write_bytes(images.tar_of(busybox_rootfs))
    return target


@pytest.fixture
def bundle(busybox_rootfs: Path, tmp_path: Path) -> BundleFactory:
    """Factory of OCI bundles: `bundle(["true"], change=edit_spec) -> folder`.

    Each bundle has its own copy of the root file system in `rootfs`, which a test may change.
    """
    made = 0

    def make(
        args: Sequence[str] = ("/bin/true",),
        change: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        nonlocal made
        made += 1
        folder = tmp_path / f"bundle{made}"
        folder.mkdir()
        rootfs = images.clone_rootfs(busybox_rootfs, folder / "rootfs")
        return images.make_bundle(folder, args, rootfs, change)

    return make


@pytest.fixture
def open_descriptors() -> Callable[[], int]:
    """Counts this process's descriptors, less those that only wait to be collected.

    Without that, an earlier test's forgotten socket goes in the middle of a later test.
    """

    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    return count


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short path, for unix sockets (108 bytes at most)."""
    folder = short_folder("st-")
    yield folder
    remove_folder(folder)


@pytest.fixture(scope="session")
def engine() -> Iterator[Skerry]:
    """Our engine in its own roots, with `busybox` in its store, for the whole session.

    `engine.socket`, `engine.host`, `engine.pid`, `engine.docker("ps")`, `engine.skerry("ps")`.
    It makes no spare machines: minutes after the tests of machines they would come and go beside
    tests that count what is left behind.
    """
    _need_root()
    with Skerry(settings={"vm-spares": 0}) as running:
        yield running


@pytest.fixture
def own_engine() -> Iterator[Skerry]:
    """An engine for one test, which may kill it and start it again."""
    _need_root()
    with Skerry() as running:
        yield running


@pytest.fixture(scope="session")
def dockerd(busybox_tar: Path) -> Iterator[Dockerd]:
    """Debian's dockerd in its own roots, with `busybox:latest` imported."""
    _need_root()
    if not os.access(Dockerd.program, os.X_OK):
        pytest.skip("needs the Debian package docker.io")
    with Dockerd(busybox=busybox_tar) as running:
        yield running


def _need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts an engine with containers")


@pytest.fixture(scope="module")
def no_leaks(engine: Skerry) -> Iterator[None]:
    """Fails the module when its containers leave mounts, cgroups, processes or run-time files."""
    engine.remove_containers()
    # The engine starts its spawner, its bridge and the network helper with the first container
    # that needs them and keeps them.
    engine.docker("run", "--rm", *footprint.FIRST, "busybox", "true")
    before = footprint.take(engine.folders, [engine.run_root])
    yield
    engine.remove_containers()
    left = footprint.settle(before, engine.folders, [engine.run_root])
    assert not left, "left behind:\n" + "\n".join(left)
