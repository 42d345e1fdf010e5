"""Cache mounts: made once, whole, however many steps want them at the same time."""

import asyncio
import io
import os
import threading
from pathlib import Path

import pytest

from skerry.base.errors import InvalidInput, NotFound
from skerry.build.cache_mounts import CacheMounts
from skerry.store import open_store

OWNER = (os.geteuid(), os.getegid())


async def test_steps_side_by_side_make_one_mount_and_see_it_filled(tmp_path: Path) -> None:
    filled: list[str] = []
    together = threading.Event()

    def fill(path: str) -> None:
        filled.append(path)
        together.wait(0.05)
        Path(path, "file").write_text("whole")

    with open_store(str(tmp_path)) as store:
        mounts = CacheMounts(store, str(tmp_path))

        async def one() -> str:
            async with mounts.hold("x", "shared", 0o755, OWNER, fill) as path:
                return Path(path, "file").read_text()

        assert await asyncio.gather(*(one() for _ in range(8))) == ["whole"] * 8
        assert len(filled) == 1
        assert mounts.find("x").uses == 8


async def test_a_mount_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(path: str) -> None:
        Path(path, "half").write_text("")
        raise ValueError

    with open_store(str(tmp_path)) as store:
        mounts = CacheMounts(store, str(tmp_path))
        for _ in range(2):
            with pytest.raises(ValueError):
                async with mounts.hold("x", "shared", 0o755, OWNER, fail):
                    pass
        async with mounts.hold("x", "shared", 0o700, OWNER) as path:
            assert os.listdir(path) == []
            assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_bad_archive_leaves_no_mount(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        mounts = CacheMounts(store, str(tmp_path))
        with pytest.raises(InvalidInput):
            mounts.take_in("x", io.BytesIO(b"junk"))
        with pytest.raises(NotFound):
            mounts.find("x")
        mounts.take_in("x", io.BytesIO(bytes(1024)))
        with pytest.raises(InvalidInput):
            mounts.take_in("x", io.BytesIO(b"junk"))
        assert mounts.find("x")
