"""docker cp and export: archives out of and into a tree that is not to be left."""

import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import InvalidInput, NotFound, SkerryError
from skerry.store.archive import extract_tar, tar_stream
from skerry.store.tar_reader import Limits

Make = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small container root beside a secret."""
    (tmp_path / "secret").write_text("untouched")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/conf").write_text("content")
    os.link(root / "etc/conf", root / "etc/same")
    (root / "etc/link").symlink_to("/etc/conf")
    (root / "out").symlink_to("../../../../../..")
    (root / "abs").symlink_to(tmp_path)
    (root / "etcl").symlink_to("etc")
    os.mkfifo(root / "fifo")
    os.chmod(root / "etc", 0o1775)
    return root


@pytest.fixture
def fd(root: Path) -> Iterator[int]:
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def names(stream: Iterator[bytes]) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        return {info.name: info for info in tar.getmembers()}


def test_a_folder_is_named_by_its_last_component(fd: int) -> None:
    found = names(tar_stream(fd, "/etc"))
    assert sorted(found) == ["etc", "etc/conf", "etc/link", "etc/same"]
    assert found["etc"].mode == 0o1775
    assert found["etc/link"].linkname == "/etc/conf"
    assert found["etc/same"].islnk()
    assert found["etc/same"].linkname == "etc/conf"
    assert sorted(names(tar_stream(fd, "/etc/."))) == [".", "./conf", "./link", "./same"]
    assert sorted(names(tar_stream(fd, "etc", name="new")))[:2] == ["new", "new/conf"]


def test_single_files_and_links(fd: int) -> None:
    assert list(names(tar_stream(fd, "/etc/conf"))) == ["conf"]
    assert names(tar_stream(fd, "/etc/link"))["link"].issym()
    assert names(tar_stream(fd, "/fifo"))["fifo"].isfifo()
    assert list(names(tar_stream(fd, "/etcl/conf", name="x"))) == ["x"]
    assert sorted(names(tar_stream(fd, "/etcl/")))[0] in ("etcl", ".")


def test_a_whole_root(fd: int) -> None:
    assert sorted(names(tar_stream(fd)))[:4] == [".", "./abs", "./etc", "./etc/conf"]


@pytest.mark.parametrize(
    "path", ["/none", "/etc/none", "/etc/conf/x", "/out/secret", "/abs/secret"]
)
def test_not_found(fd: int, path: str) -> None:
    with pytest.raises(NotFound, match="no such path"):
        tar_stream(fd, path)


def test_what_goes_in_comes_out(fd: int, root: Path, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(
        make_member("a/b", b"data", mode=0o640, mtime=5), make_member(".wh.kept", b"a name")
    )
    extract_tar(io.BytesIO(packed), fd, "/etcl")
    assert (root / "etc/a/b").read_bytes() == b"data"
    assert (root / "etc/.wh.kept").read_bytes() == b"a name"
    out = b"".join(tar_stream(fd, "/etc/a"))
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        info = tar.getmember("a/b")
        assert (info.mode, info.mtime, info.size) == (0o640, 5, 4)


@pytest.mark.parametrize("name", ["out/secret", "abs/secret", "abs/new"])
def test_links_in_the_root_do_not_lead_out(
    fd: int, root: Path, make_archive: Make, make_member: Make, name: str
) -> None:
    before = sorted(os.listdir(root.parent))
    try:
        extract_tar(io.BytesIO(make_archive(make_member(name, b"mine"))), fd)
    except InvalidInput as error:
        assert name in error.message
    else:
        assert (root / "secret").read_bytes() == b"mine"
    assert (root.parent / "secret").read_text() == "untouched"
    assert sorted(os.listdir(root.parent)) == before


def test_extraction_points(fd: int, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(make_member("x", b""))
    with pytest.raises(NotFound):
        extract_tar(io.BytesIO(packed), fd, "/none")
    with pytest.raises(InvalidInput, match="extraction point is not a directory"):
        extract_tar(io.BytesIO(packed), fd, "/etc/conf")
    with pytest.raises(InvalidInput, match="cannot overwrite"):
        extract_tar(
            io.BytesIO(make_archive(make_member("etc", b""))), fd, no_overwrite_dir_non_dir=True
        )
    with pytest.raises(InvalidInput, match="archive"):
        extract_tar(io.BytesIO(b"no tar at all" * 100), fd)


def test_limits(fd: int, make_archive: Make, make_member: Make) -> None:
    packed = make_archive(make_member("x", bytes(100_000)))
    with pytest.raises(SkerryError, match="more than 50000 bytes"):
        extract_tar(io.BytesIO(packed), fd, limits=Limits(size=50_000))


def flip(root: Path, stop: threading.Event) -> None:
    """Swap the folder `flip` for a link out of the root and back, as long as it takes."""
    while not stop.is_set():
        try:
            os.rename(root / "flip", root / "aside")
            os.symlink(root.parent, root / "flip")
            os.unlink(root / "flip")
            os.rename(root / "aside", root / "flip")
        except OSError:
            # The unpacking side made a folder of that name in between.
            shutil.rmtree(root / "aside", ignore_errors=True)


def test_a_tree_that_changes_while_it_is_read(fd: int, root: Path) -> None:
    """Somebody swaps a folder for a link to the secret all the time; it is never read."""
    (root / "flip").mkdir()
    (root / "flip/secret").write_text("inside")
    stop = threading.Event()

    thread = threading.Thread(target=flip, args=(root, stop))
    thread.start()
    try:
        for _ in range(150):
            try:
                data = b"".join(tar_stream(fd, "/"))
            except SkerryError:
                continue
            assert b"untouched" not in data
    finally:
        stop.set()
        thread.join()


def test_a_tree_that_changes_while_it_is_written(
    fd: int, root: Path, make_archive: Make, make_member: Make
) -> None:
    (root / "flip").mkdir()
    stop = threading.Event()

    thread = threading.Thread(target=flip, args=(root, stop))
    thread.start()
    packed = make_archive(make_member("flip/secret", b"mine"), make_member("flip/new", b"mine"))
    try:
        for _ in range(150):
            try:
                extract_tar(io.BytesIO(packed), fd)
            except SkerryError:
                continue
    finally:
        stop.set()
        thread.join()
    assert (root.parent / "secret").read_text() == "untouched"
    assert sorted(os.listdir(root.parent)) == ["root", "secret"]


@pytest.mark.parametrize("room", [1, 1 << 60])
def test_a_large_file_is_replaced(
    fd: int, root: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Its room is freed aside, unless the new one may need it at once."""
    large = root / "etc/large"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    os.link(large, root / "etc/other")
    monkeypatch.setattr("skerry.store.extract.free", lambda _fd: (room, 1 << 60))
    started: list[threading.Thread] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda one: (started.append(one), start(one)))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("large")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"new"))
    extract_tar(io.BytesIO(archive.getvalue()), fd, "/etc")
    for one in started:
        one.join()
    assert len(started) == (room > 1)
    assert large.read_bytes() == b"new"
    assert (root / "etc/other").stat().st_size == 17 << 20
