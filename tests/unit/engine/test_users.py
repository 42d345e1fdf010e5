"""Users and groups out of hostile passwd and group files."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.engine.users import User, parse_group, parse_passwd, reader, resolve

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbin:x:1:1::/bin\n# c:x:5:5\nweb:x:33:44:w:/srv:/bin/sh\n"
GROUP = b"root:x:0:\nwheel:x:10:root,web\nextra:x:20:\nbroken\n"


def read(path: str) -> bytes:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}.get(path, b"")


@pytest.mark.parametrize(
    ("wanted", "extra", "expected"),
    [
        ("", (), User(0, 0, (0, 10), "/root")),
        ("root", (), User(0, 0, (0, 10), "/root")),
        ("web", (), User(33, 44, (44, 10), "/srv")),
        ("33", (), User(33, 44, (44, 10), "/srv")),
        ("web:extra", (), User(33, 20, (20,), "/srv")),
        ("web:7", ("extra", "9"), User(33, 7, (7, 20, 9), "/srv")),
        ("1000", (), User(1000, 0, (0,), "/")),
        ("1000:1001", (), User(1000, 1001, (1001,), "/")),
        (":extra", (), User(0, 20, (20,), "/root")),
    ],
)
def test_docker_rules(wanted: str, extra: tuple[str, ...], expected: User) -> None:
    assert resolve(wanted, extra, read) == expected


@pytest.mark.parametrize("wanted", ["nobody", "root:nothing", "99999999999", "4294967290"])
def test_unknown_names_and_ids_out_of_range(wanted: str) -> None:
    with pytest.raises(InvalidInput):
        resolve(wanted, (), read)


def test_no_files_at_all() -> None:
    assert resolve("", (), lambda path: b"") == User(0, 0, (0,), "/")


@given(st.binary(max_size=500), st.binary(max_size=500), st.text(max_size=20))
def test_any_bytes(passwd: bytes, group: bytes, wanted: str) -> None:
    files = {"/etc/passwd": passwd, "/etc/group": group}
    try:
        user = resolve(wanted, (), lambda path: files[path])
    except SkerryError:
        return
    assert 0 <= user.uid <= 2**32 - 2
    assert user.gid in user.groups
    assert user.home.startswith("/")


@given(st.binary(max_size=2000))
def test_parsers_take_any_bytes(data: bytes) -> None:
    assert all(entry.uid >= 0 and entry.gid >= 0 for entry in parse_passwd(data))
    assert all(entry.gid >= 0 for entry in parse_group(data))


def test_a_fifo_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    assert reader(lambda _: os.open(tmp_path / "passwd", os.O_RDONLY | os.O_NONBLOCK))("x") == b""
