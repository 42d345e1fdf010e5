"""Layers, snapshots and commits under real overlay mounts."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skerry.base.errors import Conflict, NotFound, SystemFault
from skerry.base.isolation import Overlay
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)
from skerry.kernel import mounts
from skerry.store import Store, open_store
from skerry.store.changes import ADDED, DELETED, MODIFIED, MOUNT_POINTS, Change
from skerry.store.image import Image

pytestmark = pytest.mark.root

Spec = dict[str, bytes | str | tuple[bytes, dict[str, object]] | None]
"""Path to content: a string is a link's target, None a folder, a tuple type and TarInfo fields."""


def layer(spec: Spec) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in spec.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None else 0o644
            data = b""
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif isinstance(content, bytes):
                data, info.size = content, len(content)
            else:
                info.type = content[0]
                for key, value in content[1].items():
                    setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add_image(store: Store, tag: str, *specs: Spec) -> Image:
    with store.leases.hold():
        packed = [layer(spec) for spec in specs]
        descriptors = [Descriptor(OCI_LAYER, store.blobs.put(data), len(data)) for data in packed]
        config = encode(
            ImageConfig("amd64", "linux", RootFS("layers", [each.digest for each in descriptors]))
        )
        about = Descriptor(OCI_CONFIG, store.blobs.put(config), len(config))
        return store.images.add(encode(Manifest(2, about, descriptors, OCI_MANIFEST)), tags=[tag])


@contextmanager
def mounted(overlay: Overlay, target: Path) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    mounts.mount_overlay(overlay, str(target))
    try:
        yield target
    finally:
        mounts.umount(str(target))


def tree(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_dir():
            found[name] = "/"
        else:
            found[name] = path.read_bytes().decode() if path.is_file() else "special"
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def container(store: Store, tmp_path: Path) -> Callable[[str, str], object]:
    """`with container(id, image) as folder`: a container's root, mounted."""

    def run(id_: str, image: str) -> object:
        image_id = store.images.get(image).id if image else None
        return mounted(store.snapshots.prepare(id_, image_id), tmp_path / f"mnt-{id_}")

    return run


def test_whiteouts_hide_what_is_below(store: Store, container: Callable) -> None:
    add_image(
        store,
        "t",
        {"a": b"a", "d": None, "d/x": b"x", "d/y": b"y", "e": None, "e/f": b"f", "g": b"g"},
        {".wh.a": b"", "d/.wh..wh..opq": b"", "d/z": b"z", ".wh.e": b"", "e": None, "e/new": b"n"},
        {"e/.wh.new": b"", "e/last": b"l", ".wh.g": b"", "g": b"again"},
    )
    with container("c", "t") as root:
        assert tree(root) == {
            "d": "/",
            "d/z": "z",
            "e": "/",
            "e/last": "l",
            "g": "again",
        }


def test_a_whiteout_before_a_file_below_it(store: Store, container: Callable) -> None:
    add_image(store, "t", {"d": None, "d/old": b"o"}, {".wh.d": b"", "d/new/er": b"n"})
    with container("c", "t") as root:
        assert tree(root) == {"d": "/", "d/new": "/", "d/new/er": "n"}


def test_whiteouts_of_nothing_and_foreign_marks(store: Store, container: Callable) -> None:
    add_image(
        store,
        "t",
        {"a": b"a"},
        {".wh.none": b"", ".wh..wh.plnk": b"", "x": None},
    )
    with container("c", "t") as root:
        assert tree(root) == {"a": "a", "x": "/"}


def test_devices_owners_and_capabilities(store: Store, container: Callable) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    add_image(
        store,
        "t",
        {
            "null": (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3, "mode": 0o666, "gid": 5}),
            "disk": (tarfile.BLKTYPE, {"devmajor": 8, "devminor": 17, "mode": 0o640}),
            "owned": (
                tarfile.REGTYPE,
                {
                    "uid": 1234,
                    "gid": 4321,
                    "mode": 0o6755,
                    "pax_headers": {
                        "SCHILY.xattr.security.capability": capability.decode("latin-1")
                    },
                },
            ),
        },
    )
    with container("c", "t") as root:
        null, disk, owned = (os.lstat(root / name) for name in ("null", "disk", "owned"))
        assert stat.S_ISCHR(null.st_mode)
        assert null.st_rdev == os.makedev(1, 3)
        assert (stat.S_IMODE(null.st_mode), null.st_gid) == (0o666, 5)
        assert stat.S_ISBLK(disk.st_mode)
        assert disk.st_rdev == os.makedev(8, 17)
        assert (owned.st_uid, owned.st_gid) == (1234, 4321)
        assert stat.S_IMODE(owned.st_mode) == 0o6755
        assert os.getxattr(root / "owned", "security.capability")[3] == 2


def test_the_root_folder_keeps_its_mode(store: Store, container: Callable) -> None:
    add_image(store, "t", {"./": (tarfile.DIRTYPE, {"mode": 0o1711, "uid": 7}), "a": b""})
    with container("c", "t") as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o1711
        assert root.stat().st_uid == 7


def test_the_empty_image(store: Store, container: Callable) -> None:
    with container("c", "") as root:
        (root / "f").write_text("x")
        assert tree(root) == {"f": "x"}
    assert [(c.kind, c.path) for c in store.snapshots.changes("c")] == [(ADDED, "/f")]
    image = store.images.commit(None, "c", {"Cmd": ["f"]}, tags=["made"])
    assert len(image.layers) == 1
    with container("d", "made") as root:
        assert tree(root) == {"f": "x"}


def test_the_same_layer_twice(store: Store, container: Callable) -> None:
    add_image(store, "t", {"a": b"1"}, {".wh.a": b""}, {"a": b"1"})
    with container("c", "t") as root:
        assert tree(root) == {"a": "1"}


BASE: Spec = {
    "bin": None,
    "bin/sh": b"#!",
    "etc": None,
    "etc/conf": b"old",
    "etc/keep": b"k",
    "etc/gone": b"g",
    "lib": None,
    "lib/a": b"a",
    "lib/b": b"b",
    "lib/sub": None,
    "lib/sub/c": b"c",
    "link": "etc/conf",
    "same": None,
}


def change(root: Path) -> None:
    (root / "etc/conf").write_text("new")
    (root / "etc/gone").unlink()
    (root / "new").mkdir()
    (root / "new/file").write_text("n")
    os.link(root / "new/file", root / "new/hard")
    os.mkfifo(root / "new/fifo")
    os.setxattr(root / "new/file", "user.note", b"x")
    for name in ("lib/sub/c", "lib/a", "lib/b"):
        (root / name).unlink()
    (root / "lib/sub").rmdir()
    (root / "lib").rmdir()
    (root / "lib").mkdir()
    (root / "lib/a").write_text("a2")
    (root / "lib/z").write_text("z")
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "bin/sh").unlink()
    (root / "bin").rmdir()
    (root / "bin").symlink_to("new")


def test_changes_are_dockers_diff(store: Store, container: Callable) -> None:
    add_image(store, "t", BASE, {"etc/.wh.keep": b"", "etc/more": b"m"})
    with container("c", "t") as root:
        assert store.snapshots.changes("c") == []
        change(root)
        found = [(each.kind, each.path) for each in store.snapshots.changes("c")]
    assert found == [
        (MODIFIED, "/bin"),
        (MODIFIED, "/etc"),
        (MODIFIED, "/etc/conf"),
        (DELETED, "/etc/gone"),
        (MODIFIED, "/lib"),
        (MODIFIED, "/lib/a"),
        (DELETED, "/lib/b"),
        (DELETED, "/lib/sub"),
        (ADDED, "/lib/z"),
        (MODIFIED, "/link"),
        (ADDED, "/new"),
        (ADDED, "/new/fifo"),
        (ADDED, "/new/file"),
        (ADDED, "/new/hard"),
    ]
    assert store.snapshots.usage("c") >= 6


def test_mount_points_are_no_changes(store: Store, container: Callable) -> None:
    add_image(store, "t", BASE)
    with container("c", "t") as root:
        (root / "etc/hosts").touch()
        (root / "proc").mkdir()
        (root / "dev/pts").mkdir(parents=True)
        (root / "mnt").mkdir()
        assert store.snapshots.changes("c") == [Change(ADDED, "/mnt")]
        assert store.snapshots.changes("c", ignore=MOUNT_POINTS | {"/mnt"}) == []
        (root / "etc/mine").touch()
        found = [(each.kind, each.path) for each in store.snapshots.changes("c")]
    assert found == [(MODIFIED, "/etc"), (ADDED, "/etc/mine"), (ADDED, "/mnt")]
    image = store.images.commit(store.images.get("t").id, "c", {}, ignore=MOUNT_POINTS | {"/mnt"})
    top = Path(store.layers.path(image.layers[-1]))
    assert tree(top) == {"etc": "/", "etc/mine": ""}


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_commit_has_the_tree_that_was_seen(
    store: Store, container: Callable, compression: str
) -> None:
    base = add_image(store, "t", BASE)
    with container("c", "t") as root:
        change(root)
        seen = tree(root)
    image = store.images.commit(
        base.id,
        "c",
        {"Cmd": ["x"], "Env": ["A=b"]},
        tags=["made:1"],
        author="me",
        comment="why",
        created_by="sh -c change",
        created=1_700_000_000,
        compression=compression,
    )
    assert image.parent == base.id
    assert image.tags == ("made:1",)
    assert image.config == {"Cmd": ["x"], "Env": ["A=b"]}
    assert (image.author, image.comment, image.created) == ("me", "why", "2023-11-14T22:13:20Z")
    with container("d", "made:1") as root:
        assert tree(root) == seen
        assert (root / "new/file").stat().st_nlink == 2
        assert os.getxattr(root / "new/file", "user.note") == b"x"
        assert (root / "lib").is_dir()
        assert not (root / "lib/b").exists()
    lines = store.images.history(image)
    assert (lines[0].id, lines[0].created_by, lines[0].comment) == (image.id, "sh -c change", "why")
    again = store.images.commit(
        base.id,
        "c",
        {"Cmd": ["x"], "Env": ["A=b"]},
        author="me",
        comment="why",
        created_by="sh -c change",
        created=1_700_000_000,
        compression=compression,
    )
    assert again.id == image.id


def test_a_tree_too_deep_for_any_path(store: Store, container: Callable) -> None:
    add_image(store, "t", BASE)
    depth = 2100
    with container("c", "t") as root:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        assert len(store.snapshots.changes("c")) == depth
    before = store.gc.usage().total
    store.snapshots.remove("c")
    freed = store.gc.empty_trash()
    assert freed >= depth * 4096
    assert store.gc.usage().total == before - freed


def test_snapshots_come_and_go(store: Store) -> None:
    image = add_image(store, "t", BASE)
    overlay = store.snapshots.prepare("c", image.id)
    assert store.snapshots.overlay("c") == overlay
    assert store.snapshots.image("c") == image.id
    assert store.snapshots.list() == ["c"]
    with pytest.raises(Conflict):
        store.snapshots.prepare("c", image.id)
    store.snapshots.remove("c")
    store.snapshots.remove("c")
    assert store.snapshots.list() == []
    with pytest.raises(NotFound):
        store.snapshots.overlay("c")
    with pytest.raises(NotFound):
        store.snapshots.prepare("c", "sha256:" + "0" * 64)
    assert store.snapshots.list() == []


def test_an_image_removed_by_force_still_mounts(store: Store, container: Callable) -> None:
    image = add_image(store, "t", BASE)
    store.snapshots.prepare("c", image.id)
    store.images.remove("t", force=True, in_use={image.id: [("c", False)]})
    assert store.images.list() == []
    store.gc.collect()
    with mounted(store.snapshots.overlay("c"), Path(store.root) / "mnt") as root:
        assert (root / "etc/keep").read_text() == "k"
    store.snapshots.remove("c")
    store.gc.collect()
    assert store.layers.all() == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounts.mount("tmpfs", str(small), "tmpfs", 0, "size=6m")
    try:
        with open_store(str(small / "root")) as store:
            kept = add_image(store, "kept", {"f": b"x" * 1000})
            with pytest.raises(SystemFault, match=r"'big1': No space left"):
                add_image(store, "t", {"big0": b"0" * 1_000_000, "big1": b"1" * 2_500_000})
            with pytest.raises(SystemFault, match="store a blob: No space left"):
                store.blobs.put(bytes(10_000_000))
            store.gc.collect()
            assert store.images.list() == [kept]
            assert store.layers.all() == list(kept.layers)
            assert sorted(store.blobs.all()) == sorted(kept.content())
            assert os.listdir(store.scratch.tmp) == []
    finally:
        mounts.umount(str(small))
