"""Opening beneath a root whose links lie; sealed memory; descriptors over sockets."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.base.errors import KernelFault, SystemFault
from skerry.kernel import descriptors as d


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root with links that lead out, round, up and nowhere."""
    (tmp_path / "outside").write_text("secret")
    inside = tmp_path / "root"
    (inside / "dir").mkdir(parents=True)
    (inside / "outside").write_text("own")
    (inside / "up").symlink_to("../outside")
    (inside / "absolute").symlink_to("/outside")
    (inside / "loop").symlink_to("loop")
    (inside / "dangling").symlink_to("/nowhere/at/all")
    (inside / "todir").symlink_to("/dir")
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["up", "absolute", "/up", "dir/../../../outside", "/../outside"])
def test_nothing_leads_out(root: int, path: str) -> None:
    assert read(d.open_in_root(root, path, os.O_RDONLY)) == b"own"


@pytest.mark.parametrize(("path", "number"), [("loop", errno.ELOOP), ("dangling", errno.ENOENT)])
def test_errors_keep_their_number(root: int, path: str, number: int) -> None:
    with pytest.raises(KernelFault) as caught:
        d.open_in_root(root, path, os.O_RDONLY)
    assert caught.value.errno == number
    assert path in caught.value.message


def test_magic_links_are_refused(tmp_path: Path) -> None:
    host = os.open("/", os.O_PATH)
    try:
        with pytest.raises(KernelFault) as caught:
            d.open_in_root(host, f"/proc/self/fd/{host}", os.O_PATH)
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(host)


def test_folders_and_files_are_made_inside(root: int, tmp_path: Path) -> None:
    os.close(d.make_directories(root, "/todir/a/../b"))
    assert (tmp_path / "root/dir/b").is_dir()
    os.close(d.make_file(root, "new/deep/file"))
    assert (tmp_path / "root/new/deep/file").read_bytes() == b""
    os.close(d.make_file(root, "outside"))
    assert (tmp_path / "root/outside").read_text() == "own"


@pytest.mark.parametrize("path", ["dangling", "dangling/below", "loop/x"])
def test_nothing_is_made_through_dangling_links(root: int, tmp_path: Path, path: str) -> None:
    for make in (d.make_directories, d.make_file):
        with pytest.raises(KernelFault):
            make(root, path)
    assert not (tmp_path / "root/nowhere").exists()


def test_sealed_memory_cannot_be_changed() -> None:
    fd = d.memfd_sealed("x", b"data")
    try:
        assert os.read(fd, 10) == b"data"
        with pytest.raises(PermissionError):
            os.write(fd, b"y")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_descriptors_over_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        read_end, write_end = os.pipe()
        d.send_fds(here, b"m", [write_end])
        os.close(write_end)
        data, fds = d.recv_fds(there, 10, 1)
        assert data == b"m"
        assert not os.get_inheritable(fds[0])
        os.write(fds[0], b"through")
        os.close(fds[0])
        assert read(read_end) == b"through"


def test_a_message_cut_short_is_refused() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        d.send_fds(here, b"long message", [0])
        with pytest.raises(SystemFault):
            d.recv_fds(there, 4, 1)


def test_device_numbers() -> None:
    for path, number in (("/dev/null", (1, 3)), ("/etc/passwd", None)):
        fd = os.open(path, os.O_PATH)
        try:
            assert d.device_number(fd) == number
        finally:
            os.close(fd)


def test_a_pipe_is_read_to_its_end_or_for_a_time() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first")
    assert d.read_within(reading, 0.05) == b"first"
    os.write(writing, b"last")
    os.close(writing)
    assert d.read_within(reading, 120) == b"last"
    os.close(reading)
