"""Marks of disks that a machine writes to."""

import os

import pytest

from skerry.machine import orderly

DISK = "/disk"


@pytest.fixture(autouse=True)
def attributes(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A disk's extended attributes, which only root may set."""
    kept: dict[str, bytes] = {}

    def put(path: str, name: str, value: bytes, flags: int = 0) -> None:
        if flags & os.XATTR_CREATE and name in kept:
            raise FileExistsError
        kept[name] = value

    def get(path: str, name: str) -> bytes:
        if name not in kept:
            raise OSError
        return kept[name]

    def remove(path: str, name: str) -> None:
        get(path, name)
        del kept[name]

    monkeypatch.setattr(os, "setxattr", put)
    monkeypatch.setattr(os, "getxattr", get)
    monkeypatch.setattr(os, "removexattr", remove)
    return kept


def test_a_disk_that_was_closed_in_order_has_no_mark() -> None:
    assert not orderly.is_marked(DISK)
    orderly.mark(DISK)
    assert orderly.is_marked(DISK)
    orderly.close(DISK)
    assert not orderly.is_marked(DISK)
    orderly.close(DISK)


def test_an_orderly_end_hides_no_former_one_that_was_not() -> None:
    orderly.mark(DISK)
    orderly.mark(DISK)  # Killed, and nobody could check the disk.
    orderly.close(DISK)
    assert orderly.is_marked(DISK)
    orderly.mark(DISK)
    orderly.close(DISK)
    assert orderly.is_marked(DISK)
    orderly.clear(DISK)
    assert not orderly.is_marked(DISK)


def test_where_marks_cannot_be_kept_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    for name in ("setxattr", "getxattr", "removexattr"):
        monkeypatch.setattr(os, name, refuse)
    orderly.mark(DISK)
    orderly.close(DISK)
    orderly.clear(DISK)
    assert not orderly.is_marked(DISK)
